"""`lila-cues build`: options, and the steps from them to a finished store."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import stores
from lila_cues import console
from lila_cues.cli import messages
from lila_cues.config import RunOptions, parse_shard, spread
from lila_cues.datasets import locate, open_dataset
from lila_cues.datasets.base import DatasetOptions
from stores import metadata, plan
from stores.errors import LilaError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.store import CueStore

if TYPE_CHECKING:
    from lila_cues.config import BuildConfig
    from lila_cues.pipeline.setup import Networks
    from lila_cues.pipeline.task import TaskReport

ALL_COMPLETE, SOME_FAILED = 0, 1
data = partial(typer.Option, rich_help_panel="Data")
network = partial(typer.Option, rich_help_panel="Networks")
running = partial(typer.Option, rich_help_panel="Run")

# Options that `plan` has too.
Dataset = Annotated[str, data(metavar="NAME", help="demo, videos, frames, kinetics, youtube-vos or davis.")]
Root = Annotated[Path | None, data(help="Dataset directory. Default: $LILA_DATA/NAME, else data/NAME.")]
StorePath = Annotated[Path | None, data("--store", help="Store directory. Default: cues/NAME.zarr.")]
Limit = Annotated[int | None, data(min=1, help="Number of clips, spread evenly over the dataset. Default: all.")]
ExtraCues = Annotated[str | None, data(metavar="NAMES", help="Additional cues, comma-separated: normals.")]
PROFILE = "Networks and sizes: tiny, small, base or large. Default: small on a GPU; tiny on a CPU and for the demo."
Profile = Annotated[str | None, network(help=PROFILE)]
Encoder = Annotated[str | None, network(help="A ViT of timm, or dinov2_vits14 and variants. Default: the profile's.")]
Device = Annotated[str, running(help="auto (a GPU if there is one), cpu, cuda, cuda:1 …")]

SEED = "Seed that selects frames, pairs and channels, and the scenes of the demo."
MAX_GAP = "T: largest distance of the two frames of a pair, in source frames. Default: the profile's."
ENCODER_WEIGHTS = "Weight file, or random for an untrained encoder. Default: published weights."
DEPTH = "Depth network, or files:DIR with 16-bit PNGs in mm, DIR/CLIP/FRAME.png. Default: the profile's."
FLOW_UPDATES = "RAFT's updates per pair. Default: the profile's."
MAX_FAILURES = "Stop when more clips than this have failed. Default: no limit."
WORKERS = "Number of processes on this machine, sharing its GPUs or cores. Default: this process."
SHARD = "Build share I of N of the tasks, I from 0; a SLURM array needs no scheduler. Default: all tasks."


def build(
    dataset: Dataset,
    root: Root = None,
    store: StorePath = None,
    limit: Limit = None,
    seed: Annotated[int, data(min=0, help=SEED)] = 0,
    decoder: Annotated[str, data(help="pyav; decord or torchcodec refuse files on which they are not exact.")] = "pyav",
    max_gap: Annotated[int | None, data(min=1, help=MAX_GAP)] = None,
    extra_cues: ExtraCues = None,
    profile: Profile = None,
    encoder: Encoder = None,
    encoder_weights: Annotated[str | None, network(help=ENCODER_WEIGHTS)] = None,
    depth: Annotated[str | None, network(help=DEPTH)] = None,
    depth_weights: Annotated[str | None, network(help="Weight file or directory. Default: published weights.")] = None,
    flow: Annotated[str | None, network(help="raft_large, raft_small or dis. Default: the profile's.")] = None,
    flow_weights: Annotated[str | None, network(help="Weight file. Default: published weights.")] = None,
    flow_updates: Annotated[int | None, network(min=1, help=FLOW_UPDATES)] = None,
    attention: Annotated[str, network(help="sdpa, or xformers where it is installed.")] = "sdpa",
    precision: Annotated[str, network(help="Of depth and flow: float32, bfloat16 or float16.")] = "float32",
    compiled: Annotated[bool, network("--compile", help="Compile depth and flow: slow start, then faster.")] = False,
    device: Device = "auto",
    only_failed: Annotated[bool, running("--only-failed", help="Retry the failed clips, build no others.")] = False,
    max_failures: Annotated[int | None, running(min=0, help=MAX_FAILURES)] = None,
    workers: Annotated[int | None, running(min=1, help=WORKERS)] = None,
    scheduler: Annotated[str | None, running(metavar="ADDRESS", help="Address of a running Dask scheduler.")] = None,
    shard: Annotated[str | None, running(metavar="I/N", help=SHARD)] = None,
) -> None:
    """Build a cue store from videos: depth, flow both ways, and refined encoder features.

    Run the same command again to continue an interrupted build. A clip that cannot be read is recorded with its reason
    and skipped. Exit status: 0 all clips complete, 1 some failed, 2 invalid input, 130 after Ctrl-C and 143 after
    SIGTERM, which publish the clips that are computed.

    - `lila-cues build --dataset demo`
    - `lila-cues build --dataset videos --root ~/clips`
    - `lila-cues build --dataset kinetics --workers 8`
    """
    given = {  # None: as the profile has it
        "dataset": dataset, "limit": limit, "seed": seed, "decoder": decoder, "max_gap": max_gap,
        "extra_cues": extra_cues, "profile": profile, "encoder": encoder, "encoder_weights": encoder_weights,
        "depth": depth, "depth_weights": depth_weights, "flow": flow, "flow_weights": flow_weights,
        "flow_updates": flow_updates, "attention": attention, "precision": precision, "compiled": compiled,
    }  # fmt: skip
    options = RunOptions(root, store, device, only_failed, max_failures, workers, scheduler, parse_shard(shard))
    raise typer.Exit(run(given, options))


def run(given: dict[str, Any], options: RunOptions) -> int:
    """Build what is missing and return the exit status; `given` are fields of `BuildConfig`."""
    path = options.store or default_store(given["dataset"])
    places = {name: place and str(place) for name, place in (("root", options.root), ("store", options.store))}
    request = {**given, **places, "device": options.device}
    options = replace(options, root=locate(given["dataset"], options.root))
    dataset = open_dataset(given["dataset"], options.root, DatasetOptions(given["decoder"], given["seed"]))
    _require_place(path)
    clips = spread(dataset.clips(), given["limit"])
    if path.exists():
        store = stores.open(path)
        same = store.provenance.get("request") == request
        _, checksums = metadata.encode_clip_names(clips)
        if same and store.header.clip_checksums == checksums and not _pending_clips(store, options):
            console.out.print(messages.finished(store, options.shard))
            return ALL_COMPLETE
    from lila_cues.pipeline import build, cues, setup

    given = {**given, "extra_cues": cues.parse_extra_cues(given["extra_cues"])}
    config, options, networks = setup.setup(given, options, messages.note)
    spec = build.store_spec(config, networks.encoder.patch_size, networks.encoder.width)
    done = (stores.open(path).statuses() == COMPLETE).mean() if path.exists() else 0.0
    plan.require_room(plan.plan(spec, len(clips), frames_per_second=1.0), path, float(done))
    store = build.open_store(path, config, options, networks, clips, request)
    del clips, dataset  # the names of all clips, which the build reads from the store
    return _build(store, config, options, networks)


def default_store(dataset: str) -> Path:
    """Return the path of a dataset's store where --store is not given."""
    return Path("cues") / f"{dataset}.zarr"


def _build(store: CueStore, config: BuildConfig, options: RunOptions, networks: Networks) -> int:
    from lila_cues.pipeline import build

    pending = _pending_clips(store, options)
    if not pending:
        console.out.print(messages.finished(store, options.shard))
        return ALL_COMPLETE
    console.out.print(messages.announcement(config, options, networks, store, pending))
    for note in (*networks.notes(store.spec.geometry.cue), *messages.other_builders(store, options.only_failed)):
        messages.note(note)
    start, tally = time.perf_counter(), build.Tally()
    with closing(_reports(config, options, networks, store, pending)) as reports:
        for report in reports:
            build.log_report(store, report)
            tally.add(report)
            if options.max_failures is not None and tally.failed > options.max_failures:
                clip_id, reason = tally.failures[0]
                raise LilaError(
                    f"expected at most {options.max_failures} clips to fail, found {tally.failed} (the first is "
                    f"{clip_id}: {reason}); completed clips are kept; fix the files or raise --max-failures"
                )
    store.publish_statuses()
    console.out.print(messages.summary(store, tally, time.perf_counter() - start))
    return SOME_FAILED if tally.failed else ALL_COMPLETE


def _reports(
    config: BuildConfig, options: RunOptions, networks: Networks, store: CueStore, pending: int
) -> Generator[TaskReport]:
    """Yield reports of tasks as they are done, with a progress bar over the clips."""
    from lila_cues.pipeline import build
    from lila_cues.pipeline.task import Worker

    tasks = build.tasks_of_shard(store.pending_tasks(options.only_failed), options.shard)
    with console.progress("clips") as bar:
        progress = messages.ClipProgress(bar, pending)
        if options.workers or options.scheduler:
            from lila_cues.pipeline import cluster

            for report in cluster.build_distributed(store, config, options, tasks):
                progress.on_task_done(report)
                yield report
            return
        with Worker(config, options, networks) as worker:
            yield from build.build_local(store, worker, tasks, options.only_failed, progress.on_clip_done)


def _pending_clips(store: CueStore, options: RunOptions) -> int:
    """Return the number of clips that are still to be built in this builder's share."""
    index, count = options.shard
    tasks = np.arange(store.n_clips) // store.spec.shard_clips
    wanted = store.statuses() == (FAILED if options.only_failed else ABSENT)
    return int((wanted & (tasks % count == index)).sum())


def _require_place(path: Path) -> None:
    """Refuse a place where no store can be, before anything is read."""
    if path.exists() and not (path / "zarr.json").is_file():
        raise LilaError(
            f"expected a cue store or nothing at {path}, found {'another folder' if path.is_dir() else 'a file'}; name "
            "another place with --store"
        )
    above = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not above.is_dir():
        raise LilaError(f"expected a folder for {path}, found a file at {above}; name another place with --store")
    if not os.access(above, os.W_OK | os.X_OK):
        raise LilaError(f"expected to write {path}, found no permission in {above}; name another place with --store")
