"""What one process needs to build tasks: a source, the networks, and threads before and behind them. Made once."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from lila_cues.decoding import require_decoder
from lila_cues.pipeline.intake import ClipFrames, take_in
from lila_cues.pipeline.maker import Computed, CueMaker
from lila_cues.pipeline.networks import Networks, load_networks
from lila_cues.pipeline.recipe import BuildRecipe
from lila_cues.sources import Source, SourceOptions, open_source
from stores import payloads
from stores.payloads import ClipPayloads
from stores.store import CueStore

Item = TypeVar("Item")
Result = TypeVar("Result")

TASKS_AT_ONCE = 2
"""While one task is being finished and published, the next one already has frames for the networks."""
MOST_THREADS = 12


class Worker:
    """Decoding ahead of the networks and compression behind them, each in a pool of threads.

    Tasks may be built by `TASKS_AT_ONCE` threads at a time; the networks serve one clip after another.
    """

    def __init__(self, recipe: BuildRecipe, networks: Networks | None = None, threads: int | None = None):
        self.recipe = recipe
        self.source = open_recipe_source(recipe)
        self.maker = CueMaker(networks or load_networks(recipe.networks, recipe.device), recipe)
        self.seconds = self.maker.seconds
        self.turn = threading.Lock()
        self.stop = threading.Event()
        self.threads = threads or max(2, min(MOST_THREADS, (os.cpu_count() or 2) - 2))
        self.ahead = ThreadPoolExecutor(self.threads, "decode")
        self.behind = ThreadPoolExecutor(max(2, self.threads // 2), "encode")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Begin no other clip, and let the threads end with those that are begun."""
        self.stop.set()
        self.ahead.shutdown(cancel_futures=True)
        self.behind.shutdown()

    def take_in(self, clip_id: str) -> ClipFrames:
        """The frames of a clip; runs ahead."""
        with self.seconds.host("decode"):
            return take_in(self.source, clip_id, self.recipe, self.maker.networks.depth_files)

    def compute(self, frames: ClipFrames) -> Computed:
        """The networks; one clip at a time."""
        with self.turn:
            return self.maker.compute(frames)

    def encode(self, store: CueStore, made: Computed) -> ClipPayloads:
        """PAMR where it is left to the host, and compression; runs behind."""
        cues = self.maker.finish(made)
        with self.seconds.host("compress"):
            return payloads.encode_clip(made.frames.clip_id, store.arrays, cues)


def open_recipe_source(recipe: BuildRecipe) -> Source:
    """The source that a recipe names."""
    choice = recipe.source
    require_decoder(choice.decoder)
    return open_source(choice.name, Path(choice.root), SourceOptions(choice.decoder, choice.seed))


def run_ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], bound: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with its future, in order; at most `bound` of them are begun before they are asked for."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) >= bound:
            yield waiting.popleft()
    yield from iter(waiting)
