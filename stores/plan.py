"""What a store will take before anything is written: frames, bytes, files, memory, hours; and whether it fits. Pure."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from stores.errors import StoreError
from stores.spec import StoreSpec, arrays

# Share of the raw bytes that is left, measured on real video by tests/benchmarks/store_encodings.py.
KEPT_SHARE = {
    "rgb": 0.74,
    "depth": 0.37,
    "flow_forward": 0.22,
    "flow_backward": 0.22,
    "features": 0.65,
    "features_raw": 0.9,
}
_RECORD_BYTES = 4096


@dataclass(frozen=True)
class Plan:
    """Sizes in bytes; `array_bytes` is the estimate for each array over all clips, `largest_bytes` if none is saved."""

    clips: int
    frames: int
    pairs: int
    tasks: int
    files: int
    array_bytes: dict[str, int]
    largest_bytes: int
    clip_memory_bytes: int
    gpu_hours: float

    @property
    def total_bytes(self) -> int:
        """Estimate for the whole store."""
        return sum(self.array_bytes.values()) + self.tasks * _RECORD_BYTES


def plan(spec: StoreSpec, n_clips: int, frames_per_second: float) -> Plan:
    """For `n_clips` clips, given how many frames per second one device takes through all networks."""
    if frames_per_second <= 0:
        raise StoreError(f"the rate is {frames_per_second} frames per second; give one above 0")
    specs, tasks = arrays(spec), -(-n_clips // spec.shard_clips)
    raw = {name: array.clip_bytes * n_clips for name, array in specs.items()}
    frames = n_clips * spec.geometry.frames
    return Plan(
        clips=n_clips,
        frames=frames,
        pairs=n_clips * spec.geometry.pairs,
        tasks=tasks,
        files=(len(specs) + 1) * tasks + len(specs) + 7,
        array_bytes={name: round(size * KEPT_SHARE.get(name, 1.0)) for name, size in raw.items()},
        largest_bytes=sum(raw.values()),
        clip_memory_bytes=clip_memory(spec),
        gpu_hours=frames / frames_per_second / 3600,
    )


def clip_memory(spec: StoreSpec) -> int:
    """Bytes that one clip takes while it is at work: its cues as the networks give them, and encoded.

    Shards are streamed, so that the number of clips of a task does not enter.
    """
    specs = arrays(spec).values()
    made = sum(math.prod(array.shape) * (1 if array.name == "rgb" else 4) for array in specs)
    return made + sum(array.clip_bytes for array in specs)


def require_room(wanted: Plan, path: Path, done_share: float = 0.0) -> int:
    """Free bytes at `path`; StoreError if what is still to be written (1 − `done_share` of the plan) does not fit."""
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    missing = round(wanted.total_bytes * (1 - done_share))
    if missing > free:
        raise StoreError(
            f"{path} needs about {readable(missing)} more, and {place} has {readable(free)} free; "
            "take fewer clips (--limit), a smaller profile, or another disk"
        )
    return free


def readable(size: int) -> str:
    """'1.5 GB' for 1500000000."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 1000 and len(units) > 1:
        value, _ = value / 1000, units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
