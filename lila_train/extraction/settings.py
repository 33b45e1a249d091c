"""What shapes the features of a file, and the record by which a folder of them is recognised."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lila_train.inference.media import Medium
from lila_train.whole_files import written_whole
from stores.errors import LilaError

FORMATS = ("npz", "safetensors", "zarr", "pca")
PRECISIONS = ("float32", "bfloat16", "float16")
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Settings:
    """Sizes in pixels: `size` is the short side that features are computed at, None as it is; `model` is its identity.

    `precision` is of the computation, `dtype` of what is written; `pca_from` tells one shared basis from another.
    """

    model: str
    formats: tuple[str, ...] = ("npz", "pca")
    size: int | None = None
    tile: int | None = None
    overlap: int | None = None
    max_frames: int | None = None
    precision: str = "float32"
    dtype: str = "float16"
    pca_from: str | None = None

    def __post_init__(self) -> None:
        for name, given, known in (
            ("--format", self.formats, FORMATS),
            ("--precision", (self.precision,), PRECISIONS),
            ("--dtype", (self.dtype,), DTYPES),
        ):
            if unknown := set(given) - set(known):
                raise LilaError(f"expected {name} among {', '.join(known)}, found {', '.join(sorted(unknown))}")
        if not self.formats:
            raise LilaError(f"expected at least one --format among {', '.join(FORMATS)}, found none")

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record


class Cache:
    """A folder of features of one setting: `features.json` says which, `files.jsonl` what has been begun and done."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Claim the folder; one that holds features of other settings is refused."""
        self.folder = folder
        self._journal = folder / "files.jsonl"
        record = folder / "features.json"
        wanted = settings.to_dict()
        if record.exists():
            _refuse_difference(json.loads(record.read_text()), wanted, folder)
        with written_whole(record) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1))
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        self._states = {entry["name"]: entry for line in lines if (entry := _entry(line))}

    def is_done(self, medium: Medium) -> bool:
        """Whether this very file has been done; one that has changed since has not."""
        return self._states.get(str(medium.name)) == _state(medium, "done")

    def is_begun(self, medium: Medium) -> bool:
        """Whether what is there of it is of this very file."""
        return self._states.get(str(medium.name)) == _state(medium, "begun")

    def note(self, medium: Medium, state: str) -> None:
        """Record that a file is `begun` or `done`."""
        entry = _state(medium, state)
        with self._journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._states[entry["name"]] = entry


def _state(medium: Medium, state: str) -> dict[str, Any]:
    found = medium.path.stat()
    source = str(medium.path.resolve())
    return {
        "name": str(medium.name),
        "source": source,
        "bytes": found.st_size,
        "time": found.st_mtime_ns,
        "state": state,
    }


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the journal; None for one that was cut short."""
    try:
        found: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found


def _refuse_difference(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if names:
        differences = "; ".join(f"{n} was {found.get(n)}, now {wanted.get(n)}" for n in names)
        raise LilaError(
            f"{folder} holds features of other settings ({differences}); pass the same settings to go on there, or "
            "another --out"
        )
