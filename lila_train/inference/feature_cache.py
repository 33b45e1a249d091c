"""How features are kept: a file per frame (npz, safetensors), or one Zarr array per image or video.

What shapes the features of a file, and the record by which a folder of them is recognised.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from lila_cues.inputs import InputFile
from stores.atomic import atomic_path
from stores.errors import LilaError

Features = Float[np.ndarray, "d h w"]


@runtime_checkable
class ArrayFormat(Protocol):
    """Writes the features of frame `index` of `place` (a path without suffix), or of an image where it is None."""

    def write(self, place: Path, index: int | None, features: Features) -> None:
        """Write d×h×w values in their own type, a file whole or not at all."""
        ...

    def read(self, place: Path, index: int | None) -> Features | None:
        """What was written; None if it is not there in full."""
        ...


@dataclass(frozen=True)
class FilePerFrame:
    """PLACE.suffix for an image; PLACE/00000.suffix, … for a video."""

    suffix: str
    save: Callable[[Path, Features], None]
    load: Callable[[Path], Features]

    def path(self, place: Path, index: int | None) -> Path:
        """The file of a frame."""
        return place.with_name(f"{place.name}{self.suffix}") if index is None else place / f"{index:05d}{self.suffix}"

    def write(self, place: Path, index: int | None, features: Features) -> None:
        """By way of a hidden file beside it."""
        with atomic_path(self.path(place, index)) as temporary:
            self.save(temporary, features)

    def read(self, place: Path, index: int | None) -> Features | None:
        """The values of a file that is there, since none is there in part."""
        path = self.path(place, index)
        return self.load(path) if path.exists() else None


class ZarrArrays:
    """PLACE.zarr, an array d×h×w of an image, t×d×h×w of a video; a chunk holds at most a frame's 512 rows."""

    def write(self, place: Path, index: int | None, features: Features) -> None:
        """The first frame makes the array, overwriting another; later ones make it longer."""
        import zarr

        path = _zarr_path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not index:
            array = _created(path, features, index is not None)
        else:
            array = zarr.open_array(path, mode="r+")
            array.resize((max(index + 1, array.shape[0]), *array.shape[1:]))
        rows = array.chunks[-2]
        for top in range(0, features.shape[1], rows):
            part = np.asarray(features[:, top : top + rows])
            where = (slice(None), slice(top, top + rows))
            array[where if index is None else (index, *where)] = part

    def read(self, place: Path, index: int | None) -> Features | None:
        """None also where a value is NaN, the mark of a chunk that was not written."""
        import zarr

        path = _zarr_path(place)
        if not (path / "zarr.json").exists():
            return None
        array = zarr.open_array(path, mode="r")
        if index is not None and index >= array.shape[0]:
            return None
        found = np.asarray(array[...] if index is None else array[index])
        return None if np.isnan(found).any() else found


def _zarr_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.zarr")


def _created(path: Path, features: Features, with_time: bool) -> Any:
    import zarr

    shape, chunks = features.shape, (features.shape[0], min(512, features.shape[1]), features.shape[2])
    names = ["channel", "y", "x"]
    return zarr.create_array(
        path,
        shape=(1, *shape) if with_time else shape,
        chunks=(1, *chunks) if with_time else chunks,
        dtype=features.dtype,
        fill_value=np.nan,
        compressors=None,  # they would take longer than many networks, to save a tenth
        dimension_names=["frame", *names] if with_time else names,
        overwrite=True,
    )


def _save_npz(path: Path, features: Features) -> None:
    with path.open("wb") as file:
        np.savez(file, features=features)


def _load_npz(path: Path) -> Features:
    with np.load(path) as file:
        found: Features = file["features"]
    return found


def _save_safetensors(path: Path, features: Features) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file({"features": np.ascontiguousarray(features)}, path)


def _load_safetensors(path: Path) -> Features:
    import safetensors.numpy

    found: Features = safetensors.numpy.load_file(path)["features"]
    return found


ARRAYS: dict[str, ArrayFormat] = {
    "npz": FilePerFrame(".npz", _save_npz, _load_npz),
    "safetensors": FilePerFrame(".safetensors", _save_safetensors, _load_safetensors),
    "zarr": ZarrArrays(),
}


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
        with atomic_path(record) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1))
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        self._states = {entry["name"]: entry for line in lines if (entry := _entry(line))}

    def is_done(self, medium: InputFile) -> bool:
        """Whether this very file has been done; one that has changed since has not."""
        return self._states.get(str(medium.name)) == _state(medium, "done")

    def is_begun(self, medium: InputFile) -> bool:
        """Whether what is there of it is of this very file."""
        return self._states.get(str(medium.name)) == _state(medium, "begun")

    def note(self, medium: InputFile, state: str) -> None:
        """Record that a file is `begun` or `done`."""
        entry = _state(medium, state)
        with self._journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._states[entry["name"]] = entry


def _state(medium: InputFile, state: str) -> dict[str, Any]:
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
