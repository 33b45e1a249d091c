"""A folder of computed features: the settings that shaped them, the files that are done, and the arrays.

`features.json` holds the settings, `files.jsonl` a line for each input file that was begun or done. Arrays are a file
per frame (npz, safetensors), or one Zarr array per image or video.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import zarr
from jaxtyping import Float

from lila_cues.inputs import InputFile
from stores.atomic import atomic_path, atomic_write
from stores.errors import LilaError

FORMATS = ("npz", "safetensors", "zarr", "pca")
PRECISIONS = ("float32", "bfloat16", "float16")
DTYPES = ("float16", "float32")

Features = Float[np.ndarray, "d h w"]
State = Literal["begun", "done"]


@dataclass(frozen=True)
class FeatureSettings:
    """Settings that change the features of a file or their pictures; the cache refuses to mix them.

    `model` is the model's identity, `size` the short side that features are computed at in pixels (None: the image's
    own), `precision` that of the computation, `dtype` that of the arrays; `pca_from` identifies a shared PCA basis.
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


class FeatureCache:
    """Features of one setting in a folder, so that an interrupted extraction can be resumed."""

    def __init__(self, folder: Path, settings: FeatureSettings) -> None:
        """Create or open the folder; LilaError if it holds features of other settings."""
        self.folder, self.settings = folder, settings
        self._arrays = [ARRAY_FORMATS[name] for name in settings.formats if name in ARRAY_FORMATS]
        self._journal = folder / "files.jsonl"
        record = folder / "features.json"
        wanted: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
        found = json.loads(record.read_text()) if record.exists() else wanted
        different = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        if different:
            differences = "; ".join(f"{name} was {found.get(name)}, now {wanted.get(name)}" for name in different)
            raise LilaError(
                f"{folder} holds features of other settings ({differences}); pass the same settings to resume, or "
                "another --out"
            )
        atomic_write(json.dumps(wanted, indent=1), record)
        self._entries: dict[str, Any] = {}
        for line in self._journal.read_text().splitlines() if self._journal.exists() else []:
            with suppress(json.JSONDecodeError):  # of a line that was cut short
                entry = json.loads(line)
                self._entries[entry["name"]] = entry

    def state(self, file: InputFile) -> State | None:
        """Return what is recorded of a file; None if nothing is, or if the file has changed since."""
        entry = self._entries.get(str(file.name))
        return entry["state"] if entry and entry == _entry(file, entry["state"]) else None

    def record(self, file: InputFile, state: State) -> None:
        """Append the state of a file to the journal."""
        entry = _entry(file, state)
        with self._journal.open("a") as journal:
            journal.write(json.dumps(entry) + "\n")
        self._entries[entry["name"]] = entry

    def path(self, file: InputFile, suffix: str) -> Path:
        """Return where a picture or video made of a file is written; its folder is created."""
        path = self.folder / file.name.with_name(f"{file.name.name}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, file: InputFile, index: int | None, features: Features, only_missing: bool = False) -> None:
        """Write the features of frame `index` of a video, or of an image for None, in every array format."""
        for arrays in self._arrays:
            if not only_missing or arrays.read(self.folder / file.name, index) is None:
                arrays.write(self.folder / file.name, index, features)

    def read(self, file: InputFile, index: int | None) -> Features | None:
        """Return stored features; None if they are not stored completely, or no array format was chosen."""
        return self._arrays[0].read(self.folder / file.name, index) if self._arrays else None


def _entry(file: InputFile, state: str) -> dict[str, Any]:
    """Return a line of the journal, which identifies the file by path, size and modification time."""
    found = file.path.stat()
    source = str(file.path.resolve())
    return {"name": str(file.name), "source": source, "bytes": found.st_size, "time": found.st_mtime_ns, "state": state}


@dataclass(frozen=True)
class FilePerFrame:
    """BASE.suffix for an image; BASE/00000.suffix, … for a video. A file is complete or absent."""

    suffix: str  # .npz or .safetensors

    def write(self, base: Path, index: int | None, features: Features) -> None:
        with atomic_path(self._path(base, index), sync=False) as temporary:  # a frame would wait for the disk
            if self.suffix == ".npz":
                np.savez(temporary, features=features)
            else:  # save_file would make it unreadable for others
                temporary.write_bytes(safetensors.numpy.save({"features": np.ascontiguousarray(features)}))

    def read(self, base: Path, index: int | None) -> Features | None:
        path = self._path(base, index)
        if not path.exists():
            return None
        if self.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)["features"]
        with np.load(path) as file:
            features: Features = file["features"]
        return features

    def _path(self, base: Path, index: int | None) -> Path:
        return base.with_name(f"{base.name}{self.suffix}") if index is None else base / f"{index:05d}{self.suffix}"


class ZarrArrays:
    """BASE.zarr, d×h×w of an image or t×d×h×w of a video; a chunk holds at most 512 rows of a frame."""

    def write(self, base: Path, index: int | None, features: Features) -> None:
        """Write a frame; the first one creates the array, replacing any other, and later ones extend it."""
        path = base.with_name(f"{base.name}.zarr")
        path.parent.mkdir(parents=True, exist_ok=True)
        if index:
            array = zarr.open_array(path, mode="r+")
            array.resize((max(index + 1, array.shape[0]), *array.shape[1:]))
        else:
            of_video = index is not None
            chunks = (features.shape[0], min(512, features.shape[1]), features.shape[2])
            array = zarr.create_array(
                path,
                shape=(1, *features.shape) if of_video else features.shape,
                chunks=(1, *chunks) if of_video else chunks,
                dtype=features.dtype,
                fill_value=np.nan,
                compressors=None,  # they would take longer than many networks, to save a tenth
                dimension_names=["frame", "channel", "y", "x"] if of_video else ["channel", "y", "x"],
                overwrite=True,
            )
        rows = array.chunks[-2]
        for top in range(0, features.shape[1], rows):
            where = (slice(None), slice(top, top + rows))
            array[where if index is None else (index, *where)] = np.asarray(features[where])

    def read(self, base: Path, index: int | None) -> Features | None:
        """Return a frame; None also if a value is NaN, the mark of a chunk that was not written."""
        path = base.with_name(f"{base.name}.zarr")
        if not (path / "zarr.json").exists():
            return None
        array = zarr.open_array(path, mode="r")
        if index is not None and index >= array.shape[0]:
            return None
        features = np.asarray(array[...] if index is None else array[index])
        return None if np.isnan(features).any() else features


ARRAY_FORMATS: dict[str, FilePerFrame | ZarrArrays] = {
    "npz": FilePerFrame(".npz"),
    "safetensors": FilePerFrame(".safetensors"),
    "zarr": ZarrArrays(),
}
