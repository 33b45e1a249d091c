"""`lila-cues build`: options, and the steps from them to a finished store."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, fields
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
from lila_cues.inputs import read_text
from stores import plan
from stores.atomic import append_line, require_local, require_writable
from stores.errors import LilaError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.opening import require_same
from stores.store import CueStore

if TYPE_CHECKING:
    from lila_cues.pipeline.build import Tally
    from lila_cues.pipeline.cluster import Cluster
    from lila_cues.pipeline.setup import NetworkFacts, Networks
    from lila_cues.pipeline.task import TaskReport

ALL_COMPLETE, SOME_FAILED = 0, 1
PROBED_CLIPS = 5  # whose size is compared with the base size
data = partial(typer.Option, rich_help_panel="Data")
network = partial(typer.Option, rich_help_panel="Networks")
stored = partial(typer.Option, rich_help_panel="Store")
running = partial(typer.Option, rich_help_panel="Run")


def _of_profile(name: str) -> str:
    return f"{BuildConfig.model_fields[name].description} Default: the profile's."


# None stands for the value of the profile, or for the setting's own default.
PROFILE = "Networks and sizes: tiny, small, base or large. Default: small on a GPU; tiny on a CPU and for the demo."
SET = "Any other setting, such as channels=32; may be given more than once. `lila-cues profiles NAME` lists them."
WORKERS = "Number of processes on this machine, sharing its GPUs or cores. Default: this process."
CLIPS_PER_PASS = "Clips that pass the networks at once. Default: 1; on a GPU up to 4, by its free memory."
CONFIG = "Another store, to take its settings; no --profile then."
MAX_FAILURES = "Stop when more clips than this fail. Default: no limit."
SCHEDULER_FILE = "File that `dask scheduler --scheduler-file` wrote."
DRY_RUN = "Check this process or every worker and print the results; build nothing."
SHARD = "Build share I of N of the tasks, I from 0; a SLURM array needs no scheduler. Default: all tasks."


def build(
    dataset: Annotated[str, data(metavar="NAME", help=BuildConfig.help("dataset"))],
    root: Annotated[Path | None, data(help="Dataset directory. Default: $LILA_DATA/NAME, else data/NAME.")] = None,
    store: Annotated[Path | None, data("--store", help="Store directory. Default: cues/NAME.zarr.")] = None,
    limit: Annotated[int | None, data(help=BuildConfig.help("limit"))] = None,
    seed: Annotated[int | None, data(help=BuildConfig.help("seed"))] = None,
    decoder: Annotated[str | None, data(help=BuildConfig.help("decoder"))] = None,
    max_gap: Annotated[int | None, data(help=BuildConfig.help("max_gap"))] = None,
    extra_cues: Annotated[str | None, data(metavar="NAMES", help=BuildConfig.help("extra_cues"))] = None,
    profile: Annotated[str | None, network(help=PROFILE)] = None,
    encoder: Annotated[str | None, network(help=_of_profile("encoder"))] = None,
    encoder_weights: Annotated[str | None, network(help=BuildConfig.help("encoder_weights"))] = None,
    depth: Annotated[str | None, network(help=_of_profile("depth"))] = None,
    depth_weights: Annotated[str | None, network(help=BuildConfig.help("depth_weights"))] = None,
    flow: Annotated[str | None, network(help=_of_profile("flow"))] = None,
    flow_weights: Annotated[str | None, network(help=BuildConfig.help("flow_weights"))] = None,
    flow_updates: Annotated[int | None, network(help=_of_profile("flow_updates"))] = None,
    attention: Annotated[str | None, network(help=BuildConfig.help("attention"))] = None,
    precision: Annotated[str | None, network(help=BuildConfig.help("precision"))] = None,
    compile: Annotated[bool | None, network("--compile", help=BuildConfig.help("compile"))] = None,
    rgb_codec: Annotated[str | None, stored(help=BuildConfig.help("rgb_codec"))] = None,
    base_size: Annotated[int | None, stored(help=_of_profile("base_size"))] = None,
    feature_size: Annotated[int | None, stored(help=_of_profile("feature_size"))] = None,
    shard_clips: Annotated[int | None, stored(help=BuildConfig.help("shard_clips"))] = None,
    set_: Annotated[list[str] | None, network("--set", metavar="NAME=VALUE", help=SET)] = None,
    config: Annotated[Path | None, network("--config", help=CONFIG)] = None,
    device: Annotated[str, running(help="auto (a GPU if there is one), cpu, cuda, cuda:1 …")] = "auto",
    clips_per_pass: Annotated[int | None, running(min=1, help=CLIPS_PER_PASS)] = None,
    only_failed: Annotated[bool, running("--only-failed", help="Retry the failed clips, build no others.")] = False,
    max_failures: Annotated[int | None, running(min=0, help=MAX_FAILURES)] = None,
    workers: Annotated[int | None, running(min=1, help=WORKERS)] = None,
    scheduler: Annotated[str | None, running(metavar="ADDRESS", help="Address of a running Dask scheduler.")] = None,
    scheduler_file: Annotated[Path | None, running(metavar="FILE", help=SCHEDULER_FILE)] = None,
    shard: Annotated[str | None, running(metavar="I/N", help=SHARD)] = None,
    dry_run: Annotated[bool, running("--dry-run", help=DRY_RUN)] = False,
) -> None:
    """Build a cue store from videos: depth, flow both ways, and refined encoder features.

    Run the same command again to continue an interrupted build. A clip that cannot be read is recorded with its reason
    and skipped. Exit status: 0 all clips complete, 1 some failed or left to others, 2 invalid input, 130 after Ctrl-C
    and 143 after SIGTERM, which publish the clips that are computed.

    - `lila-cues build --dataset demo`
    - `lila-cues build --dataset videos --root ~/clips`
    - `lila-cues build --dataset kinetics --workers 8`
    """
    raise typer.Exit(start(locals()))


def start(arguments: Mapping[str, Any]) -> int:
    """Build in this process or on the workers that the options name; return the exit status."""
    (config, options), dry_run = resolve(arguments), arguments["dry_run"]
    if not (options.workers or options.scheduler):
        return run(config, options, dry_run=dry_run)
    from lila_cues.pipeline import cluster

    with cluster.connect(options, config.shard_clips, messages.note, await_first=not dry_run) as workers:
        if options.scheduler:  # the devices are theirs
            config, options = resolve(arguments, workers.device(options.device))
        return run(config.with_absolute_paths(), options, workers, dry_run)


def resolve(arguments: Mapping[str, Any], device: str | None = None) -> tuple[BuildConfig, RunOptions]:
    """Return the settings and completed options of a command's arguments; `device`: that of a scheduler's workers."""
    extra_cues = arguments["extra_cues"] and tuple(arguments["extra_cues"].split(","))
    scheduler = _scheduler(arguments["scheduler"], arguments["scheduler_file"])
    shard = parse_shard(arguments["shard"])
    named = arguments["config"] or any(arguments[name] for name in ("encoder", "depth", "flow", "profile"))
    if scheduler is None:
        device = str(devices.choose(arguments["device"]))
    elif not named and arguments["dataset"] != "demo":
        raise LilaError(
            "expected --profile with --scheduler, found none; name one, since this machine may have other devices than "
            "the workers"
        )
    device = device or arguments["device"]
    settings = {**arguments, "extra_cues": extra_cues}
    config = BuildConfig.resolve(settings, arguments["set_"], arguments["config"], device)
    if not named and config.dataset != "demo" and not device.startswith("cuda"):
        messages.note(
            "no GPU here: profile tiny, whose networks know rendered scenes only; for results on real clips use a GPU, "
            "or --profile small, which is slow without one, or networks of your own (--encoder, --depth, --flow)"
        )
    root = locate(config.dataset, arguments["root"])
    store = arguments["store"] or Path("cues") / f"{config.dataset}.zarr"
    require_local(store)
    values = {field.name: arguments[field.name] for field in fields(RunOptions)}
    completed = {"root": root, "store": store, "device": device, "scheduler": scheduler, "shard": shard}
    return config, RunOptions(**(values | completed))


def _scheduler(address: str | None, file: Path | None) -> str | None:
    """Return the address of the options --scheduler or --scheduler-file; None without them."""
    if address is not None and file is not None:
        raise LilaError("expected --scheduler or --scheduler-file, found both; leave one out")
    if file is not None:
        try:
            address = str(json.loads(read_text(file))["address"])
        except (ValueError, KeyError, TypeError) as error:
            raise LilaError(
                f"expected the file of a Dask scheduler at {file}, found no address in it; give the one that "
                "`dask scheduler --scheduler-file` wrote"
            ) from error
    if address is not None and not address.strip():
        raise LilaError(
            "expected the address of a Dask scheduler, found an empty --scheduler; give tcp://HOST:8786, or leave the "
            "option out to build in this process"
        )
    return address


def list_clips(config: BuildConfig, options: RunOptions) -> Sequence[str]:
    """Return the ids of the clips to build."""
    dataset = open_dataset(config.dataset, options.root, config.decoder, config.seed)
    return spread(dataset.clips(), config.limit)


def enlarged_side(config: BuildConfig, options: RunOptions, clips: Sequence[str]) -> int | None:
    """Return the largest short side of a few clips, in px, if the base crop enlarges all of them; else None."""
    dataset, sides = open_dataset(config.dataset, options.root, config.decoder, config.seed), [0]
    for clip_id in spread(clips, PROBED_CLIPS):
        with suppress(LilaError):  # the build reports a clip that cannot be read
            sides.append(min(dataset.frame_size(clip_id)))
    return max(sides) if 0 < max(sides) < config.base_size else None


def run(config: BuildConfig, options: RunOptions, workers: Cluster | None = None, dry_run: bool = False) -> int:
    """Build the missing clips in this process or on workers, or only check these; return the exit status."""
    path = options.store
    assert path is not None
    clips = list_clips(config, options)
    if path.exists() and not (path / "zarr.json").is_file():
        raise LilaError(
            f"expected a cue store or nothing at {path}, found {'another folder' if path.is_dir() else 'a file'}; name "
            "another place with --store"
        )
    require_writable(path, "name another place with --store")
    from lila_cues.pipeline import build, remote, setup

    planned, done, existing = build.plan_build(config, len(clips)), 0.0, None
    if path.exists():
        existing = stores.open(path)
        require_same(existing, config.shaping(), clips)
        if not (_pending(existing, options).any() or dry_run):
            console.out.print(messages.finished(existing, options.shard))
            return ALL_COMPLETE
        done = float((existing.statuses() == COMPLETE).mean())
    else:
        builders = (options.workers or 1) * options.shard[1]
        tasks = -(-len(clips) // config.shard_clips)
        if tasks < builders:
            messages.note(
                f"{len(clips)} clips are {console.counted({'tasks': tasks})}: {builders - tasks} of {builders} workers "
                f"have nothing to do; --shard-clips {max(1, len(clips) // builders)} gives each one"
            )
        if side := enlarged_side(config, options, clips):
            smaller = build.plan_build(config.replace(base_size=side), len(clips))
            messages.note(messages.enlarged(side, config.base_size, planned.total_bytes - smaller.total_bytes))
    plan.require_room(planned, path, done)
    with ExitStack() as stack:
        networks, found = None, list[tuple[str, str | None]]([("this process", None)])
        setup.check_settings(config, messages.note)
        if workers is None:
            networks = setup.load_networks(config, options.device)
            facts = networks.facts(config, options.device)
        else:
            described = stack.enter_context(remote.describe(config, options, clips))
            facts, found = workers.check(described, existing), workers.roster.reasons()
        if dry_run:
            console.out.print(messages.checked(found, facts))
            return SOME_FAILED if any(reason for _, reason in found) else ALL_COMPLETE
        store = build.open_store(path, config, options, facts, clips)
        del clips  # the names of all clips, which the build reads from the store
        return _build(store, config, options, facts, networks, workers)


def _build(
    store: CueStore,
    config: BuildConfig,
    options: RunOptions,
    facts: NetworkFacts,
    networks: Networks | None,
    workers: Cluster | None,
) -> int:
    """Build the pending clips of this builder's share, print a summary, and return the exit status."""
    from lila_cues.pipeline import build

    pending = _pending(store, options)
    if not pending.any():
        console.out.print(messages.finished(store, options.shard))
        return ALL_COMPLETE
    console.out.print(messages.announcement(config, options, facts, store, int(pending.sum())))
    for note in (*facts.notes, *messages.other_builders(store, options.only_failed)):
        messages.note(note)
    start, tally, path = time.perf_counter(), build.Tally(), Path(store.path)
    with closing(_reports(store, config, options, networks, workers, tally, int(pending.sum()))) as done:
        for report in done:
            append_line(path / build.LOG, {"when": round(time.time(), 3), **asdict(report)})
            tally.add(report)
            if options.max_failures is not None and tally.failed > options.max_failures:
                clip_id, reason = tally.failures[0]
                raise LilaError(
                    f"expected at most {options.max_failures} clips to fail, found {tally.failed} (the first is "
                    f"{clip_id}: {reason}); completed clips are kept; fix the files or raise --max-failures"
                )
    store.publish_statuses()
    tally.settle(store.statuses()[pending])
    console.out.print(messages.summary(store, tally, time.perf_counter() - start))
    for note in messages.other_builders(store, options.only_failed) if tally.absent else ():
        messages.note(note)
    return SOME_FAILED if tally.failed or tally.absent else ALL_COMPLETE


def _reports(
    store: CueStore,
    config: BuildConfig,
    options: RunOptions,
    networks: Networks | None,
    workers: Cluster | None,
    tally: Tally,
    pending: int,
) -> Generator[TaskReport]:
    """Yield reports of tasks as they are done, with a progress bar over the clips and the speed of `tally`."""
    from lila_cues.pipeline import build
    from lila_cues.pipeline.task import Worker

    only_failed = options.only_failed
    tasks = build.tasks_of_shard(store.pending_tasks(only_failed), options.shard)
    with console.progress("clips") as bar:
        progress = messages.ClipProgress(bar, pending, tally)
        if workers is not None:
            with closing(workers.reports(store, tasks, only_failed)) as reports:
                for report in reports:
                    bar.advance(progress.line, report.complete)
                    for clip_id, reason in report.failed.items():
                        progress.on_clip_done(clip_id, reason)
                    yield report
            return
        with Worker(config, options, networks) as worker:
            yield from build.build_local(store, worker, tasks, only_failed, progress.on_clip_done)


def _pending(store: CueStore, options: RunOptions) -> np.ndarray:
    """Return bool (n_clips,): the clips that are still to be built in this builder's share."""
    index, count = options.shard
    tasks = np.arange(store.n_clips) // store.spec.shard_clips
    pending: np.ndarray = store.statuses() == (FAILED if options.only_failed else ABSENT)
    return pending & (tasks % count == index)
