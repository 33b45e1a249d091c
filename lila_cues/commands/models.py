"""`lila-cues models`: the networks there are, and which of them are here."""

from __future__ import annotations

from lila_cues import profiles
from lila_cues.networks import catalog
from lila_cues.networks.catalog import Entry
from lila_cues.profiles import Profile
from stores.console import out


def models() -> None:
    """List networks and profiles: source, size, licence, and whether the weights are on this machine."""
    out.print(f"[bold]{row('', 'name', 'MB', 'licence', 'here', 'weights, revision')}[/]")
    for network in catalog.ENTRIES:
        out.print(network_row(network))
    out.print("\nAny other plain ViT of timm is an encoder by its timm name; NAME@REVISION takes one of the hub.")
    out.print("Depth may also be read from files: --depth files:DIR (16-bit PNG in mm, DIR/CLIP/FRAME.png).\n")
    for profile in profiles.PROFILES.values():
        out.print(f"[bold]--profile {profile.name}[/]: {profile.about}\n  {described(profile)}")


def network_row(network: Entry) -> str:
    """One network in one line; a licence against commercial use stands out."""
    size = f"{network.megabytes:,.0f}" if network.megabytes else "–"
    place = " at ".join(part for part in (network.place_in_words(), network.revision()) if part)
    line = row(network.kind, network.name, size, network.licence, "yes" if network.present() else "no", place)
    return f"[yellow]{line}[/]" if network.non_commercial else line


def row(kind: str, name: str, megabytes: str, licence: str, here: str, place: str) -> str:
    """In columns of fixed width: no terminal is too narrow for a whole name."""
    return f"{kind:<8} {name:<24} {megabytes:>7}  {licence:<15} {here:<5} {place}"


def described(profile: Profile) -> str:
    """Networks and sizes of a profile."""
    flow = profile.flow if profile.flow_updates is None else f"{profile.flow} ({profile.flow_updates} updates)"
    return (
        f"{profile.encoder}, {profile.depth}, {flow}; RGB {profile.base_size}², depth and flow {profile.cue_size}², "
        f"{profile.channels} channels at {profile.feature_size}²;\n"
        f"  {profile.frames} frames and {profile.pairs} pairs of a clip, 1 to {profile.max_gap} frames apart"
    )
