"""`lila-cues build`.

What `lila-cues build` does once its options are read: look, say, build, and show what came of it.

Options that several commands share, each told once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

import stores
from lila_cues import console
from lila_cues.cli import messages
from lila_cues.cli import messages as words
from lila_cues.config import Order
from stores import metadata, plan
from stores.errors import LilaError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.store import CueStore

if TYPE_CHECKING:
    from lila_cues.config import BuildRecipe
    from lila_cues.pipeline.build import Tally
    from lila_cues.pipeline.setup import Networks
    from lila_cues.pipeline.task import TaskReport


ALL_COMPLETE, SOME_FAILED = 0, 1


@dataclass(frozen=True)
class Conduct:
    """How a build is run: nothing here shapes the store."""

    only_failed: bool = False  # the clips that failed before, and no others
    max_failures: int | None = None  # stop when more clips than that have failed
    workers: int | None = None  # processes of this machine
    scheduler: str | None = None  # address of a Dask scheduler whose workers build
    shard: tuple[int, int] = (0, 1)  # this builder's share of the tasks: index from 0, count


def conduct(order: Order, how: Conduct) -> int:
    """Build what is missing; the exit status."""
    source = order.source()
    _check_place(order.path)
    clips = order.clips(source)
    found = finished_store(order, clips, how)
    if found is not None:
        console.out.print(words.finished(found, how.shard))
        return ALL_COMPLETE
    return _build(order, how, clips)


def finished_store(order: Order, clips: Sequence[str], how: Conduct) -> CueStore | None:
    """The store, if this very order has been built before and nothing is left to do."""
    if not order.path.exists():
        return None
    store = stores.open(order.path)
    same = store.provenance.get("request") == order.to_dict()
    checksums = metadata.clip_checksums(metadata.encode_clip_names(clips))
    if not same or store.header.clip_checksums != checksums or to_do(store, how):
        return None
    return store


def to_do(store: CueStore, how: Conduct) -> int:
    """Clips that are still to be built, of this builder's share."""
    index, count = how.shard
    tasks = np.arange(store.n_clips) // store.spec.shard_clips
    wanted = store.statuses() == (FAILED if how.only_failed else ABSENT)
    return int((wanted & (tasks % count == index)).sum())


def _build(order: Order, how: Conduct, clips: Sequence[str]) -> int:
    from lila_cues.pipeline import build, setup

    choice = setup.choose(order)
    words.notices(choice.notes)
    recipe, networks = setup.load(order, choice)
    _check_room(order.path, recipe, len(clips))
    store = build.open_store(order.path, recipe, clips, networks.records(), order.to_dict())
    del clips
    left = to_do(store, how)
    if not left:
        console.out.print(words.finished(store, how.shard))
        return ALL_COMPLETE
    console.out.print(words.announcement(choice, recipe, networks, store, left))
    words.notices(networks.notes(recipe.geometry.cue))
    words.notices(messages.notes(store, how.only_failed))
    start = time.perf_counter()
    tally = build.Tally()
    with closing(_reports(recipe, networks, store, how, left)) as reports:
        for report in reports:
            build.log_report(store, report)
            tally.add(store, report)
            _stop_at(tally, how)
    store.publish_statuses()
    console.out.print(words.build_summary(store, tally, time.perf_counter() - start))
    return SOME_FAILED if tally.failed else ALL_COMPLETE


def _check_place(path: Path) -> None:
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


def _check_room(path: Path, recipe: BuildRecipe, n_clips: int) -> None:
    """Refuse what cannot fit, before anything is written."""
    from lila_cues.pipeline.build import spec_of

    done = (stores.open(path).statuses() == COMPLETE).mean() if path.exists() else 0.0
    planned = plan.plan(spec_of(recipe), n_clips, frames_per_second=1.0)
    plan.require_room(planned, path, float(done))


def _reports(
    recipe: BuildRecipe, networks: Networks, store: CueStore, how: Conduct, left: int
) -> Generator[TaskReport]:
    """Reports of tasks as they are done, with a bar over the clips, and failures as they come."""
    from lila_cues.pipeline import build
    from lila_cues.pipeline.task import Worker

    tasks = build.share_of(store.pending_tasks(how.only_failed), how.shard)
    with console.progress("clips") as bar:
        watch = words.Watch(bar, left)
        if how.workers or how.scheduler:
            from lila_cues.pipeline import cluster

            for report in cluster.build_distributed(store, recipe, tasks, how.only_failed, how.workers, how.scheduler):
                watch.report(report)
                yield report
            return
        with Worker(recipe, networks) as worker:
            yield from build.build_local(store, worker, tasks, how.only_failed, watch.clip)


def _stop_at(tally: Tally, how: Conduct) -> None:
    if how.max_failures is not None and tally.failed > how.max_failures:
        name, reason = tally.shown(1)[0]
        raise LilaError(
            f"expected at most {how.max_failures} clips to fail, found {tally.failed} (the first is {name}: {reason}); "
            "what was finished is kept: mend the files or pass a larger --max-failures"
        )


DATA, NETWORKS, RUN = "What to read", "Networks", "How to run"

Dataset = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=DATA,
        help="demo, videos, frames, kinetics, youtube-vos or davis.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(rich_help_panel=DATA, help="Where the data lie; $LILA_DATA/NAME or data/NAME if not given."),
]
StorePath = Annotated[
    Path | None,
    typer.Option("--store", rich_help_panel=DATA, help="Where the store goes; cues/NAME.zarr if not given."),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, rich_help_panel=DATA, help="So many clips only, spread evenly over the data set."),
]
Seed = Annotated[
    int,
    typer.Option(min=0, rich_help_panel=DATA, help="Draws frames, pairs and channels; of the demo, the scenes too."),
]
Decoder = Annotated[
    str, typer.Option(rich_help_panel=DATA, help="decord (PyAV where it is not exact), pyav or torchcodec.")
]
MaxGap = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=DATA, help="T: the frames of a pair are 1 to T apart.")
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        rich_help_panel=NETWORKS,
        help="tiny, small, base or large: networks and sizes in one word; by the device if not given.",
    ),
]
Encoder = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="A ViT of timm, or dinov2_vits14 and kin.")]
EncoderWeights = Annotated[
    str | None, typer.Option(rich_help_panel=NETWORKS, help="Its weight file; random for untrained ones.")
]
Depth = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=NETWORKS, help="A depth network, or files:DIR with 16-bit PNGs in mm, CLIP/FRAME.png."
    ),
]
DepthWeights = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="Its weight file or folder.")]
Flow = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="raft_large, raft_small or dis.")]
FlowWeights = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="Its weight file.")]
FlowUpdates = Annotated[int | None, typer.Option(min=1, rich_help_panel=NETWORKS, help="RAFT's updates per pair.")]
ExtraCues = Annotated[
    str | None,
    typer.Option(metavar="NAMES", rich_help_panel=DATA, help="Cues to make beside the usual, with commas: normals."),
]
Attention = Annotated[str, typer.Option(rich_help_panel=NETWORKS, help="sdpa, or xformers where it is installed.")]
Precision = Annotated[
    str, typer.Option(rich_help_panel=NETWORKS, help="float32, bfloat16 or float16, of depth and flow.")
]
Compiled = Annotated[
    bool,
    typer.Option("--compile", rich_help_panel=NETWORKS, help="Compile depth and flow: slow to start, then faster."),
]
Device = Annotated[str, typer.Option(rich_help_panel=RUN, help="auto, cpu, cuda, cuda:1 …")]


OnlyFailed = Annotated[
    bool, typer.Option("--only-failed", rich_help_panel=RUN, help="Try clips again that failed before.")
]
MaxFailures = Annotated[
    int | None, typer.Option(min=0, rich_help_panel=RUN, help="Stop when more clips than this have failed.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, rich_help_panel=RUN, help="Processes on this machine, sharing its GPUs or its CPU cores."),
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", rich_help_panel=RUN, help="A Dask cluster that is running.")
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", rich_help_panel=RUN, help="This builder's share, I from 0: a SLURM array needs no Dask."
    ),
]


def build(
    dataset: Dataset,
    root: Root = None,
    store: StorePath = None,
    limit: Limit = None,
    seed: Seed = 0,
    decoder: Decoder = "decord",
    max_gap: MaxGap = None,
    extra_cues: ExtraCues = None,
    profile: ProfileName = None,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    depth: Depth = None,
    depth_weights: DepthWeights = None,
    flow: Flow = None,
    flow_weights: FlowWeights = None,
    flow_updates: FlowUpdates = None,
    attention: Attention = "sdpa",
    precision: Precision = "float32",
    compiled: Compiled = False,
    device: Device = "auto",
    only_failed: OnlyFailed = False,
    max_failures: MaxFailures = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    shard: Shard = None,
) -> None:
    """Build a store of cues from videos: depth, flow both ways, and refined encoder features.

    An interrupted build goes on where it stopped when the same command is given again; a finished one says so. A clip
    that cannot be read is recorded with its reason and skipped. Exit status: 0 all clips complete, 1 some failed,
    2 something must be mended first.

    - `lila-cues build --dataset demo`
    - `lila-cues build --dataset videos --root ~/clips`
    - `lila-cues build --dataset kinetics --workers 8`
    """
    from lila_cues.config import Order, parse_shard

    how = Conduct(only_failed, max_failures, workers, scheduler, parse_shard(shard))
    raise typer.Exit(conduct(Order.of(locals()), how))
