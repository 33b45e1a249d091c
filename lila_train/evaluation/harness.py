"""Run any protocol: finished parts are kept, the result carries a fingerprint, nothing is overwritten."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol, runtime_checkable

import torch

from lila_cues import console
from lila_cues.devices import usable_cores
from lila_cues.prefetch import map_ordered
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.models import GridModel
from lila_train.evaluation.results import ResultFolder, files_sha256, fingerprint
from lila_train.outputs import Json, as_json, open_folder, read_json, write_json
from stores.errors import LilaError


@dataclass(frozen=True)
class Task(ABC):
    """A protocol on a data set. A part is the smallest unit whose record is kept: a sequence, or one probe.

    Attributes:
        protocol: the id, such as davis-knn@lila.
        data: the listed data set: its folder `root`; `files`, all that are read, in order; `about`, what else
            determines the scores; `checks`, calls that read the files and raise LilaError for one that is unusable.
        config: what the command chose.
        rule: what the protocol fixes, a dataclass.
    """

    protocol: str
    data: Any
    config: EvalConfig
    rule: Any

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that shape the scores, as JSON values."""
        return asdict(self.rule)

    @abstractmethod
    def parts(self) -> Mapping[str, int]:
        """Return how often `run` calls `advance`, by part; the same for every model."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Return the numbers of sequences, objects, images or classes that are scored."""

    @abstractmethod
    def derived(self, model: GridModel) -> dict[str, Any]:
        """Return the sizes that follow from the settings for this model."""

    @abstractmethod
    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        """Compute a part's record; other files go below `folder`."""

    @abstractmethod
    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        """Return the metrics of one head from the records of all parts; None where nothing was measured."""


@runtime_checkable
class Spec(Protocol):
    """A model to score, before anything is loaded."""

    def heads(self) -> tuple[str, ...]:
        """Return the scored feature maps: `encoder`, and the name of the pixel map where there is one."""

    def identity(self) -> dict[str, Any]:
        """Return what determines the features: hashes of weight files, or the names that a hub resolves."""

    def load(self, device: torch.device) -> GridModel:
        """Load the model; LilaError where that fails."""


def evaluate(
    task: Task,
    spec: Spec,
    out: Path,
    device: torch.device,
    workers: int = 1,
    *,
    overwrite: bool = False,
    checked: bool = False,
) -> Json:
    """Return the result of `task` for a model: read from `out` if finished, else computed and written there.

    Args:
        workers: parts computed at once, in threads; their number changes no score.
        overwrite: delete the evaluation in `out`, if there is one, and start again.
        checked: the data have passed `check` in this process.
    """
    began = time.monotonic()
    identity: Json = {"protocol": task.protocol, "config": task.config.shaping(), "model": spec.identity()}
    data = {**task.data.about, "files_sha256": files_sha256(task.data.files, task.data.root)}
    identity = as_json(identity | {"settings": task.settings, "data": data})
    folder = ResultFolder(out)
    open_folder(out, folder.identity.name, identity, folder.own(), overwrite)
    if (finished := _kept(folder.result)) is not None:
        return finished
    if not checked:
        check(task)
    model = spec.load(device)
    derived = task.derived(model)
    n_kept = sum(folder.part(head, part).is_file() for head in spec.heads() for part in task.parts())
    records = _compute_parts(task, spec.heads(), model, folder, workers)
    result = {
        "protocol": task.config.evaluation_id(task.protocol),
        "fingerprint": fingerprint(identity),
        "scores": {head: task.metrics(parts.values()) for head, parts in records.items()},
        "counts": task.counts(),
        "config": task.config.to_dict(),
        "settings": task.settings,
        "derived": derived,
        "model": identity["model"] | model.describe(),
        "data": identity["data"],
        "data_root": str(task.data.root.resolve()),
        "device": str(device),
        "wall_seconds": round(time.monotonic() - began, 3),  # of the last call
        "earlier_parts": n_kept,  # computed by earlier calls
        "parts": records,
    }
    return write_json(folder.result, result)


def check(task: Task) -> None:
    """Read all files of a task once: one that cannot be used is a LilaError before hours of work, not after them."""
    checks = task.data.checks
    with console.progress("reads") as bar:
        read = map_ordered(lambda check: check(), checks, 8, usable_cores())
        for _ in bar.track(read, len(checks), description="check"):
            pass


def _kept(record: Path) -> Json | None:
    """Return a record; None where there is none, or a damaged one, which is computed again."""
    try:
        return read_json(record)
    except LilaError:
        return None


def default_workers(device: torch.device) -> int:
    """Return the number of cores over the threads that each part uses on a CPU; 1 on a GPU."""
    if device.type != "cpu":
        return 1
    return max(1, usable_cores() // torch.get_num_threads())


def _compute_parts(
    task: Task, heads: Sequence[str], model: GridModel, folder: ResultFolder, workers: int
) -> dict[str, dict[str, Json]]:
    """Return the record of each part by head; kept ones are read, the others computed and written.

    After an error in one part, or Ctrl-C, the others stop at their next step.
    """
    stop = Event()
    with console.progress("images") as bar, ThreadPoolExecutor(workers) as pool:
        steps = task.parts()
        rows = {head: bar.add_task(f"{task.protocol} {head}", total=sum(steps.values())) for head in heads}

        def compute(head: str, part: str) -> Json:
            def advance(count: int = 1) -> None:
                if stop.is_set():
                    raise CancelledError
                bar.advance(rows[head], count)

            try:
                advance(0)
                if (kept := _kept(folder.part(head, part))) is not None:
                    advance(steps[part])
                    return kept
                start = time.monotonic()
                record = task.run(model, head, part, folder.root, advance)
                record["seconds"] = round(time.monotonic() - start, 3)
                return write_json(folder.part(head, part), record)
            except BaseException:
                stop.set()
                raise

        futures = {(head, part): pool.submit(compute, head, part) for head in heads for part in steps}
        records: dict[str, dict[str, Json]] = {head: {} for head in heads}
        try:
            for (head, part), future in futures.items():
                records[head][part] = future.result()
        except CancelledError:
            errors = [future.exception() for future in futures.values()]
            raise next(error for error in errors if not isinstance(error, CancelledError | None)) from None
        finally:
            stop.set()
        return records
