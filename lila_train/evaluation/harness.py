"""One way to run every protocol: parts that are kept when done, one result under a fingerprint, nothing overwritten."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from lila_train.evaluation.models import GridModel
from lila_train.evaluation.result_folder import Json, ResultFolder, fingerprint, read_json, write_json
from stores import console


@runtime_checkable
class Task(Protocol):
    """A protocol on a data folder. A part is the smallest work whose record is kept: a sequence, or a whole probe."""

    @property
    def protocol(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def root(self) -> Path:
        """The data folder."""
        ...

    def parts(self) -> Sequence[str]: ...

    def steps(self, part: str) -> int:
        """How often `run` will call `advance`."""
        ...

    def data_identity(self) -> dict[str, Any]: ...

    def counts(self) -> dict[str, int]: ...

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

    def heads(self) -> tuple[str, ...]: ...

    def identity(self) -> dict[str, Any]: ...

    def load(self, device: torch.device) -> GridModel: ...


def identity_of(task: Task, spec: Spec) -> Json:
    """Everything that decides the figures."""
    return {
        "protocol": task.protocol,
        "model": spec.identity(),
        "settings": task.settings,
        "data": task.data_identity(),
    }


def evaluate(task: Task, spec: Spec, out: Path, device: torch.device) -> Json:
    """The result of `task` for this model, from `out` if it is there, else computed part by part and written there."""
    identity = identity_of(task, spec)
    folder = ResultFolder(out)
    folder.claim(identity)
    if (finished := folder.finished()) is not None:
        return finished
    model = spec.load(device)
    derived = task.derived(model)
    records = _records(task, spec.heads(), model, folder)
    result = {
        "protocol": task.protocol,
        "fingerprint": fingerprint(identity),
        "scores": {head: task.figures(parts.values()) for head, parts in records.items()},
        "counts": task.counts(),
        "settings": task.settings,
        "derived": derived,
        "model": spec.identity() | model.describe(),
        "data": identity["data"],
        "data_root": str(task.root.resolve()),
        "device": str(device),
        "seconds": {head: _seconds(parts.values()) for head, parts in records.items()},
        "parts": records,
    }
    write_json(folder.result, result)
    return _read(folder.result)


def _records(task: Task, heads: Sequence[str], model: GridModel, folder: ResultFolder) -> dict[str, dict[str, Json]]:
    records: dict[str, dict[str, Json]] = {head: {} for head in heads}
    with console.progress("frames") as bar:
        for head in heads:
            shown = bar.add_task(head, total=sum(task.steps(part) for part in task.parts()))
            for part in task.parts():
                bar.update(shown, description=f"{head}: {part}")
                kept = read_json(folder.part(head, part))
                if kept is None:
                    kept = _timed(task, model, head, part, folder, lambda shown=shown: bar.advance(shown))  # type: ignore[misc]
                else:
                    bar.advance(shown, task.steps(part))
                records[head][part] = kept
            bar.update(shown, description=head)
    return records


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
