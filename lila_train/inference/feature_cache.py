"""A folder of computed features: the settings that shaped them, the files that are done, and the arrays.

`features.json` holds the settings, `files.jsonl` a line for each input file that was begun or done. Arrays are a file
per frame (npz, safetensors), or one Zarr array per image or video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import zarr
from jaxtyping import Float

from lila_cues.inputs import InputFile
from lila_train.inference.config import FeatureConfig
from lila_train.outputs import Json, open_folder
from stores.atomic import append_line, atomic_path, explain_os_errors, read_lines

Features = Float[np.ndarray, "d h w"]
State = Literal["begun", "done"]

PICTURES = ("_pca.png", "_pca.mp4")


class FeatureCache:
    """Features of one setting in a folder, so that an interrupted extraction can be resumed."""

    def __init__(
        self, folder: Path, config: FeatureConfig, model: Json, pca_from: str | None = None, overwrite: bool = False
    ) -> None:
        """Create or open the folder.

        Args:
            model: identity of the model.
            pca_from: identity of the files of a shared PCA basis.
            overwrite: delete the features in it, if there are any.

        Raises:
            LilaError: it holds features of other settings, or something else.
        """
        self.folder, self.config = folder, config
        self._arrays = [ARRAY_FORMATS[name] for name in config.format if name in ARRAY_FORMATS]
        self._journal = folder / "files.jsonl"
        self._entries: Json = {entry["name"]: entry for entry in read_lines(self._journal, "name")[0]}
        wanted = {"config": config.shaping(), "model": model, "pca_from": pca_from}
        open_folder(folder, "features.json", wanted, self._own(), overwrite, replace_damaged=True)
        if overwrite:
            self._entries = {}

    def _own(self) -> Iterator[Path]:
        """Yield all that was written for the files of the journal, in any format, and the journal."""
        for name in self._entries:
            base = self.folder / name
            yield from (base.with_name(f"{base.name}{s}") for s in (".npz", ".safetensors", ".zarr", *PICTURES))
            yield from (path for s in ("npz", "safetensors") for path in base.glob(f"[0-9][0-9][0-9][0-9][0-9]*.{s}"))
        yield self._journal

    def state(self, file: InputFile) -> State | None:
        """Return what is recorded of a file; None if nothing is, or if the file has changed since."""
        entry = self._entries.get(str(file.name))
        return entry["state"] if entry and file.path.exists() and entry == _entry(file, entry["state"]) else None

    def record(self, file: InputFile, state: State) -> None:
        """Append the state of a file to the journal."""
        entry = _entry(file, state)
        append_line(self._journal, entry)
        self._entries[entry["name"]] = entry

    def path(self, file: InputFile, suffix: str) -> Path:
        """Return where a picture or video made of a file is written; its folder is created."""
        path = self.folder / file.name.with_name(f"{file.name.name}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, file: InputFile, index: int | None, features: Features, only_missing: bool = False) -> None:
        """Write the features of frame `index` of a video, or of an image for None, in every array format."""
        base = self.folder / file.name
        with explain_os_errors(base.parent, f"writing the features of {file.path}"):
            for arrays in self._arrays:
                if not only_missing or arrays.read(base, index) is None:
                    arrays.write(base, index, features)

    def read(self, file: InputFile, index: int | None) -> Features | None:
        """Return stored features; None if they are not stored completely, or no array format was chosen."""
        with explain_os_errors(self.folder, f"reading the features of {file.path}"):
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
