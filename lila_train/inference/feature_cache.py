"""A folder of computed features: the settings that shaped them, the files that are done, and the arrays.

`features.json` holds the settings, `files.jsonl` a line for each input file that was begun or done. Arrays are a file
per frame (npz, safetensors), or one Zarr array per image or video.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import zarr
from jaxtyping import Float

from lila_cues.inputs import InputFile
from lila_train.inference.config import FeatureConfig
from lila_train.outputs import Json, open_folder
from stores.atomic import append_line, atomic_path, explain_os_errors, read_lines
from stores.errors import LilaError

Features = Float[np.ndarray, "d h w"]
State = Literal["begun", "done"]

PICTURES = ("_pca.png", "_pca.mp4")
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


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
        entries = (entry for entry in read_lines(self._journal, "name")[0] if _is_entry(entry))
        self._entries: Json = {entry["name"]: entry for entry in entries}
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

    @property
    def has_arrays(self) -> bool:
        """Whether features are stored, not only drawn."""
        return bool(self._arrays)

    def state(self, file: InputFile) -> State | None:
        """Return what is recorded of a file; None if nothing is, or if the file has changed since.

        A file that is done has only begun if one of its results is missing or was cut short.
        """
        entry = self._entries.get(str(file.name))
        if not entry or not file.path.exists() or entry | _identity(file) != entry:
            return None
        return "done" if entry.get("state") == "done" and self._is_complete(file, entry.get("frames")) else "begun"

    def _is_complete(self, file: InputFile, frames: int | None) -> bool:
        base = self.folder / file.name
        indices = [None] if frames is None else range(frames)
        picture = base.with_name(f"{base.name}{PICTURES[file.is_video]}")
        return ("pca" not in self.config.format or _is_picture(picture)) and all(
            arrays.is_complete(base, index) for arrays in self._arrays for index in indices
        )

    def record(self, file: InputFile, state: State, frames: int | None = None) -> None:
        """Append the state of a file, and the number of a video's frames, to the journal."""
        entry = _identity(file) | {"state": state, "frames": frames}
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


def _is_entry(entry: Json) -> bool:
    """Return whether a line of the journal is as `record` writes it; a damaged one could name any file to replace."""
    name, frames = entry["name"], entry.get("frames")
    inside = isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
    return inside and (frames is None or (isinstance(frames, int) and frames >= 0))


def _is_picture(path: Path) -> bool:
    """Return whether a PNG or a video is there to its end; the pixels are not read."""
    try:
        if path.suffix == ".mp4":
            from lila_cues.video.reader import VideoFrames  # features of images need no video library

            return bool(VideoFrames(path).count)
        with path.open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except (OSError, LilaError):
        return False


def _identity(file: InputFile) -> dict[str, Any]:
    """Return what identifies a file in the journal: path, size and modification time."""
    found = file.path.stat()
    return {
        "name": str(file.name), "source": str(file.path.resolve()), "bytes": found.st_size, "time": found.st_mtime_ns,
    }  # fmt: skip


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
        try:
            if self.suffix == ".safetensors":
                return safetensors.numpy.load_file(path)["features"]
            with path.open("rb") as opened, np.load(opened) as file:
                features: Features = file["features"]
            return features
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError):
            return None  # missing, or cut short

    def is_complete(self, base: Path, index: int | None) -> bool:
        """Return whether the file is there to its end, where a npz has its directory; the values are not read."""
        path = self._path(base, index)
        try:
            if self.suffix == ".npz":
                with zipfile.ZipFile(path) as archive:
                    return archive.namelist() == ["features.npy"]
            with safetensors.safe_open(path, framework="np") as file:
                return list(file.keys()) == ["features"]
        except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError):
            return False

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
        array = self._open(base)
        try:
            if array is None or (index is not None and index >= array.shape[0]):
                return None
            features = np.asarray(array[...] if index is None else array[index])
        except ValueError:  # a chunk that was cut short
            return None
        return None if np.isnan(features).any() else features

    def is_complete(self, base: Path, index: int | None) -> bool:
        """Return whether every chunk of a frame has its size; the values are not read."""
        array = self._open(base)
        if array is None or (index is not None and index >= array.shape[0]):
            return False
        size = math.prod(array.chunks) * array.dtype.itemsize  # not compressed
        rows = range(math.ceil(array.shape[-2] / array.chunks[-2]))
        names = ("/".join(map(str, ["c", *([] if index is None else [index]), 0, row, 0])) for row in rows)
        paths = [base.with_name(f"{base.name}.zarr") / name for name in names]
        return all(path.is_file() and path.stat().st_size == size for path in paths)

    def _open(self, base: Path) -> zarr.Array[Any] | None:
        """Return the array; None where it is missing or its description is damaged."""
        try:
            return zarr.open_array(base.with_name(f"{base.name}.zarr"), mode="r")
        except Exception:  # a description in foreign words can raise anything
            return None


ARRAY_FORMATS: dict[str, FilePerFrame | ZarrArrays] = {
    "npz": FilePerFrame(".npz"),
    "safetensors": FilePerFrame(".safetensors"),
    "zarr": ZarrArrays(),
}
