"""A task: the clips of one shard, from their ids to shard files and a ledger record. Independent of any scheduler.

`load_recompute` computes a stored clip's cues again, by the recipe in the store: for `lila-cues verify --deep`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path

from lila_cues.config import BuildConfig, RunOptions
from lila_cues.datasets import open_dataset
from lila_cues.devices import usable_cores
from lila_cues.pipeline.cues import ClipPredictions, CueExtractor, network_failure
from lila_cues.pipeline.frames import ClipFrames, DepthFiles, load_clip
from lila_cues.pipeline.setup import Networks, load_networks
from lila_cues.prefetch import map_ordered
from lila_cues.video.decoders import require_decoder
from stores.cues import ClipCues
from stores.errors import LilaError
from stores.shards import EncodedClip, encode_clip
from stores.store import CueStore

TASKS_AT_ONCE = 2
"""While one task is finished and published, the next one already has frames for the networks."""
MAX_THREADS = 12
MAX_ENCODING = 2
"""Clips per task that are predicted and not yet written."""
MAX_REASON = 400  # characters

OnClipDone = Callable[[str, str | None], None]
"""Receives a clip's id, and the reason if it failed."""


@dataclass(frozen=True)
class TaskReport:
    """The result of one task."""

    task: int
    complete: int
    failed: dict[str, str] = field(default_factory=dict)  # clip id → reason
    bytes: int = 0  # of the clips that were completed, as stored
    wall: float = 0.0  # s
    seconds: dict[str, float] = field(default_factory=dict)  # per part, of this worker since its last report


def build_task(
    store: CueStore,
    task: int,
    worker: Worker,
    only_failed: bool = False,
    on_clip_done: OnClipDone = lambda clip_id, reason: None,
) -> TaskReport | None:
    """Build the pending clips of a task. Return None if another builder holds it or nothing is pending.

    A clip that cannot be read, or for which a network gives NaN or infinity, is recorded with its reason and affects
    no other. When the worker is stopped, the clips that are predicted are published and the others stay pending.
    """
    start, complete, size, failed = time.perf_counter(), 0, 0, dict[str, str]()
    with store.lock_task(task, only_failed) as writer:
        if writer is None:
            return None
        for clip, encoded in _encoded_clips(store, writer.pending(), worker):
            clip_id, reason = store.clip_id(clip), None
            if isinstance(encoded, str):
                failed[clip_id] = reason = encoded
                writer.fail(clip, reason)
            else:
                with worker.timer.host("write"):
                    writer.add(clip, encoded)
                complete += 1
                size += sum(len(part) for parts in encoded.values() for part in parts)
            on_clip_done(clip_id, reason)
    seconds = worker.timer.take()
    return TaskReport(task, complete, failed, size, time.perf_counter() - start, seconds)


def _encoded_clips(store: CueStore, clips: Iterable[int], worker: Worker) -> Iterator[tuple[int, EncodedClip | str]]:
    """Decode ahead, predict in turn, encode behind; each clip in order, or the reason why it cannot be read."""

    def load(clip: int) -> tuple[int, ClipFrames | str]:
        try:
            return clip, worker.load_clip(store.clip_id(clip))
        except BaseException as error:
            return clip, failure_reason(error)

    def predicted() -> Iterator[tuple[int, ClipPredictions | str]]:
        with closing(map_ordered(load, clips, worker.threads, pool=worker.decode_pool)) as loaded:
            while not worker.stop.is_set():
                with worker.timer.host("wait for frames"):
                    item = next(loaded, None)
                if item is None:
                    return
                clip, frames = item
                yield clip, frames if isinstance(frames, str) else worker.predict(frames)

    def encode(item: tuple[int, ClipPredictions | str]) -> tuple[int, EncodedClip | str]:
        clip, predictions = item
        return clip, predictions if isinstance(predictions, str) else worker.encode(store, predictions)

    return map_ordered(encode, predicted(), MAX_ENCODING, pool=worker.encode_pool)


def failure_reason(error: BaseException) -> str:
    """Return what the ledger records of a clip that cannot be read; raise what is not the file's fault."""
    if isinstance(error, LilaError):
        return str(error)
    if not isinstance(error, Exception) or isinstance(error, CancelledError | MemoryError):
        raise error
    return f"{type(error).__name__}: {error}"[:MAX_REASON]


class Worker(AbstractContextManager["Worker"]):
    """What one process needs to build tasks: dataset, networks, and pools of threads that decode and encode.

    `TASKS_AT_ONCE` threads may build tasks with one worker; the networks serve one clip after another.
    """

    def __init__(
        self,
        config: BuildConfig,
        options: RunOptions,
        networks: Networks | None = None,
        threads: int | None = None,
        stop: threading.Event | None = None,
    ):
        require_decoder(config.decoder)
        self.config = config
        self.dataset = open_dataset(config.dataset, options.root, config.decoder, config.seed)
        self.extractor = CueExtractor(networks or load_networks(config, options.device), config, options.device)
        self.timer = self.extractor.timer
        self.stop = stop or threading.Event()
        self.threads = threads or max(2, min(MAX_THREADS, usable_cores() - 2))
        self.decode_pool = ThreadPoolExecutor(self.threads, "decode")
        self.encode_pool = ThreadPoolExecutor(max(2, self.threads // 2), "encode")
        self._predict_lock = threading.Lock()

    def __exit__(self, *error: object) -> None:
        """Start no other clip, and wait for those that are begun."""
        self.stop.set()
        self.decode_pool.shutdown(cancel_futures=True)
        self.encode_pool.shutdown()

    def load_clip(self, clip_id: str) -> ClipFrames:
        """Runs in the decode pool."""
        size, depth = self.extractor.encoder_input, self.extractor.networks.depth
        with self.timer.host("decode"):
            files = depth if isinstance(depth, DepthFiles) else None
            return load_clip(self.dataset, clip_id, self.config, size, files)

    def predict(self, frames: ClipFrames) -> ClipPredictions:
        """Runs the networks, for one clip at a time."""
        with self._predict_lock:
            return self.extractor.predict(frames)

    def encode(self, store: CueStore, predictions: ClipPredictions) -> EncodedClip | str:
        """Runs in the encode pool: PAMR on a CPU, quantization and compression, or the reason why they fail."""
        cues = self.extractor.finish(predictions)
        if (reason := network_failure(cues)) is not None:
            return reason
        with self.timer.host("compress"):
            return encode_clip(predictions.frames.clip_id, store.arrays, cues)


def load_recompute(
    store: CueStore, root: Path | None = None, device: str | None = None, networks: Networks | None = None
) -> Callable[[CueStore, int], ClipCues]:
    """Load the networks that a store was built with; return a function of (store, clip): cues before quantization.

    `root`, `device` and `networks` replace the recorded ones.

    Raises:
        LilaError: no recipe in the store, or networks that are not those of the build.
    """
    recorded = store.provenance
    if "settings" not in recorded:
        raise LilaError(
            f"expected the settings of its build in {store.path}, found none; only stores that `lila-cues build` of "
            "this version wrote can be recomputed"
        )
    config = BuildConfig.from_dict(recorded["settings"], store.path)
    options = RunOptions(root or Path(recorded["root"]), device=device or recorded["device"])
    # PyAV gives the same frames as the recorded decoder
    worker = Worker(config.replace(decoder="pyav"), options, networks, threads=1)
    weights = config.fingerprint(worker.extractor.networks.records())["weights"]
    changed = [kind for kind, hashes in store.fingerprint["weights"].items() if hashes != weights.get(kind)]
    if changed:
        raise LilaError(
            f"expected the networks that {store.path} was built with, found others ({', '.join(changed)} differ); "
            "restore the weight files at the places in its provenance"
        )

    return lambda store, clip: worker.extractor.finish(worker.predict(worker.load_clip(store.clip_id(clip))))
