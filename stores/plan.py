"""Estimates for a store before anything is written: frames, bytes, files and memory; and whether it fits."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from stores.atomic import nearest_existing
from stores.encodings import Jpeg
from stores.errors import StoreError
from stores.spec import ArraySpec, StoreSpec, arrays

# Compressed share of the raw bytes, and the side in px at which tests/benchmarks/store_encodings.py measured it.
COMPRESSED_SHARE = {
    "rgb": (0.70, 480),
    "depth": (0.37, 224),
    "flow_forward": (0.21, 224),
    "flow_backward": (0.21, 224),
    "features": (0.64, 112),
    "features_raw": (0.64, 112),
}
JPEG_SHARE = 0.16, 480
# Smaller maps have more detail per pixel: at a side s the share is (measured side / s)^DETAIL times as large. It gives
# the measured shares of rgb at 256² (0.82, JPEG 0.19) and of features at 56² (0.73) and 14² (1.0) within 0.02.
DETAIL = 0.23
_RECORD_BYTES = 4096


@dataclass(frozen=True)
class Plan:
    """Counts and sizes in bytes of a store with all its clips."""

    frames: int
    pairs: int
    tasks: int
    files: int
    array_bytes: dict[str, int]  # estimate for each array
    total_bytes: int  # estimate for the entire store
    largest_bytes: int  # of all arrays if nothing compresses
    clip_memory_bytes: int  # of one clip in memory: cues as float32, and encoded; shards are streamed


def plan(spec: StoreSpec, n_clips: int) -> Plan:
    """Return the plan for `n_clips` clips."""
    specs, tasks = arrays(spec), -(-n_clips // spec.shard_clips)
    clip_bytes = sum(array.clip_bytes for array in specs.values())
    cue_bytes = sum(math.prod(array.shape) * (1 if name == "rgb" else 4) for name, array in specs.items())
    array_bytes = {name: round(n_clips * array.clip_bytes * _share(array)) for name, array in specs.items()}
    return Plan(
        frames=n_clips * spec.geometry.frames,
        pairs=n_clips * spec.geometry.pairs,
        tasks=tasks,
        files=(len(specs) + 1) * tasks + len(specs) + 7,
        array_bytes=array_bytes,
        total_bytes=sum(array_bytes.values()) + tasks * _RECORD_BYTES,
        largest_bytes=n_clips * clip_bytes,
        clip_memory_bytes=cue_bytes + clip_bytes,
    )


def _share(array: ArraySpec) -> float:
    """Return the estimated size of an array after compression, of its raw bytes."""
    if array.name not in COMPRESSED_SHARE:
        return 1.0
    share, side = JPEG_SHARE if isinstance(array.encoding.codec, Jpeg) else COMPRESSED_SHARE[array.name]
    height = next(size for name, size in zip(array.dimensions, array.shape, strict=True) if name.endswith("y"))
    return min(1.0, share * (side / height) ** DETAIL)


def require_room(planned: Plan, path: Path, done_share: float = 0.0) -> int:
    """Return the free bytes at `path`; StoreError if the rest (1 − `done_share`) of the bytes or files does not fit."""
    place, free = free_space(path)
    missing = round(planned.total_bytes * (1 - done_share))
    if missing > free:
        raise StoreError(
            f"{path} needs about {readable(missing)} more, and {place} has {readable(free)} free; "
            "take fewer clips (--limit), a smaller profile, or another disk"
        )
    files, limits = round(planned.files * (1 - done_share)), os.statvfs(place)
    if limits.f_files and files > limits.f_favail:  # f_files is 0 where a file system has no limit
        raise StoreError(
            f"{path} needs about {files:,} more files, and {place} has room for {limits.f_favail:,} (free inodes); "
            "take fewer clips (--limit), more of them per file (--shard-clips), or another disk"
        )
    return free


def free_space(path: Path) -> tuple[Path, int]:
    """Return the existing folder at or above `path`, and the free bytes of its file system."""
    place = nearest_existing(path)
    return place, shutil.disk_usage(place).free


def readable(size: int) -> str:
    """Return '1.5 GB' for 1500000000."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 1000 and len(units) > 1:
        value, _ = value / 1000, units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
