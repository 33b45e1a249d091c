"""Random pairs of all cues at the default spec: CPU time, and pairs per second with loader processes, in one run.

python -m tests.benchmarks.store_reading [--clips 8] [--pairs 60] [--folder DIR]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

import stores
from stores.spec import StoreSpec
from tests.benchmarks import figures, store_scenes
from tests.benchmarks.figures import Bar, Figure, Quantity
from tests.benchmarks.store_readers import READERS, Arrays, Reader, write_all

BESIDE = "zarr-python"
CPU_TIME = Quantity("a random pair of all cues: CPU time, of zarr-python's", "×", Bar("at most", 0.15))
OTHERS = Quantity("a random pair by another reader: CPU time, of zarr-python's", "×")
SPEED = Quantity("random pairs of all cues: speed, of zarr-python's", "×")
FIGURES = (CPU_TIME, OTHERS, SPEED)
PROCESSES = (0, 1, 2)  # that read ahead
ROUNDS = 5
DISTINCT = 4  # clips that are made; the rest repeat them


@lru_cache(DISTINCT)
def scene(number: int) -> stores.ClipCues:
    """One of a few made-up clips."""
    return store_scenes.clip(number)


class Pairs:
    """Random pairs through one reader, opened in the process that uses it: a torch data set."""

    def __init__(self, name: str, folder: Path, clips: int, count: int) -> None:
        self.name, self.folder, self.clips, self.count = name, folder, clips, count
        self._reader: Reader | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Arrays:
        if self._reader is None:
            self._reader = READERS[self.name](self.folder)
        if index >= self.count:
            raise IndexError(index)
        random = np.random.Generator(np.random.Philox(key=index))
        return self._reader(int(random.integers(self.clips)), int(random.integers(store_scenes.DEFAULT.pairs)))


def cpu_ms(data: Pairs, first: int, count: int) -> float:
    """CPU milliseconds per pair, all threads of this process."""
    start = time.process_time()
    for index in range(first, first + count):
        data[index % len(data)]
    return (time.process_time() - start) / count * 1e3


def pairs_per_second(data: Pairs, processes: int) -> float:
    """As a training loop sees it; the first pairs of each loader process are not counted."""
    from torch.utils.data import DataLoader

    context = "forkserver" if processes else None
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=processes,
        multiprocessing_context=context,
        collate_fn=tensors,
    )
    items: Iterator[object] = iter(loader)
    for _ in range(max(1, 2 * processes)):
        next(items)
    start = time.perf_counter()
    rest = sum(1 for _ in items)
    return rest / (time.perf_counter() - start)


def tensors(arrays: Arrays) -> object:
    """What a loader process hands on, through shared memory."""
    import torch

    return {name: torch.from_numpy(np.array(array, copy=not array.flags.writeable)) for name, array in arrays.items()}


def assert_same(readers: dict[str, Pairs]) -> None:
    """All of them read the same numbers."""
    for index in range(3):
        expected = readers["ours"][index]
        for name, data in readers.items():
            found = data[index]
            if name not in ("ours, decoded", "ours, JPEG"):
                assert found.keys() >= expected.keys(), name
                for key, values in expected.items():
                    np.testing.assert_array_equal(np.asarray(found[key]), values, err_msg=f"{key} by {name}")


def measure(folder: Path, clips: int, count: int) -> list[Figure]:
    """Print the table; times and speeds of all readers."""
    readers = {name: Pairs(name, folder, clips, count) for name in READERS}
    assert_same(readers)
    cpu: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(ROUNDS):  # in turns, so that a busy machine is busy for all of them
        for name, data in readers.items():
            cpu[name].append(cpu_ms(data, turn * count // ROUNDS, count))
    medians = {name: statistics.median(values) for name, values in cpu.items()}
    speeds: dict[str, list[float]] = {}
    print(f"{'reader':18}{'CPU ms/pair':>12}{'of zarr-python':>16}{'pairs/s with 0':>16}{'1':>7}{'2 loaders':>11}")
    for name in readers:
        speeds[name] = [pairs_per_second(Pairs(name, folder, clips, count), processes) for processes in PROCESSES]
        none, one, two = speeds[name]
        part = medians[name] / medians[BESIDE]
        print(f"{name:18}{medians[name]:12.2f}{part:16.2f}{none:16.0f}{one:7.0f}{two:11.0f}", flush=True)
    parts = {name: median / medians[BESIDE] for name, median in medians.items() if name != BESIDE}
    return [
        CPU_TIME.figure(parts.pop("ours"), f"default spec, {clips} clips"),
        *(OTHERS.figure(part, name) for name, part in parts.items()),
        *(
            SPEED.figure(ours / theirs, f"loader processes: {processes}", f"{ours:.0f} pairs/s")
            for processes, ours, theirs in zip(PROCESSES, speeds["ours"], speeds[BESIDE], strict=True)
        ),
    ]


def main() -> None:
    """Write the formats, then measure."""
    parser = figures.parser(__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        start = time.perf_counter()
        write_all(folder, options.clips, lambda number: scene(number % DISTINCT), StoreSpec(store_scenes.DEFAULT))
        sizes = {
            path.name: sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()) / 1e6
            for path in sorted(folder.iterdir())
        }
        print(
            f"written in {time.perf_counter() - start:.0f} s; MB: {', '.join(f'{n} {s:.0f}' for n, s in sizes.items())}"
        )
        found = measure(folder, options.clips, options.pairs)
    figures.hand_back(options.figures, FIGURES, found)


if __name__ == "__main__":
    main()
