"""`lila-cues models`: the networks there are, and which of them are here."""

from __future__ import annotations

from rich.table import Table

from lila_cues import profiles
from lila_cues.networks import catalog
from lila_cues.profiles import Profile
from stores.console import out


WIDTH = 120
"""Columns that the table may take even where the terminal or a pipe has fewer; a name that is cut is of no use."""


def models() -> None:
    """List networks and profiles: source, size, licence, and whether the weights are on this machine."""
    out.print(networks_table(), width=max(WIDTH, out.width), crop=False)
    out.print("\nAny other plain ViT of timm is an encoder by its timm name; NAME@REVISION takes one of the hub.")
    out.print("Depth may also be read from files: --depth files:DIR (16-bit PNG in mm, DIR/CLIP/FRAME.png).\n")
    out.print("[bold]Profiles[/]")
    for profile in profiles.PROFILES.values():
        out.print(f" [cyan]{profile.name}[/]: {profile.about}\n   {described(profile)}")


def networks_table() -> Table:
    """One row per network."""
    table = Table(title="Networks", title_justify="left", title_style="bold", box=None)
    for heading in ("", "name", "MB", "licence", "here", "weights", "revision"):
        table.add_column(heading, justify="right" if heading == "MB" else "left", no_wrap=True)
    for network in catalog.ENTRIES:
        size = f"{network.megabytes:,.0f}" if network.megabytes else "–"
        licence = f"[yellow]{network.licence}[/]" if network.non_commercial else network.licence
        here = "[green]yes[/]" if network.present() else "no"
        table.add_row(network.kind, network.name, size, licence, here, network.source(), network.revision())
    return table


def described(profile: Profile) -> str:
    """Networks and sizes of a profile in one line."""
    flow = profile.flow if profile.flow_updates is None else f"{profile.flow} ({profile.flow_updates} updates)"
    return (
        f"{profile.encoder}, {profile.depth}, {flow}; RGB {profile.base_size}², depth and flow {profile.cue_size}², "
        f"{profile.channels} channels at {profile.feature_size}²; {profile.frames} frames, {profile.pairs} pairs a clip"
    )
