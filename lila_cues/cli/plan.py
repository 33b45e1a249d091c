"""`lila-cues plan`: what a build will take, before anything is written; `lila-cues models`: networks and profiles."""

from __future__ import annotations

import re
from typing import Annotated

import stores
from lila_cues.cli import build as options
from lila_cues.config import PROFILES, BuildConfig, spread
from lila_cues.console import out
from lila_cues.datasets import open_dataset
from lila_cues.datasets.base import DatasetOptions
from lila_cues.networks import registry
from stores.ledger import ABSENT
from stores.plan import plan as make_plan
from stores.plan import readable, require_room

CLIPS_IN_MEMORY = 18  # decoded ahead of the networks or compressed behind them, on many cores; fewer on few

RATE = "Frames per second that one device takes through all networks; a short build's summary shows yours."


def plan(
    dataset: options.Dataset,
    root: options.Root = None,
    store: options.StorePath = None,
    limit: options.Limit = None,
    profile: options.Profile = None,
    encoder: options.Encoder = None,
    extra_cues: options.ExtraCues = None,
    device: options.Device = "auto",
    rate: Annotated[float, options.running(help=RATE)] = 50.0,
) -> None:
    """Print frames, bytes, files, memory, hours and free disk of a build; exit status 2 if it cannot fit."""
    from lila_cues import devices
    from lila_cues.pipeline.build import store_spec
    from lila_cues.pipeline.cues import parse_extra_cues

    path = store or options.default_store(dataset)
    n_clips = len(spread(open_dataset(dataset, root, DatasetOptions()).clips(), limit))
    given = {"dataset": dataset, "profile": profile, "encoder": encoder, "extra_cues": parse_extra_cues(extra_cues)}
    config = BuildConfig.resolve(given, "cpu" if profile else str(devices.choose(device)))
    spec, done = store_spec(config, patch_of(config.encoder)), 0.0
    if path.exists():
        existing = stores.open(path)
        n_clips, spec, done = existing.n_clips, existing.spec, float((existing.statuses() != ABSENT).mean())
    wanted = make_plan(spec, n_clips, rate)
    free = require_room(wanted, path, done)
    out.print(f"[bold]{path}[/]" + (f", {done:.0%} of it done" if done else ""))
    out.print(f"clips        {wanted.clips:,}")
    out.print(f"frames       {wanted.frames:,}, {wanted.pairs:,} pairs")
    out.print(
        f"bytes        about {readable(wanted.total_bytes)}, {readable(wanted.largest_bytes)} if nothing compresses"
    )
    for name, size in sorted(wanted.array_bytes.items(), key=lambda item: -item[1]):
        if size * 100 >= wanted.total_bytes:
            out.print(f"             {readable(size):>9}  {name}")
    out.print(f"files        {wanted.files:,} in {wanted.tasks:,} tasks")
    memory = readable(wanted.clip_memory_bytes)
    out.print(
        f"memory       about {memory} per clip in progress, at most {CLIPS_IN_MEMORY} of them, beside the networks"
    )
    out.print(f"free disk    {readable(free)}")
    hours = f"{wanted.gpu_hours:.3g}" if wanted.gpu_hours >= 0.001 else "under 0.001"
    out.print(f"GPU hours    {hours} at {rate:g} frames/s on one device (--rate)")


def patch_of(encoder: str) -> int:
    """Return 14 for `dinov2_vits14`, 16 for `vit_tiny_patch16_224`, the package's own 8, 14 where the name has none."""
    if encoder == "tiny":
        return 8
    found = re.search(r"patch(\d+)", encoder) or re.search(r"[a-z](\d\d?)(?:_reg\d?)?$", encoder)
    return int(found[1]) if found else 14


def models() -> None:
    """List networks and profiles: source, size, licence, and whether the weights are on this machine."""
    columns = "{:<8} {:<24} {:>7}  {:<15} {:<5} {}"  # of fixed width: a rich table would be cut at the terminal's width
    out.print(f"[bold]{columns.format('', 'name', 'MB', 'licence', 'here', 'weights, revision')}[/]")
    for network in registry.ENTRIES:
        size, here = (
            f"{network.megabytes:,.0f}" if network.megabytes else "–",
            "yes" if network.is_available() else "no",
        )
        line = columns.format(network.kind, network.name, size, network.licence, here, network.origin())
        out.print(f"[yellow]{line}[/]" if network.non_commercial else line)
    out.print("\nAny other plain ViT of timm is an encoder by its timm name; NAME@REVISION takes one of the hub.")
    out.print("Depth may also be read from files: --depth files:DIR (16-bit PNG in mm, DIR/CLIP/FRAME.png).\n")
    for name, profile in PROFILES.items():
        config = BuildConfig(dataset="", **profile.settings)
        updates = "" if config.flow_updates is None else f" ({config.flow_updates} updates)"
        out.print(
            f"[bold]--profile {name}[/]: {profile.about}\n"
            f"  {config.encoder}, {config.depth}, {config.flow}{updates}; RGB {config.base_size}², "
            f"depth and flow {config.cue_size}², {config.channels} channels at {config.feature_size}²;\n"
            f"  {config.frames} frames and {config.pairs} pairs of a clip, 1 to {config.max_gap} frames apart"
        )
