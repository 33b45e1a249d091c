"""RGB as JPEG: its error and size, damage, and the same frames by zarr-python and by the shard reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

import stores
from stores.encodings import ChecksumError, Jpeg, with_checksum
from stores.plan import plan
from stores.spec import RGB_CODECS, StoreSpec
from tests.stores import worlds

JPEG = replace(worlds.SPEC, rgb=RGB_CODECS["jpeg"])


@pytest.fixture(scope="module")
def frames(shared: Path) -> np.ndarray:
    """Base crops of DAVIS frames, 480²."""
    paths = sorted((shared / "data/davis/JPEGImages/480p").glob("*/00000.jpg"))[::4]
    return np.stack([np.asarray(Image.open(path).convert("RGB"))[:480, :480] for path in paths])


def test_the_error_and_the_size_are_those_that_are_stated(frames: np.ndarray) -> None:
    encoded = [Jpeg(95).encode(frame) for frame in frames]
    decoded = np.empty_like(frames)
    for chunk, frame in zip(encoded, decoded, strict=True):
        Jpeg(95).decode_into(chunk, frame)
    error = np.abs(decoded.astype(int) - frames)
    assert error.mean() < 1.2
    assert np.quantile(error, 0.99) <= 5
    geometry = replace(worlds.GEOMETRY, base=frames.shape[1:3])
    planned = plan(replace(JPEG, geometry=geometry), 10).array_bytes["rgb"] / (10 * geometry.frames)
    assert sum(map(len, encoded)) / len(frames) == pytest.approx(planned, rel=0.3)


def test_zarr_python_reads_what_the_shard_reader_reads(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "s.zarr", 5, JPEG)
    worlds.fill(store)
    assert StoreSpec.from_dict(json.loads(json.dumps(JPEG.to_dict()))) == JPEG == stores.open(store.path).spec
    array = zarr.open_array(tmp_path / "s.zarr" / "rgb", mode="r")
    for clip in range(5):
        found = store.read("rgb", clip)
        assert np.array_equal(array[clip], found)
        difference = np.abs(found.astype(int) - worlds.cues(clip).rgb)
        assert 0 < difference.mean() < 10  # noise, the hardest image there is


def test_zarr_python_writes_and_reads_the_codec(tmp_path: Path) -> None:
    frame = np.linspace(0, 255, 16 * 24 * 3).reshape(1, 16, 24, 3).astype(np.uint8)
    codec = {"name": "lila.jpeg", "configuration": {"quality": 95}}
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(2, 16, 24, 3),
        chunks=(1, 16, 24, 3),
        dtype="uint8",
        serializer=codec,
        compressors=None,
    )
    array[0] = frame[0]
    assert np.abs(zarr.open_array(tmp_path / "a.zarr", mode="r")[0].astype(int) - frame[0]).mean() < 3


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (with_checksum(b"no picture"), "it is no JPEG"),
        (Jpeg(95).encode(np.zeros((4, 4, 3), np.uint8))[:-1] + b"x", "its checksum does not match"),
        (Jpeg(95).encode(np.zeros((4, 5, 3), np.uint8)), r"it holds a frame of \(4, 5, 3\), not \(4, 4, 3\)"),
    ],
)
def test_damage_is_noticed(encoded: bytes, message: str) -> None:
    with pytest.raises(ChecksumError, match=message):
        Jpeg(95).decode_into(encoded, np.empty((4, 4, 3), np.uint8))
