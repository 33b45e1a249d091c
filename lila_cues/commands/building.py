"""What `lila-cues build` does once its options are read: look, say, build, and show what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import stores
from lila_cues.commands import build_words as words
from lila_cues.commands import holders
from lila_cues.order import Order
from stores import clips as clip_list
from stores import console, plan
from stores.errors import LilaError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.store import CueStore

if TYPE_CHECKING:
    from lila_cues.pipeline.build import Tally
    from lila_cues.pipeline.networks import Networks
    from lila_cues.pipeline.recipe import BuildRecipe
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
    checksums = clip_list.describe(*clip_list.encode(clips))
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
    from lila_cues.pipeline import build, prepare

    choice = prepare.choose(order)
    words.notices(choice.notes)
    recipe, networks = prepare.load(order, choice)
    _check_room(order.path, recipe, len(clips))
    store = build.open_store(order.path, recipe, clips, networks.records(), order.to_dict())
    del clips
    left = to_do(store, how)
    if not left:
        console.out.print(words.finished(store, how.shard))
        return ALL_COMPLETE
    console.out.print(words.announcement(choice, recipe, networks, store, left))
    words.notices(networks.notes(recipe.geometry.cue))
    words.notices(holders.notes(store, how.only_failed))
    start = time.perf_counter()
    tally = build.Tally()
    with closing(_reports(recipe, networks, store, how, left)) as reports:
        for report in reports:
            build.log_report(store, report)
            tally.add(store, report)
            _stop_at(tally, how)
    store.publish_statuses()
    console.out.print(words.summary(store, tally, time.perf_counter() - start))
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
    from lila_cues.pipeline.worker import Worker

    tasks = build.share_of(store.pending_tasks(how.only_failed), how.shard)
    with console.progress("clips") as bar:
        watch = words.Watch(bar, left)
        if how.workers or how.scheduler:
            from lila_cues import cluster

            for report in cluster.build_there(store, recipe, tasks, how.only_failed, how.workers, how.scheduler):
                watch.report(report)
                yield report
            return
        with Worker(recipe, networks) as worker:
            yield from build.build_here(store, worker, tasks, how.only_failed, watch.clip)


def _stop_at(tally: Tally, how: Conduct) -> None:
    if how.max_failures is not None and tally.failed > how.max_failures:
        name, reason = tally.shown(1)[0]
        raise LilaError(
            f"expected at most {how.max_failures} clips to fail, found {tally.failed} (the first is {name}: {reason}); "
            "what was finished is kept: mend the files or pass a larger --max-failures"
        )
