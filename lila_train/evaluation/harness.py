"""One way to run every protocol: parts that are kept when done, one result under a fingerprint, nothing overwritten."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Protocol, runtime_checkable

import torch

from lila_cues import console
from lila_train.evaluation.models import GridModel
from lila_train.evaluation.results import Json, ResultFolder, fingerprint, read_json, write_json


@runtime_checkable
class Task(Protocol):
    """A protocol on a data folder. A part is the smallest work whose record is kept: a sequence, or a whole probe."""

    @property
    def protocol(self) -> str:
        """Its id, such as davis-knn@lila."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """Everything of the protocol that shapes the figures, as JSON keeps it."""
        ...

    @property
    def root(self) -> Path:
        """The data folder."""
        ...

    def parts(self) -> Sequence[str]:
        """Their names, by which records are kept; they do not depend on the model."""
        ...

    def steps(self, part: str) -> int:
        """How often `run` will call `advance`."""
        ...

    def data_identity(self) -> dict[str, Any]:
        """What tells these data from others: layout, lists, a hash of names and sizes."""
        ...

    def counts(self) -> dict[str, int]:
        """How much the figures are of: sequences, objects, images, classes."""
        ...

    def derived(self, model: GridModel) -> dict[str, Any]:
        """What the settings come to for this model."""
        ...

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        """Compute a part's record, a JSON object."""
        ...

    def figures(self, records: Iterable[Json]) -> dict[str, float | None]:
        """The figures of one head from the records of all parts."""
        ...


@runtime_checkable
class Spec(Protocol):
    """A model asked for, before anything is loaded."""

    def heads(self) -> tuple[str, ...]:
        """What is scored: `encoder`, and the name of the pixel map where there is one."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the features: hashes of weight files, or the names that a hub resolves."""
        ...

    def load(self, device: torch.device) -> GridModel:
        """The model on the device; LilaError where it cannot be had."""
        ...


def identity_of(task: Task, spec: Spec) -> Json:
    """Everything that decides the figures."""
    return {
        "protocol": task.protocol,
        "model": spec.identity(),
        "settings": task.settings,
        "data": task.data_identity(),
    }


def evaluate(task: Task, spec: Spec, out: Path, device: torch.device, workers: int = 1) -> Json:
    """The result of `task` for this model, from `out` if it is there, else computed part by part and written there.

    `workers` parts are computed side by side, in threads; their number changes no figure.
    """
    identity = identity_of(task, spec)
    folder = ResultFolder(out)
    folder.claim(identity)
    if (finished := folder.finished()) is not None:
        return finished
    model = spec.load(device)
    derived = task.derived(model)
    records = _records(task, spec.heads(), model, folder, workers)
    result = {
        "protocol": task.protocol,
        "fingerprint": fingerprint(identity),
        "scores": {head: task.figures(parts.values()) for head, parts in records.items()},
        "counts": task.counts(),
        "settings": task.settings,
        "derived": derived,
        "model": identity["model"] | model.describe(),
        "data": identity["data"],
        "data_root": str(task.root.resolve()),
        "device": str(device),
        "seconds": {head: _seconds(parts.values()) for head, parts in records.items()},
        "parts": records,
    }
    write_json(folder.result, result)
    return _read(folder.result)


def default_workers(device: torch.device) -> int:
    """As many as there are cores for, given the threads that each uses; one on a GPU."""
    if device.type != "cpu":
        return 1
    return max(1, len(os.sched_getaffinity(0)) // torch.get_num_threads())


def _records(
    task: Task, heads: Sequence[str], model: GridModel, folder: ResultFolder, workers: int
) -> dict[str, dict[str, Json]]:
    parts = [(head, part) for head in heads for part in task.parts()]
    with console.progress("images") as bar, ThreadPoolExecutor(workers) as pool:
        total = sum(task.steps(part) for part in task.parts())
        shown = {head: bar.add_task(f"{task.protocol} {head}", total=total) for head in heads}
        stop = Event()

        def record(head: str, part: str) -> Json:
            kept = read_json(folder.part(head, part))
            steps = 1 if kept is None else task.steps(part)

            def advance() -> None:
                if stop.is_set():
                    raise CancelledError
                bar.advance(shown[head], steps)

            if kept is not None:
                advance()
            return kept or _timed(task, model, head, part, folder, advance)

        return _gathered(pool, record, parts, stop)


def _gathered(
    pool: ThreadPoolExecutor, record: Callable[[str, str], Json], parts: Sequence[tuple[str, str]], stop: Event
) -> dict[str, dict[str, Json]]:
    """All records; when one part fails, or the user has had enough, the others end at their next step."""

    def watched(head: str, part: str) -> Json:
        try:
            if stop.is_set():
                raise CancelledError
            return record(head, part)
        except BaseException:
            stop.set()
            raise

    futures = {key: pool.submit(watched, *key) for key in parts}
    try:
        found: dict[str, dict[str, Json]] = {}
        for (head, part), future in futures.items():
            found.setdefault(head, {})[part] = future.result()
        return found
    except CancelledError:
        raise next(error for future in futures.values() if (error := _cause(future)) is not None) from None
    finally:
        stop.set()


def _cause(future: Future[Json]) -> BaseException | None:
    """What made a part fail, unless it only followed another."""
    error = future.exception()
    return None if isinstance(error, CancelledError) else error


def _timed(
    task: Task, model: GridModel, head: str, part: str, folder: ResultFolder, advance: Callable[[], None]
) -> Json:
    began = time.monotonic()
    record = task.run(model, head, part, folder.root, advance)
    record["seconds"] = round(time.monotonic() - began, 3)
    write_json(folder.part(head, part), record)
    return _read(folder.part(head, part))


def _read(path: Path) -> Json:
    """What was written, so that a fresh and a resumed run go on with the same values."""
    content = read_json(path)
    assert content is not None
    return content


def _seconds(records: Iterable[Json]) -> float:
    return round(sum(record["seconds"] for record in records), 3)
