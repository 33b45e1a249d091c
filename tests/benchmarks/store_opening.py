"""Opening stores that declare few and many clips, empty and finished: seconds and memory, each in a process of its own.

python -m tests.benchmarks.store_opening
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import stores
from stores.ledger import ClipRecord, TaskRecord
from tests.benchmarks import figures
from tests.benchmarks.figures import Bar, Quantity
from tests.benchmarks.store_scenes import DEFAULT

SIZES = (100, 10_000, 650_000)
SECONDS = Quantity(f"opening a store of {SIZES[-1]:,} clips", "s", Bar("below", 1))
MEMORY = Quantity(f"memory of a process that opens a store of {SIZES[-1]:,} clips", "MB", Bar("below", 200))
TIMES = Quantity(f"opening a store of {SIZES[-1]:,} clips, of one of {SIZES[0]}", "×", Bar("at most", 10))
FIGURES = (SECONDS, MEMORY, TIMES)

CHILD = """
import sys, time, stores.store
start = time.perf_counter()
store = stores.open(sys.argv[1])
opened = time.perf_counter() - start
complete = len(store.complete_clips())
listed = time.perf_counter() - start - opened
store.clip_id(99)
named = time.perf_counter() - start - opened - listed
peak = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0] * 1024 / 1e6
print(opened, listed, named, peak, complete)
"""


def create(folder: Path, n_clips: int) -> stores.CueStore:
    """A store of that many clips, none complete."""
    names = [f"class_{clip % 700:03d}/{clip:011d}_000010_000020.mp4" for clip in range(n_clips)]
    return stores.create(folder / f"{n_clips}.zarr", stores.StoreSpec(DEFAULT), names, {}, {})


def pretend_finished(store: stores.CueStore) -> None:
    """Ledger records for every task, without shards: opening and listing read no shard."""
    for task in range(store.n_tasks):
        clips = (ClipRecord(stores.COMPLETE, 1, None, 0),) * len(store.task_clips(task))
        record = TaskRecord(task, 1, store.header.digest, clips, {}, 0.0, 0.0, "benchmark")
        path = Path(store.path) / record.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.encode())


def measure(path: str) -> tuple[float, float, float, float, int]:
    """Seconds to open, to list the complete clips, and to verify all names; peak MB, complete clips; best of three."""
    runs = []
    for _ in range(3):
        printed = subprocess.run([sys.executable, "-c", CHILD, path], check=True, capture_output=True, text=True).stdout
        *seconds, peak, complete = printed.split()
        opened, listed, named = map(float, seconds)
        runs.append((opened, listed, named, float(peak), int(complete)))
    return min(runs)


def main() -> None:
    """Print the table; in it, the interpreter and numpy take most of the memory."""
    options = figures.parser(__doc__).parse_args()
    print(f"{'clips':>9}{'complete':>10}{'open ms':>10}{'list ms':>10}{'names ms':>10}{'peak MB':>10}")
    opening: dict[tuple[int, str], float] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n_clips in SIZES:
            store = create(Path(folder), n_clips)
            for state in ("empty", "finished"):
                if state == "finished":
                    pretend_finished(store)
                opened, listed, named, peaks[state], complete = measure(store.path)
                opening[n_clips, state] = opened
                times = "".join(f"{seconds * 1e3:10.1f}" for seconds in (opened, listed, named))
                print(f"{n_clips:9,}{complete:10,}{times}{peaks[state]:10.0f}", flush=True)
    found = []
    for state, peak in peaks.items():
        many, few = opening[SIZES[-1], state], opening[SIZES[0], state]
        found += [SECONDS.figure(many, state), MEMORY.figure(peak, state), TIMES.figure(many / few, state)]
    figures.hand_back(options.figures, FIGURES, found)


if __name__ == "__main__":
    main()
