"""`lila-cues plan`: what a build will take, before anything is written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from lila_cues.commands import options as o

if TYPE_CHECKING:
    from lila_cues.order import Order
    from stores.spec import StoreSpec

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
    from lila_cues.commands.store_words import plan_lines
    from lila_cues.order import Order
    from stores.console import out
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
    from lila_cues import profiles
    from lila_cues.pipeline.derived import maps_of, parse
    from lila_cues.pipeline.prepare import sizes
    from stores.spec import StoreSpec

    chosen = profiles.profile(order.profile or _default_profile(order))
    found = sizes(chosen, patch_of(order.encoder or chosen.encoder))
    return StoreSpec(found, extra=maps_of(parse(order.extra_cues)))


def _default_profile(order: Order) -> str:
    from lila_cues import profiles
    from lila_cues.pipeline.prepare import choose_device

    return profiles.default(order.dataset, choose_device(order.device))


def patch_of(encoder: str) -> int:
    """14 for `dinov2_vits14`, 16 for `vit_tiny_patch16_224`, the package's own 8, 14 where the name tells nothing."""
    if encoder == "tiny":
        return _TINY_PATCH
    found = re.search(r"patch(\d+)", encoder) or re.search(r"[a-z](\d\d?)(?:_reg\d?)?$", encoder)
    return int(found[1]) if found else _USUAL_PATCH
