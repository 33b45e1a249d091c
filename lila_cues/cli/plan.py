"""`lila-cues plan`: estimates for a build before anything is written; `models` and `profiles`: lists of choices."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Annotated, Any

import typer

import stores
from lila_cues.cli import build as options
from lila_cues.cli import messages
from lila_cues.config import PROFILES, BuildConfig
from lila_cues.console import bold, counted, out
from lila_cues.networks import registry
from lila_cues.sampling import anchors_and_gaps
from stores.errors import StoreError
from stores.ledger import ABSENT
from stores.plan import Plan, readable, require_room
from stores.plan import plan as make_plan

CLIPS_IN_MEMORY = 40  # on many cores: 24 decoded ahead of the networks, 16 predicted and not yet written; fewer on few

RATE = "Frames per second of one device, from the summary of a short build; prints GPU hours. Default: none."


def plan(rate: Annotated[float | None, options.running(help=RATE)] = None, **arguments: Any) -> None:
    """Print frames, bytes, files, memory and free disk of a build, and what saves most; exit status 2 if it cannot fit.

    Takes every option of `lila-cues build`: replace `build` by `plan` in a command to see what it will take.
    """
    config, run_options = options.resolve(arguments)
    if rate is not None and rate <= 0:
        raise StoreError(f"the rate is {rate} frames per second; give one above 0")
    from lila_cues.pipeline.build import plan_build

    path = run_options.store
    assert path is not None
    clips, done, levers = options.list_clips(config, run_options), 0.0, list[str]()
    if path.exists():
        existing = stores.open(path)
        wanted = make_plan(existing.spec, existing.n_clips)
        n_clips, done = existing.n_clips, float((existing.statuses() != ABSENT).mean())
    else:
        n_clips, wanted = len(clips), plan_build(config, len(clips))
        levers = list(_levers(config, wanted, n_clips, rate, options.enlarged_side(config, run_options, clips)))
    free = require_room(wanted, path, done)
    out.print(bold(str(path)), f"{done:.0%} of it done" if done else "")
    rows = [
        ("clips", f"{n_clips:,}"),
        ("frames", f"{wanted.frames:,}, {wanted.pairs:,} pairs"),
        ("bytes", f"about {readable(wanted.total_bytes)}, {readable(wanted.largest_bytes)} if nothing compresses"),
    ]
    for name, size in sorted(wanted.array_bytes.items(), key=lambda item: -item[1]):
        if size * 100 >= wanted.total_bytes:
            rows.append(("", f"{readable(size):>9}  {name}"))
    in_memory = f"{readable(wanted.clip_memory_bytes)} per clip in progress, at most {CLIPS_IN_MEMORY} of them"
    rows += [
        ("files", f"{wanted.files:,} in {counted({'tasks': wanted.tasks})}"),
        ("memory", f"about {in_memory}, beside the networks"),
        ("free disk", readable(free)),
    ]
    if rate is not None:
        gpu_hours = wanted.frames / rate / 3600
        hours = f"{gpu_hours:.3g}" if gpu_hours >= 0.001 else "under 0.001"
        rows.append(("GPU hours", f"{hours} at {rate:g} frames/s on one device (--rate)"))
    out.print("\n".join([*(f"{name:<12} {text}" for name, text in rows), *levers]))


_own = [parameter for name, parameter in signature(plan, eval_str=True).parameters.items() if name != "arguments"]
_shared = signature(options.build, eval_str=True)
plan.__signature__ = _shared.replace(parameters=[*_shared.parameters.values(), *_own])  # type: ignore[attr-defined]


FINE_SIZES = {"encoder_size": 476, "depth_size": 518, "flow_size": 480}  # close to the base crop's own resolution


def _levers(
    config: BuildConfig, wanted: Plan, n_clips: int, rate: float | None, enlarged_side: int | None
) -> Iterator[str]:
    """Yield a table of what single changes of the settings save, largest first."""
    from lila_cues.pipeline.build import plan_build

    anchors, gaps = anchors_and_gaps(config.frames, config.pairs)
    fewer = max(1, anchors // 2)
    changes: list[dict[str, Any]] = [
        {"rgb_codec": "jpeg"},
        {"base_size": min(config.base_size, enlarged_side or config.cue_size)},
        {"feature_size": max(1, config.feature_size // 2)},
        {"channels": max(1, config.channels // 2)},
        {"frames": fewer * (1 + gaps), "pairs": fewer * gaps},
        {"shard_clips": 128},
    ]
    plans = [(change, plan_build(config.replace(**change), n_clips)) for change in changes]
    row = "{:<32} {:>9} {:>9} {:>9}".format
    yield row("one change saves", "bytes", "files", "" if rate is None else "hours").rstrip()
    for change, other in sorted(plans, key=lambda item: item[1].total_bytes):
        saved = wanted.total_bytes - other.total_bytes, wanted.files - other.files, wanted.frames - other.frames
        if any(saved):
            hours = "" if rate is None else f"{saved[2] / rate / 3600:.3g}"
            option = " ".join(map(config.replace(**change).assignment, change))
            yield row(option, readable(saved[0]), f"{saved[1]:,}", hours)
    yield "larger images of a network cost"
    for name, side in FINE_SIZES.items():
        larger, now = config.replace(**{name: side}), getattr(config, name) or config.cue_size
        if side > now:
            more = plan_build(larger, n_clips).total_bytes - wanted.total_bytes
            times = f"{(side / now) ** 2:.1f} times the network's pixels"
            yield f"{larger.assignment(name):<32} {readable(more) if more else '':>9} {times}"
    if enlarged_side:
        smaller = plan_build(config.replace(base_size=enlarged_side), n_clips).total_bytes
        yield messages.enlarged(enlarged_side, config.base_size, wanted.total_bytes - smaller)


def models() -> None:
    """List networks: source, size, license, and whether the weights are on this machine."""
    columns = "{:<8} {:<24} {:>7}  {:<15} {:<5} {}"  # of fixed width: a rich table would be cut at the terminal's width
    out.print(bold(columns.format("", "name", "MB", "license", "here", "weights, revision")))
    for network in registry.ENTRIES:
        size = f"{network.megabytes:,}" if network.megabytes else "–"
        here = "yes" if network.is_available() else "no"
        line = columns.format(network.kind, network.name, size, network.licence, here, network.origin())
        out.print(line, style="yellow" if network.non_commercial else None)
    out.print("\nAny other plain ViT of timm is an encoder by its timm name; NAME@REVISION takes one of the hub.")
    out.print("Depth may also be read from files: --depth files:DIR (16-bit PNG in mm, DIR/CLIP/FRAME.png).")


def profiles(
    name: Annotated[str | None, typer.Argument(help="A profile, to list all of its settings.")] = None,
) -> None:
    """List the profiles, and the settings of one. Each can be passed to `lila-cues build` with --set."""
    if name is not None:
        out.print("\n".join(BuildConfig.resolve({"dataset": "videos", "profile": name}).assignments()))
        return
    for key, profile in PROFILES.items():
        config = BuildConfig.resolve({"dataset": "videos", "profile": key})
        updates = "" if config.flow_updates is None else f" ({config.flow_updates} updates)"
        out.print(
            bold(f"--profile {key}:"),
            f"{profile.about}\n"
            f"  {config.encoder}, {config.depth}, {config.flow}{updates}; RGB {config.base_size}², "
            f"depth and flow {config.cue_size}², {config.channels} channels at {config.feature_size}²;\n"
            f"  {config.frames} frames and {config.pairs} pairs of a clip, 1 to {config.max_gap} frames apart",
        )
