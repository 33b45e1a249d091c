"""Opening stores of few and many clips, and commands on the largest: seconds and memory, each in a process.

python -m tests.benchmarks.store_opening

`--commands` measures what reads the ledger of a store of 40,625 tasks that is 99 % done, with 3 % of its clips failed.
There are no shards, whose bytes `verify` would read besides.
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

COMMANDS = {
    "lila-cues status": """
from lila_cues.cli.store import status
status(sys.argv[1])
""",
    "verify, documents and records": """
from stores.verify import check_documents
store = stores.open(sys.argv[1])
list(check_documents(store))
listed = store.ledger.keys()
for task in listed:
    store.ledger.latest(task, listed)
""",
    "merge, before the first task": """
from stores.merge import merge
def none(work, tasks):
    next(iter(tasks))
    return []
merge(sys.argv[2], [stores.open(sys.argv[1])], run=none)
""",
    "build, before the first task": """
from stores.opening import open_or_create
store = stores.open(sys.argv[1])
names = [store.clip_id(clip) for clip in range(store.n_clips)]
start = time.process_time()
store = open_or_create(sys.argv[1], store.spec, names, {}, {})
with store.lock_task(next(store.pending_tasks())):
    pass
""",
}
PEAK = """
import sys, time, stores.store
start = time.process_time()
{command}
peak = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0] * 1024 / 1e6
print(time.process_time() - start, peak)
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


def pretend_almost_finished(store: stores.CueStore) -> None:
    """Ledger records as a build writes them: 1 % of the tasks have none, every second one has a failed clip."""
    for task in range(store.n_tasks):
        if task % 100 == 99:
            continue
        clips = [ClipRecord(stores.COMPLETE, 1, None, 2**31 + task)] * len(store.task_clips(task))
        if task % 2:
            clips[task % len(clips)] = ClipRecord(stores.FAILED, 1, "the file ends in the middle of a frame")
        sizes, names = dict.fromkeys(store.arrays, 10_000_000), tuple(map(store.clip_id, store.task_clips(task)))
        record = TaskRecord(
            task, 1, store.header.digest, tuple(clips), sizes, 60.0, 1.8e9, "benchmark:1", names, sizes
        )  # fmt: skip
        (Path(store.path) / record.key).write_bytes(record.encode())


def measure_commands(folder: Path) -> None:
    """Print seconds of the CPU and peak memory of each command; imports are in both."""
    store = create(folder, SIZES[-1])
    pretend_almost_finished(store)
    print(f"{'':32}{'CPU s':>8}{'peak MB':>10}")
    for name, command in COMMANDS.items():
        child = [sys.executable, "-c", PEAK.format(command=command), store.path, str(folder / "merged.zarr")]
        printed = subprocess.run(child, check=True, capture_output=True, text=True).stdout
        seconds, peak = map(float, printed.split()[-2:])
        print(f"{name:32}{seconds:8.1f}{peak:10.0f}", flush=True)


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
    parser = figures.parser(__doc__)
    parser.add_argument("--commands", action="store_true", help="measure commands on the largest store instead")
    options = parser.parse_args()
    if options.commands:
        with tempfile.TemporaryDirectory() as folder:
            measure_commands(Path(folder))
        return
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
