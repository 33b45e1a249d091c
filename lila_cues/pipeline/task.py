"""The stream of stage one: clips of one task after the other pass decoding, networks, encoding and writing, in order.

A task is the clips of one shard, from their ids to shard files and a ledger record; it knows no scheduler.
`load_recompute` computes a stored clip's cues again, by the recipe in the store: for `lila-cues verify --deep`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lila_cues.config import BuildConfig, RunOptions, recorded_build
from lila_cues.datasets import open_dataset
from lila_cues.devices import usable_cores
from lila_cues.pipeline.cues import ClipPredictions, ClipValues, CueExtractor
from lila_cues.pipeline.errors import TRANSIENT, DeviceLost, TransientError, failure_reason, transient_reason
from lila_cues.pipeline.frames import ClipFrames, DepthFiles, load_clip
from lila_cues.pipeline.setup import Networks, load_networks
from lila_cues.prefetch import batched
from stores import plan
from stores.cues import ClipCues
from stores.errors import LilaError, first_line, os_reason
from stores.shards import EncodedClip, encode_clip
from stores.spec import StoreSpec
from stores.store import CueStore
from stores.writer import TaskWriter

MAX_THREADS = 18
CLIPS_AHEAD = 32  # about as many clips as a stream of `MAX_THREADS` threads holds
ENCODING_BYTES = 2 << 30  # memory of the clips that are predicted and not yet written
RETRY_SECONDS = (1.0, 3.0)  # before a clip is read again that a failing file system could not read

OnClipDone = Callable[[str, str | None], None]  # receives a clip's id, and the reason if it failed


@dataclass(frozen=True)
class TaskReport:
    """The result of one task."""

    task: int
    complete: int
    left: int = 0  # clips that are still absent, where the stream was stopped
    failed: dict[str, str] = field(default_factory=dict)  # clip id → reason
    bytes: int = 0  # of the clips that were completed, as stored
    flops: float = 0.0  # of the networks, for these clips; 0 where it is not known
    wall: float = 0.0  # s
    seconds: dict[str, float] = field(default_factory=dict)  # per part, of this worker since its last report
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)


def tasks_at_once(shard_clips: int) -> int:
    """Return how many tasks fill a worker's stream: besides those of `CLIPS_AHEAD`, one begins and two are finished."""
    return 3 + -(-CLIPS_AHEAD // shard_clips)


@dataclass
class _Task:
    store: CueStore
    number: int
    only_failed: bool
    on_clip_done: OnClipDone
    start: float = field(default_factory=time.perf_counter)
    lock: ExitStack = field(default_factory=ExitStack)
    writer: TaskWriter | None = None
    clips: int = 0  # that were pending
    remaining: int = 0  # of them, those neither written nor failed yet
    complete: int = 0
    bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    intact: bool = True  # no clip was written in part
    error: BaseException | None = None
    result: Future[TaskReport | None] = field(default_factory=Future)


class Worker(AbstractContextManager["Worker"]):
    """What one process needs to build tasks: dataset, networks, and the threads of its stream.

    One thread each locks tasks, runs the networks, writes clips and publishes tasks; pools decode and encode. Each
    hands its clips on in order, so that shards do not depend on the number of threads. While a task is finished, the
    networks have clips of the next ones.

    Setting `stop` ends the stream: clips that are predicted are published, the others stay pending. So does an error
    that is not a clip's own, which is raised from the result of its task.

    Args:
        threads: threads that decode and encode; None: by the usable cores.
    """

    def __init__(
        self, config: BuildConfig, options: RunOptions, networks: Networks | None = None, threads: int | None = None
    ):
        self.config = config
        self.dataset = open_dataset(config.dataset, options.root, config.decoder, config.seed)
        self.extractor = CueExtractor(networks or load_networks(config, options.device), config, options.device)
        self.timer = self.extractor.timer
        self.stop = threading.Event()
        self.clips_per_pass = options.clips_per_pass or self.extractor.clips_per_pass()
        self.error: BaseException | None = None
        threads = threads or max(2, min(MAX_THREADS, usable_cores() - 1))
        decoding = max(1, 2 * threads // 3)  # a clip takes about twice as long to decode as to encode
        encoding = max(1, threads - decoding)
        clip_bytes = plan.plan(StoreSpec(self.extractor.geometry), 1).clip_memory_bytes
        self._decoding = threading.Semaphore(2 * decoding)
        self._encoding = threading.Semaphore(self.clips_per_pass + min(2 * encoding, ENCODING_BYTES // clip_bytes))
        self._pass: list[tuple[_Task, int, ClipFrames | str | None]] = []
        self._coming = self._taken = 0  # clips of tasks that have begun, and those that the networks' thread took
        self._locking, self.decode_pool, self._networks, self.encode_pool, self._write, self._publish = self._pools = [
            ThreadPoolExecutor(count, name)
            for name, count in (
                ("lock", 1), ("decode", decoding), ("networks", 1), ("encode", encoding), ("write", 1), ("publish", 1)
            )
        ]  # fmt: skip

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for pool in self._pools:
            pool.shutdown()

    def submit(
        self,
        store: CueStore,
        task: int,
        only_failed: bool = False,
        on_clip_done: OnClipDone = lambda clip_id, reason: None,
    ) -> Future[TaskReport | None]:
        """Build the pending clips of a task. The result is None if another builder holds it or nothing was done.

        An unreadable clip, or one with NaN or infinity, is recorded with its reason and affects no other.
        """
        job = _Task(store, task, only_failed, on_clip_done)
        self._locking.submit(self._begin, job)
        return job.result

    def load_clip(self, clip_id: str) -> ClipFrames:
        """Runs in the decode pool."""
        depth = self.extractor.networks.depth
        files = depth if isinstance(depth, DepthFiles) else None
        with self.timer.host("decode"):
            return load_clip(self.dataset, clip_id, self.config, self.extractor.sizes.values(), files)

    def predict(self, store: CueStore, clips: Sequence[ClipFrames]) -> Sequence[ClipPredictions | ClipValues]:
        """Runs in the networks' thread. When the memory of a GPU is exhausted, passes are halved for good."""
        sizes = [self.clips_per_pass >> halved for halved in range(self.clips_per_pass.bit_length())]
        for size in (*sizes, 1):
            self.clips_per_pass = size
            with suppress(torch.OutOfMemoryError):
                return [each for part in batched(clips, size) for each in self._run_pass(store, part)]
            torch.cuda.empty_cache()  # after the error, whose traceback holds tensors
        raise LilaError(
            f"expected room on {self.extractor.device} for one clip, found its memory exhausted; end other programs on "
            "it, or choose smaller networks, a smaller --set cue_size, or fewer --set frames"
        )

    def _run_pass(self, store: CueStore, clips: list[ClipFrames]) -> Sequence[ClipPredictions | ClipValues]:
        """On a GPU, the last clip is repeated so that all passes have one shape, and the results are quantized."""
        if not self.extractor.on_gpu:
            return self.extractor.predict(clips)
        full = [*clips, *[clips[-1]] * (self.clips_per_pass - len(clips))]
        predictions = self.extractor.predict(full)[: len(clips)]
        return [self.extractor.quantize(each, store.arrays) for each in predictions]

    def encode(self, store: CueStore, predicted: ClipPredictions | ClipValues) -> EncodedClip | str:
        """Runs in the encode pool: PAMR and quantization of a CPU, compression; or the reason why they fail."""
        values = predicted if isinstance(predicted, ClipValues) else self.extractor.quantize(predicted, store.arrays)
        with self.timer.host("wait for the device"):
            stored = values.wait()
        if (reason := values.failure()) is not None:
            return reason
        with self.timer.host("compress"):
            return encode_clip(values.frames.clip_id, store.arrays, stored)

    def _begin(self, job: _Task) -> None:
        """Lock a task and hand on its clips, as many as there is room for."""
        clips: list[int] = []
        try:
            if not self.stop.is_set():
                job.writer = job.lock.enter_context(job.store.lock_task(job.number, job.only_failed))
            if job.writer is not None:
                clips = job.writer.pending()
        except BaseException as error:
            self._fail(error, job)
        job.clips = job.remaining = len(clips)
        self._coming += len(clips)
        if not clips:
            self._publish.submit(self._end, job)
        for clip in clips:
            self._decoding.acquire()
            frames = self.decode_pool.submit(self._decode, job, clip)
            self._networks.submit(self._predict, job, clip, frames)

    def _decode(self, job: _Task, clip: int) -> ClipFrames | str | None:
        clip_id, depth = job.store.clip_id(clip), self.extractor.networks.depth
        maps = depth.root if isinstance(depth, DepthFiles) else None
        for pause in (*RETRY_SECONDS, None):
            try:
                return None if self.stop.is_set() or job.error else self.load_clip(clip_id)
            except BaseException as error:
                reason = transient_reason(error, self.dataset, clip_id, maps, last=pause is None)
                if reason is None:
                    return failure_reason(error)
                if pause is None:
                    raise TransientError(
                        f"expected to read {clip_id} of {self.dataset.root}, found that the file system fails "
                        f"({reason}); completed clips are kept: see to the disk or mount, then run this command again"
                    ) from error
                self.stop.wait(pause)
        raise AssertionError("the last attempt returns or raises")

    def _predict(self, job: _Task, clip: int, decoded: Future[ClipFrames | str | None]) -> None:
        """Add a clip to the pass; run it when it is full or nothing else is coming."""
        frames = None
        with self.timer.host("wait for frames"):
            try:
                frames = decoded.result()
            except BaseException as error:
                self._fail(error, job)
        self._decoding.release()
        self._taken += 1
        with self.timer.host("wait for encoding"):
            self._encoding.acquire()
        self._pass.append((job, clip, frames))
        if len(self._pass) < self.clips_per_pass and self._coming > self._taken:
            return
        taken, self._pass = self._pass, []
        predictions: Iterable[ClipPredictions | ClipValues] = ()
        ready = [frames for _, _, frames in taken if isinstance(frames, ClipFrames)]
        if ready and not self.stop.is_set():
            try:
                predictions = self.predict(job.store, ready)
            except BaseException as error:
                self._fail(error, *(job for job, _, _ in taken))
        remaining = iter(predictions)
        for job, clip, frames in taken:
            outcome: Future[EncodedClip | str] | str | None = None
            if isinstance(frames, str):
                outcome = frames
            elif frames is not None and (predicted := next(remaining, None)) is not None:
                outcome = self.encode_pool.submit(self.encode, job.store, predicted)
            self._write.submit(self._add, job, clip, outcome)

    def _add(self, job: _Task, clip: int, outcome: Future[EncodedClip | str] | str | None) -> None:
        """Write a clip or its reason; hand on the task after its last clip."""
        try:
            encoded = outcome.result() if isinstance(outcome, Future) else outcome
            if encoded is not None and job.intact and job.writer is not None:
                clip_id, job.intact = job.store.clip_id(clip), False
                if isinstance(encoded, str):
                    job.writer.fail(clip, encoded)
                    job.failed[clip_id] = encoded
                else:
                    with self.timer.host("write"):
                        job.writer.add(clip, encoded)
                    job.complete += 1
                    job.bytes += sum(len(part) for parts in encoded.values() for part in parts)
                job.on_clip_done(clip_id, encoded if isinstance(encoded, str) else None)
                job.intact = True
        except BaseException as error:
            self._fail(error, job)
        self._encoding.release()
        job.remaining -= 1
        if not job.remaining:
            self._publish.submit(self._end, job)

    def _end(self, job: _Task) -> None:
        """Publish a task, or discard it if nothing was done; release its lock, and set its result."""
        report, done = None, bool(job.complete or job.failed)
        try:
            with self.timer.host("publish"):
                if done and job.intact:
                    job.lock.close()
                else:
                    job.lock.__exit__(CancelledError, CancelledError(), None)
            if done and job.error is None:
                wall, seconds = time.perf_counter() - job.start, self.timer.take()
                flops = (self.extractor.clip_flops or 0.0) * job.complete
                left = job.clips - job.complete - len(job.failed)
                report = TaskReport(job.number, job.complete, left, job.failed, job.bytes, flops, wall, seconds)
        except BaseException as error:
            self._fail(error, job)
        if job.error is None:
            job.result.set_result(report)
        else:
            job.result.set_exception(job.error)

    def _fail(self, error: BaseException, *jobs: _Task) -> None:
        """Raise the error from the result of each task; stop, unless it may pass."""
        if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
            error = DeviceLost(
                f"expected {self.extractor.device} to work, found that it failed ({first_line(error)}); completed "
                "clips are published: run the same command again, and if it fails again, see nvidia-smi"
            )
        elif isinstance(error, OSError) and error.errno in TRANSIENT:
            error = TransientError(
                f"expected to write a task, found that the file system fails ({error.filename or 'no place'}: "
                f"{os_reason(error)}); completed tasks are kept: run the same command again"
            )
        if not isinstance(error, TransientError):
            self.error = self.error or error
            self.stop.set()
        for job in jobs:
            job.error = job.error or error


def load_recompute(
    store: CueStore, root: Path | None = None, device: str | None = None, networks: Networks | None = None
) -> Callable[[int], ClipCues]:
    """Load the networks that a store was built with; return a function from a clip to its cues before quantization.

    `root`, `device` and `networks` replace the recorded ones.

    Raises:
        LilaError: no recipe in the store, or networks that are not those of the build.
    """
    config, options = recorded_build(store, root, device)
    # PyAV gives the same frames as the recorded decoder
    worker = Worker(config.replace(decoder="pyav"), options, networks, threads=1)
    weights = config.fingerprint(worker.extractor.networks.records())["weights"]
    changed = [kind for kind, hashes in store.fingerprint["weights"].items() if hashes != weights.get(kind)]
    if changed:
        raise LilaError(
            f"expected the networks that {store.path} was built with, found others ({', '.join(changed)} differ); "
            "restore the weight files at the places in its provenance"
        )

    def recompute(clip: int) -> ClipCues:
        (predictions,) = worker.extractor.predict([worker.load_clip(store.clip_id(clip))])
        return worker.extractor.on_host(predictions)

    return recompute
