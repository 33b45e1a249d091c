"""A folder of computed features: the settings that shaped them, the files that are done, and the arrays.

`features.json` holds the settings, `files.jsonl` a line for each input file that was begun or done. Arrays are a file
per frame (npz, safetensors), or one Zarr group per image or video, which `xarray.open_zarr` reads. Features at points
are n×d instead of d×h×w, one file or group per image or video.
"""

from __future__ import annotations

import json
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import zarr
from jaxtyping import Float
from zarr.codecs import BloscCodec

from lila_cues.inputs import InputFile
from lila_train.inference.config import FeatureConfig
from lila_train.outputs import Json, open_folder
from stores.atomic import append_line, atomic_path, explain_os_errors, read_lines
from stores.errors import LilaError

Features = Float[np.ndarray, "_ _ _"] | Float[np.ndarray, "_ _"]
"""d×h×w of pixels, n×d of points."""
Coordinates = Mapping[str, np.ndarray]
"""By name: `y`, `x` in pixels of the input; `frame`, `time` of a video; of points all have the points' length."""
State = Literal["begun", "done"]

CHUNK_BYTES = 2**26  # of a Zarr chunk at most, uncompressed: whole rows of one frame
COMPRESSED_SHARE = 0.8  # of a Zarr chunk's bytes: 0.70 and 0.81 measured on frames of two models

PICTURES = ("_pca.png", "_pca.mp4")
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class FeatureCache:
    """Features of one setting in a folder, so that an interrupted extraction can be resumed."""

    def __init__(
        self,
        folder: Path,
        config: FeatureConfig,
        model: Json,
        pca_from: str | None = None,
        overwrite: bool = False,
        points: str | None = None,
    ) -> None:
        """Create or open the folder.

        Args:
            model: identity of the model.
            pca_from: identity of the files of a shared PCA basis.
            overwrite: delete the features in it, if there are any.
            points: identity of the points at which features are computed; None: at all pixels.

        Raises:
            LilaError: it holds features of other settings, or something else.
        """
        self.folder, self.config, self.model = folder, config, model
        self.has_pictures = "pca" in config.format and points is None
        self._arrays = [
            ZarrArrays() if name == "zarr" else FilePerFrame(f".{name}", config.every)
            for name in config.format
            if name != "pca"
        ]
        self._journal = folder / "files.jsonl"
        entries = (entry for entry in read_lines(self._journal, "name")[0] if _is_entry(entry))
        self._entries: Json = {entry["name"]: entry for entry in entries}
        wanted = {"config": config.shaping(), "model": model, "pca_from": pca_from, "points": points}
        own = [*(path for name in self._entries for path in self._results(name)), self._journal]
        open_folder(folder, "features.json", wanted, own, overwrite, replace_damaged=True)
        if overwrite:
            self._entries = {}

    def _results(self, name: str | Path) -> Iterator[Path]:
        """Yield where the results of a file may be, in any format."""
        base = self.folder / name
        yield from (base.with_name(f"{base.name}{s}") for s in (".npz", ".safetensors", ".zarr", *PICTURES))
        yield from (path for s in ("npz", "safetensors") for path in base.glob(f"[0-9][0-9][0-9][0-9][0-9]*.{s}"))

    @property
    def has_arrays(self) -> bool:
        """Whether features are stored, not only drawn."""
        return bool(self._arrays)

    def state(self, file: InputFile) -> State | None:
        """Return the recorded state of a file; None without one, or if the file has changed since.

        A file that is done has only begun if one of its results is missing or was cut short.
        """
        entry = self._entries.get(str(file.name))
        if not entry or not file.path.exists() or entry | _identity(file) != entry:
            return None
        return "done" if entry.get("state") == "done" and self._is_complete(file, entry.get("frames")) else "begun"

    def _is_complete(self, file: InputFile, frames: int | None) -> bool:
        base = self.folder / file.name
        picture = base.with_name(f"{base.name}{PICTURES[file.is_video]}")
        return (not self.has_pictures or _is_picture(picture)) and all(
            arrays.is_complete(base, frames) for arrays in self._arrays
        )

    def stored_bytes(self, file: InputFile) -> int:
        """Return the bytes of all that is stored for a file."""
        results = self._results(file.name)
        files = (path for place in results for path in ([place] if place.is_file() else place.rglob("*")))
        return sum(path.stat().st_size for path in files if path.is_file())

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

    def write(
        self,
        file: InputFile,
        index: int | None,
        features: Features,
        coordinates: Coordinates,
        only_missing: bool = False,
    ) -> None:
        """Write the features of kept frame `index` of a video, or of an image for None, in every array format."""
        base = self.folder / file.name
        with explain_os_errors(base.parent, f"writing the features of {file.path}"):
            for arrays in self._arrays:
                if not only_missing or arrays.read(base, index) is None:
                    arrays.write(base, index, features, coordinates)

    def describe(self, file: InputFile, coordinates: Coordinates, attributes: Json) -> None:
        """Add coordinates and attributes to the Zarr group of a file whose frames are written."""
        settings = {name: value for name, value in self.config.shaping().items() if value is not None}
        attributes = {
            "source": str(file.path.resolve()),
            **attributes,
            **{f"model_{name}": value for name, value in self.model.items()},
            "settings": json.dumps(settings),
        }
        with explain_os_errors(self.folder, f"writing the features of {file.path}"):
            for arrays in self._arrays:
                if isinstance(arrays, ZarrArrays):
                    arrays.describe(self.folder / file.name, coordinates, attributes)

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
    """BASE.suffix for an image; BASE/00000.suffix, … by the frame's number in a video. A file is complete or absent."""

    suffix: str  # .npz or .safetensors
    every: int  # distance of kept frames

    def write(self, base: Path, index: int | None, features: Features, coordinates: Coordinates) -> None:
        arrays = {"features": np.ascontiguousarray(features), **coordinates}
        with atomic_path(self._path(base, index), sync=False) as temporary:  # a frame would wait for the disk
            if self.suffix == ".npz":
                np.savez(temporary, **arrays)  # type: ignore[arg-type]
            else:  # save_file would make it unreadable for others
                temporary.write_bytes(safetensors.numpy.save(arrays))

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

    def is_complete(self, base: Path, frames: int | None) -> bool:
        """Return whether files are there to their end, where a npz has its directory; the values are not read."""
        indices = [None] if frames is None else range(frames)
        return all(self._is_complete(self._path(base, index)) for index in indices)

    def _is_complete(self, path: Path) -> bool:
        try:
            if self.suffix == ".npz":
                with zipfile.ZipFile(path) as archive:
                    return "features.npy" in archive.namelist()
            with safetensors.safe_open(path, framework="np") as file:
                return "features" in file.keys()  # noqa: SIM118 - it is no dictionary
        except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError):
            return False

    def _path(self, base: Path, index: int | None) -> Path:
        if index is None:
            return base.with_name(f"{base.name}{self.suffix}")
        return base / f"{index * self.every:05d}{self.suffix}"


class ZarrArrays:
    """BASE.zarr, a group with the array `features`: channel, y, x of an image, with time before them of a video.

    Chunks are whole rows of a frame, compressed by Blosc. `describe` ends a group: only then is it complete.
    """

    def write(self, base: Path, index: int | None, features: Features, coordinates: Coordinates) -> None:
        """Write a frame; the first one creates the group, replacing any other, and later ones extend it."""
        path = base.with_name(f"{base.name}.zarr")
        path.parent.mkdir(parents=True, exist_ok=True)
        if index:
            array = zarr.open_array(path / "features", mode="r+")
            array.resize((max(index + 1, array.shape[0]), *array.shape[1:]))
        else:
            array = self._create(path, features, coordinates, index is not None)
        axis = features.ndim - 2  # of the rows, or of the points
        rows = array.chunks[array.ndim - 2]
        for top in range(0, features.shape[axis], rows):
            where = (slice(None),) * axis + (slice(top, top + rows),)
            array[where if index is None else (index, *where)] = np.asarray(features[where])

    @staticmethod
    def _create(path: Path, features: Features, coordinates: Coordinates, of_video: bool) -> zarr.Array[Any]:
        names = ["channel", "y", "x"] if features.ndim == 3 else ["point", "channel"]
        row_bytes = features.nbytes // features.shape[-2]
        chunks = (*features.shape[:-2], min(max(1, CHUNK_BYTES // row_bytes), features.shape[-2]), features.shape[-1])
        group = zarr.create_group(path, overwrite=True)
        for name, values in coordinates.items():
            dimension = name if name in names else "point"
            group.create_array(name, data=np.asarray(values), dimension_names=[dimension], attributes=_UNITS[name])
        return group.create_array(
            "features",
            shape=(1, *features.shape) if of_video else features.shape,
            chunks=(1, *chunks) if of_video else chunks,
            dtype=features.dtype,
            fill_value=np.nan,
            compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),  # Zstandard takes longer than networks
            dimension_names=["time", *names] if of_video else names,
            attributes={"coordinates": "frame" if of_video else "x y frame row" if names[0] == "point" else ""},
        )

    def describe(self, base: Path, coordinates: Coordinates, attributes: Json) -> None:
        """Add coordinates along time, the group's attributes, and what opens it in one read."""
        path = base.with_name(f"{base.name}.zarr")
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        for name, values in coordinates.items():
            group.create_array(
                name, data=np.asarray(values), dimension_names=["time"], attributes=_UNITS[name], overwrite=True
            )
        group.attrs.put(attributes)
        with warnings.catch_warnings():  # the format's version 3 has no such key yet; Zarr and xarray read it
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(path)

    def read(self, base: Path, index: int | None) -> Features | None:
        """Return a frame; None also if a value is NaN, the mark of a chunk that was not written."""
        array = self._open(base)
        try:
            if array is None or (index is not None and index >= array.shape[0]):
                return None
            features = np.asarray(array[...] if index is None else array[index])
        except (ValueError, RuntimeError):  # a chunk that was cut short
            return None
        return None if np.isnan(features).any() else features

    def is_complete(self, base: Path, frames: int | None) -> bool:
        """Return whether the group was described and every chunk has the size in its head; values are not read."""
        path = base.with_name(f"{base.name}.zarr")
        array = self._open(base)
        try:
            described = "consolidated_metadata" in json.loads((path / "zarr.json").read_text())
        except (OSError, ValueError, TypeError):
            return False
        if not described or array is None or (frames is not None and frames > array.shape[0]):
            return False
        grid = [math.ceil(length / chunk) for length, chunk in zip(array.shape, array.chunks, strict=True)]
        chunks = np.ndindex(*grid) if frames is None else np.ndindex(frames, *grid[1:])
        return all(_is_whole_chunk(path / "features" / "/".join(map(str, ("c", *chunk)))) for chunk in chunks)

    def _open(self, base: Path) -> zarr.Array[Any] | None:
        """Return the array of features; None where it is missing or its metadata are damaged."""
        try:
            return zarr.open_array(base.with_name(f"{base.name}.zarr") / "features", mode="r")
        except Exception:  # damaged metadata can raise anything
            return None


_UNITS: dict[str, dict[str, Any]] = {
    "y": {"units": "pixel", "long_name": "row of the input, 0 at the center of the first"},
    "x": {"units": "pixel", "long_name": "column of the input, 0 at the center of the first"},
    "time": {"units": "s", "long_name": "time since the first frame"},
    "row": {"long_name": "number of the point in the file of points, from 0"},
    "frame": {"long_name": "number of the frame in the input, from 0"},
}


def _is_whole_chunk(path: Path) -> bool:
    """Return whether a file has the length that the head of a Blosc frame announces."""
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(16)[12:], "little") == path.stat().st_size
    except OSError:
        return False
