"""`lila-cues models`: the networks there are, and which of them are here.

`lila-cues plan`: what a build will take, before anything is written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from lila_cues import config
from lila_cues.cli import build as o
from lila_cues.config import Profile
from lila_cues.console import out
from lila_cues.networks import registry
from lila_cues.networks.registry import Entry

if TYPE_CHECKING:
    from lila_cues.config import Order
    from stores.spec import StoreSpec


def models() -> None:
    """List networks and profiles: source, size, licence, and whether the weights are on this machine."""
    out.print(f"[bold]{row('', 'name', 'MB', 'licence', 'here', 'weights, revision')}[/]")
    for network in registry.ENTRIES:
        out.print(network_row(network))
    out.print("\nAny other plain ViT of timm is an encoder by its timm name; NAME@REVISION takes one of the hub.")
    out.print("Depth may also be read from files: --depth files:DIR (16-bit PNG in mm, DIR/CLIP/FRAME.png).\n")
    for profile in config.PROFILES.values():
        out.print(f"[bold]--profile {profile.name}[/]: {profile.about}\n  {described(profile)}")


def network_row(network: Entry) -> str:
    """One network in one line; a licence against commercial use stands out."""
    size = f"{network.megabytes:,.0f}" if network.megabytes else "–"
    here = "yes" if network.is_available() else "no"
    line = row(network.kind, network.name, size, network.licence, here, network.origin())
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


Rate = Annotated[
    float,
    typer.Option(
        rich_help_panel=o.RUN,
        help="Frames per second that one device takes through all networks; the summary of a short build tells yours.",
    ),
]
_RATE = 50.0
_USUAL_PATCH, _TINY_PATCH = 14, 8


def plan(
    dataset: o.Dataset,
    root: o.Root = None,
    store: o.StorePath = None,
    limit: o.Limit = None,
    profile: o.ProfileName = None,
    encoder: o.Encoder = None,
    extra_cues: o.ExtraCues = None,
    device: o.Device = "auto",
    rate: Rate = _RATE,
) -> None:
    """Print frames, bytes, files, memory, hours and free disk of a build; exit status 2 if it cannot fit."""
    from lila_cues.cli.messages import plan_lines
    from lila_cues.config import Order
    from lila_cues.console import out
    from stores.ledger import ABSENT
    from stores.plan import plan as make_plan
    from stores.plan import require_room

    order = Order.of(locals())
    n_clips, spec, done = len(order.clips(order.source())), planned_spec(order), 0.0
    if order.path.exists():
        import stores

        found = stores.open(order.path)
        n_clips, spec, done = found.n_clips, found.spec, float((found.statuses() != ABSENT).mean())
    wanted = make_plan(spec, n_clips, rate)
    free = require_room(wanted, order.path, done)
    out.print(f"[bold]{order.path}[/]" + (f", {done:.0%} of it done" if done else ""))
    for line in plan_lines(wanted, rate, free):
        out.print(line)


def planned_spec(order: Order) -> StoreSpec:
    """The spec that the order's profile makes; its encoder's patch is read from the name, as no network is loaded."""
    from lila_cues import config
    from lila_cues.pipeline.cues import maps_of, parse
    from lila_cues.pipeline.setup import sizes
    from stores.spec import StoreSpec

    chosen = config.profile(order.profile or _default_profile(order))
    found = sizes(chosen, patch_of(order.encoder or chosen.encoder))
    return StoreSpec(found, extra=maps_of(parse(order.extra_cues)))


def _default_profile(order: Order) -> str:
    from lila_cues import config
    from lila_cues.pipeline.setup import choose_device

    return config.default(order.dataset, choose_device(order.device))


def patch_of(encoder: str) -> int:
    """14 for `dinov2_vits14`, 16 for `vit_tiny_patch16_224`, the package's own 8, 14 where the name tells nothing."""
    if encoder == "tiny":
        return _TINY_PATCH
    found = re.search(r"patch(\d+)", encoder) or re.search(r"[a-z](\d\d?)(?:_reg\d?)?$", encoder)
    return int(found[1]) if found else _USUAL_PATCH
