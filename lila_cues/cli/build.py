"""`lila-cues build`: options, and the steps from them to a finished store."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import stores
from lila_cues import console, devices
from lila_cues.cli import messages
from lila_cues.config import BuildConfig, RunOptions, parse_shard, spread
from lila_cues.datasets import locate, open_dataset
from stores import plan
from stores.atomic import require_local, require_writable
from stores.errors import LilaError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.opening import require_same
from stores.store import CueStore

if TYPE_CHECKING:
    from lila_cues.pipeline.build import Tally
    from lila_cues.pipeline.setup import Networks
    from lila_cues.pipeline.task import TaskReport

ALL_COMPLETE, SOME_FAILED = 0, 1
PROBED_CLIPS = 5  # whose size is compared with the base size
data = partial(typer.Option, rich_help_panel="Data")
network = partial(typer.Option, rich_help_panel="Networks")
stored = partial(typer.Option, rich_help_panel="Store")
running = partial(typer.Option, rich_help_panel="Run")


def _of_profile(name: str) -> str:
    return f"{BuildConfig.model_fields[name].description} Default: the profile's."


# The options of `build` and of `plan`. None: as the profile has it, or the setting's own default.
PROFILE = "Networks and sizes: tiny, small, base or large. Default: small on a GPU; tiny on a CPU and for the demo."
SET = "Any other setting, such as channels=32; may be given more than once. `lila-cues profiles NAME` lists them."
WORKERS = "Number of processes on this machine, sharing its GPUs or cores. Default: this process."
CLIPS_PER_PASS = "Clips that pass the networks at once. Default: 1; on a GPU up to 4, by its free memory."
SHARD = "Build share I of N of the tasks, I from 0; a SLURM array needs no scheduler. Default: all tasks."

Dataset = Annotated[str, data(metavar="NAME", help=BuildConfig.help("dataset"))]
Root = Annotated[Path | None, data(help="Dataset directory. Default: $LILA_DATA/NAME, else data/NAME.")]
StorePath = Annotated[Path | None, data("--store", help="Store directory. Default: cues/NAME.zarr.")]
Limit = Annotated[int | None, data(help=BuildConfig.help("limit"))]
Seed = Annotated[int | None, data(help=BuildConfig.help("seed"))]
Decoder = Annotated[str | None, data(help=BuildConfig.help("decoder"))]
MaxGap = Annotated[int | None, data(help=BuildConfig.help("max_gap"))]
ExtraCues = Annotated[str | None, data(metavar="NAMES", help=BuildConfig.help("extra_cues"))]
Profile = Annotated[str | None, network(help=PROFILE)]
Encoder = Annotated[str | None, network(help=_of_profile("encoder"))]
EncoderWeights = Annotated[str | None, network(help=BuildConfig.help("encoder_weights"))]
Depth = Annotated[str | None, network(help=_of_profile("depth"))]
DepthWeights = Annotated[str | None, network(help=BuildConfig.help("depth_weights"))]
Flow = Annotated[str | None, network(help=_of_profile("flow"))]
FlowWeights = Annotated[str | None, network(help=BuildConfig.help("flow_weights"))]
FlowUpdates = Annotated[int | None, network(help=_of_profile("flow_updates"))]
Attention = Annotated[str | None, network(help=BuildConfig.help("attention"))]
Precision = Annotated[str | None, network(help=BuildConfig.help("precision"))]
Compile = Annotated[bool | None, network("--compile", help=BuildConfig.help("compile"))]
Set = Annotated[list[str] | None, network("--set", metavar="NAME=VALUE", help=SET)]
ConfigFile = Annotated[Path | None, network("--config", help="Another store, to take its settings; no --profile then.")]
Device = Annotated[str, running(help="auto (a GPU if there is one), cpu, cuda, cuda:1 …")]
ClipsPerPass = Annotated[int | None, running(min=1, help=CLIPS_PER_PASS)]
RgbCodec = Annotated[str | None, stored(help=BuildConfig.help("rgb_codec"))]
BaseSize = Annotated[int | None, stored(help=_of_profile("base_size"))]
FeatureSize = Annotated[int | None, stored(help=_of_profile("feature_size"))]
ShardClips = Annotated[int | None, stored(help=BuildConfig.help("shard_clips"))]
OnlyFailed = Annotated[bool, running("--only-failed", help="Retry the failed clips, build no others.")]
MaxFailures = Annotated[int | None, running(min=0, help="Stop when more clips than this fail. Default: no limit.")]
Workers = Annotated[int | None, running(min=1, help=WORKERS)]
Scheduler = Annotated[str | None, running(metavar="ADDRESS", help="Address of a running Dask scheduler.")]
Shard = Annotated[str | None, running(metavar="I/N", help=SHARD)]


def build(
    dataset: Dataset,
    root: Root = None,
    store: StorePath = None,
    limit: Limit = None,
    seed: Seed = None,
    decoder: Decoder = None,
    max_gap: MaxGap = None,
    extra_cues: ExtraCues = None,
    profile: Profile = None,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    depth: Depth = None,
    depth_weights: DepthWeights = None,
    flow: Flow = None,
    flow_weights: FlowWeights = None,
    flow_updates: FlowUpdates = None,
    attention: Attention = None,
    precision: Precision = None,
    compile: Compile = None,
    rgb_codec: RgbCodec = None,
    base_size: BaseSize = None,
    feature_size: FeatureSize = None,
    shard_clips: ShardClips = None,
    set_: Set = None,
    config: ConfigFile = None,
    device: Device = "auto",
    clips_per_pass: ClipsPerPass = None,
    only_failed: OnlyFailed = False,
    max_failures: MaxFailures = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    shard: Shard = None,
) -> None:
    """Build a cue store from videos: depth, flow both ways, and refined encoder features.

    Run the same command again to continue an interrupted build. A clip that cannot be read is recorded with its reason
    and skipped. Exit status: 0 all clips complete, 1 some failed, 2 invalid input, 130 after Ctrl-C and 143 after
    SIGTERM, which publish the clips that are computed.

    - `lila-cues build --dataset demo`
    - `lila-cues build --dataset videos --root ~/clips`
    - `lila-cues build --dataset kinetics --workers 8`
    """
    raise typer.Exit(run(*resolve(locals())))


def resolve(arguments: Mapping[str, Any]) -> tuple[BuildConfig, RunOptions]:
    """Return the settings and the completed options of a command, given all of its arguments by name."""
    settings = {name: arguments[name] for name in BuildConfig.own_options}
    settings["extra_cues"] = settings["extra_cues"] and tuple(settings["extra_cues"].split(","))
    values = {field.name: arguments[field.name] for field in fields(RunOptions)}
    options = RunOptions(**(values | {"shard": parse_shard(values["shard"])}))
    device = str(devices.choose(options.device))
    config = BuildConfig.resolve(settings, arguments["set_"] or (), arguments["config"], device)
    named = arguments["config"] or any(settings[name] for name in ("encoder", "depth", "flow", "profile"))
    if not named and config.dataset != "demo" and not device.startswith("cuda"):
        messages.note(
            "no GPU here: profile tiny, whose networks know rendered scenes only; for results on real clips use a GPU, "
            "or --profile small, which is slow without one, or networks of your own (--encoder, --depth, --flow)"
        )
    root = locate(config.dataset, options.root)
    store = options.store or Path("cues") / f"{config.dataset}.zarr"
    require_local(store)
    return config, replace(options, root=root, store=store, device=device)


def list_clips(config: BuildConfig, options: RunOptions) -> Sequence[str]:
    """Return the ids of the clips to build."""
    assert options.root is not None
    dataset = open_dataset(config.dataset, options.root, config.decoder, config.seed)
    return spread(dataset.clips(), config.limit)


def enlarged_side(config: BuildConfig, options: RunOptions, clips: Sequence[str]) -> int | None:
    """Return the largest short side of a few clips, in px, if the base crop enlarges all of them; else None."""
    assert options.root is not None
    dataset, sides = open_dataset(config.dataset, options.root, config.decoder, config.seed), [0]
    for clip_id in spread(clips, PROBED_CLIPS):
        with suppress(LilaError):  # the build reports a clip that cannot be read
            sides.append(min(dataset.frame_size(clip_id)))
    return max(sides) if 0 < max(sides) < config.base_size else None


def run(config: BuildConfig, options: RunOptions) -> int:
    """Build what is missing and return the exit status."""
    path = options.store
    assert path is not None
    clips = list_clips(config, options)
    if path.exists() and not (path / "zarr.json").is_file():
        raise LilaError(
            f"expected a cue store or nothing at {path}, found {'another folder' if path.is_dir() else 'a file'}; name "
            "another place with --store"
        )
    require_writable(path, "name another place with --store")
    from lila_cues.pipeline import build, setup

    planned, done = build.plan_build(config, len(clips)), 0.0
    if path.exists():
        store = stores.open(path)
        require_same(store, config.shaping(), clips)
        if not _pending_clips(store, options):
            console.out.print(messages.finished(store, options.shard))
            return ALL_COMPLETE
        done = float((store.statuses() == COMPLETE).mean())
    else:
        builders = (options.workers or 1) * options.shard[1]
        tasks = -(-len(clips) // config.shard_clips)
        if tasks < builders:
            messages.note(
                f"{len(clips)} clips are {tasks} task{'s' * (tasks != 1)}: {builders - tasks} of {builders} workers "
                f"have nothing to do; --shard-clips {max(1, len(clips) // builders)} gives each one"
            )
        if side := enlarged_side(config, options, clips):
            smaller = build.plan_build(config.replace(base_size=side), len(clips))
            messages.note(messages.enlarged(side, config.base_size, planned.total_bytes - smaller.total_bytes))
    plan.require_room(planned, path, done)
    networks = setup.setup(config, options, messages.note)
    store = build.open_store(path, config, options, networks, clips)
    del clips  # the names of all clips, which the build reads from the store
    return _build(store, config, options, networks)


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
    with closing(_reports(config, options, networks, store, pending, tally)) as reports:
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
    config: BuildConfig, options: RunOptions, networks: Networks, store: CueStore, pending: int, tally: Tally
) -> Generator[TaskReport]:
    """Yield reports of tasks as they are done, with a progress bar over the clips and the speed of `tally`."""
    from lila_cues.pipeline import build
    from lila_cues.pipeline.task import Worker

    tasks = build.tasks_of_shard(store.pending_tasks(options.only_failed), options.shard)
    with console.progress("clips") as bar:
        progress = messages.ClipProgress(bar, pending, tally)
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
