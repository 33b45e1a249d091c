"""Figures of one GPU, a JSON line each: copies, products, networks, builds, training steps, loading, inference.

python -m tests.gpu.measure [PART…] [--device cuda] [--tiny]

Weights are random and clips are generated images, so that neither a network nor a video library is needed. Each part
runs in a process of its own and is ended at its time limit; all of them take at most 9 minutes. A part that fails
prints a line with its error, and the others go on. `--device cpu --tiny` runs the same code where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import stores
from lila_cues import devices
from lila_cues import pamr as pamr_module
from lila_cues.config import BuildConfig
from lila_cues.config import RunOptions as BuildOptions
from lila_cues.pipeline import build as pipeline
from lila_cues.pipeline.cues import CueExtractor
from lila_cues.pipeline.setup import Networks, load_networks
from lila_cues.pipeline.task import Worker
from lila_train.inference.compute import FeatureComputer
from lila_train.inference.config import FeatureConfig
from lila_train.training.config import TrainConfig, find_recipe
from tests.benchmarks import inference as features_benchmark
from tests.benchmarks import meter, table
from tests.benchmarks.clips import moving_texture, write_images
from tests.benchmarks.figures import Figure, Quantity
from tests.benchmarks.pamr import Case
from tests.benchmarks.training import RANDOM, Way, build_store, one_step

REPORTED = 3  # exit status of a part that has printed its error
PRECISIONS = ("bfloat16", "float32")
TINY: dict[str, Any] = {
    "profile": "tiny", "flow": "dis", "flow_weights": None, "base_size": 64, "cue_size": 64, "feature_size": 32,
    "channels": 8, "frames": 4, "pairs": 3, "shard_clips": 2,
}  # fmt: skip
TINY_TRAINING: dict[str, Any] = {"batch_size": 2, "crop_size": 32, "decoder_width": 16, "channels": 4, "cells": 8}


@dataclass(frozen=True)
class Bench:
    """Where and at which sizes to measure; files go to `folder`."""

    device: str
    tiny: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def build_config(self) -> BuildConfig:
        chosen = TINY if self.tiny else {"profile": "small"}
        return BuildConfig.resolve({"dataset": "frames", **RANDOM, **chosen}, device=self.device)

    def train_config(self) -> TrainConfig:
        config = find_recipe("s14-youtube-vos").config
        return config.replace(**TINY_TRAINING) if self.tiny else config

    def store(self) -> stores.CueStore:
        """Return the store of the part `build`, or of an earlier call; without one, build it."""
        for path in self.folder.glob("*/s.zarr"):
            return stores.open(path)
        return build_store(self.folder / "store", self.build_config(), self.device, 2 if self.tiny else 32)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Of the networks; a CPU without instructions for bfloat16 takes minutes for the smallest."""
        return PRECISIONS if self.on_gpu else ("float32",)

    def seconds(self, call: Callable[[], object]) -> float:
        return meter.median_seconds(call, self.device, 1 if self.tiny else 5)

    def profiled(self, work: Callable[[], object]) -> tuple[float, int]:
        """Return the share of the time in which the device computes or copies, and how often the host waits for it."""
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.on_gpu else [])]
        meter.wait(self.device)
        with profile(activities=activities, acc_events=True) as trace:
            began = time.perf_counter()
            work()
            meter.wait(self.device)
            whole = time.perf_counter() - began
        kind, busy, end = DeviceType.CUDA if self.on_gpu else DeviceType.CPU, 0.0, 0.0
        events = list(trace.events() or ())
        for each in sorted(events, key=lambda event: event.time_range.start):
            if each.device_type == kind:
                busy += max(0.0, each.time_range.end - max(end, each.time_range.start))
                end = max(end, each.time_range.end)
        waits = sum("Synchronize" in each.name or each.name == "cudaMemcpy" for each in events)
        return busy / 1e6 / whole, waits - 1  # the last one is ours

    def profile_figures(self, work: Callable[[], object], of: str, settings: str, count: int = 1) -> Iterator[Figure]:
        busy, waits = self.profiled(work)
        yield Quantity(f"{of}: time in which the device is busy", "%").figure(100 * busy, settings)
        yield Quantity(f"{of}: synchronisations", "").figure(max(0, waits) / count, settings)


def ceilings(bench: Bench) -> Iterator[Figure]:
    """Rates of copies and of matrix products."""
    numbers, side = (2**12, 64) if bench.tiny else (2**28, 8192)
    here = torch.rand(numbers, device=bench.device)
    host = torch.rand(numbers, pin_memory=bench.on_gpu)
    for name, target, source in (
        ("device to device, read and written", torch.empty_like(here), here),
        ("pinned host to device", here, host),
        ("device to pinned host", host, here),
    ):
        moved = numbers * 4 * (2 if "written" in name else 1)
        seconds = bench.seconds(partial(target.copy_, source, non_blocking=True))
        yield Quantity(f"copy, {name}", "GB/s").figure(moved / seconds / 1e9, f"{numbers * 4 / 2**20:g} MiB")
    for name in ("float32", "TF32", "bfloat16", "float16"):
        dtype = getattr(torch, name, torch.float32)
        one, other = (torch.randn(side, side, device=bench.device).to(dtype) for _ in range(2))
        previous = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if name == "TF32" else "highest")
        seconds = bench.seconds(partial(torch.mm, one, other))
        torch.set_float32_matmul_precision(previous)
        yield Quantity("matrix product", "TFLOP/s").figure(2 * side**3 / seconds / 1e12, f"{name}, {side}²")


def pamr(bench: Bench) -> Iterator[Figure]:
    """PAMR by its kernels against PyTorch's operations: all of a pass, and one iteration."""
    case, maps = (Case(32, 4), 2) if bench.tiny else (Case(), 64)
    features, guide = (part.to(bench.device).repeat(maps, 1, 1, 1) for part in case.inputs())
    coarse = features[..., ::14, ::14].contiguous()
    scales = pamr_module.three_scales((case.size, case.size))
    moved = 4 * (2 * features.numel() + 24 * features[:, 0].numel())
    settings = f"{maps} maps, {case.channels} channels at {case.size}²"
    ways: dict[str, Any] = {"torch": lambda device: None}
    if bench.on_gpu:
        ways = {"Triton": pamr_module._gpu_kernels, **ways}
        assert pamr_module._gpu_kernels(features.device) is not None, "Triton cannot build the kernels"
    for way, kernels in ways.items():
        with patch.object(pamr_module, "_gpu_kernels", kernels):
            whole = bench.seconds(lambda: pamr_module.refine(coarse, guide, scales))
            few, many = (
                bench.seconds(partial(pamr_module.refine, features, guide, (pamr_module.Stage(None, count),)))
                for count in (2, 12)
            )
        yield Quantity("PAMR of three scales", "ms").figure(1000 * whole, f"{way}, {settings}")
        yield Quantity("PAMR, an iteration", "ms").figure(100 * (many - few), f"{way}, {settings}")
        yield Quantity("PAMR, map and weights moved once", "GB/s").figure(
            moved / max(1e-9, (many - few) / 10) / 1e9, f"{way}, {settings}"
        )


def networks(bench: Bench) -> Iterator[Figure]:
    """Each network by precision, compilation and clips per pass; errors against float32 on the CPU."""
    config, most = bench.build_config(), 2 if bench.tiny else 4
    pixels = torch.from_numpy(np.stack(list(moving_texture(0, most * config.frames, (config.cue_size,) * 2))))
    earlier = torch.arange(config.pairs) % (config.frames - 1)
    pairs = torch.stack((earlier, earlier + 1), dim=1)

    def runs(loaded: Networks, count: int, pairs: Tensor) -> dict[str, Callable[[], Tensor]]:
        device = next(loaded.encoder.parameters()).device
        images = pixels[:count].to(device).permute(0, 3, 1, 2).float() / 255
        return {
            "encoder": partial(loaded.encoder.grid, images),
            "depth": partial(loaded.depth, images),
            "flow": partial(loaded.flow.between, images, pairs),
        }

    if bench.on_gpu:
        torch.set_num_threads(devices.usable_cores())
    flops: dict[str, float] = {}
    exact = load_networks(config.replace(precision="float32"), "cpu")
    expected = {name: run() for name, run in runs(exact, 2, pairs[:1]).items()}
    for compiled, precision, clips in product((False,) if bench.tiny else (False, True), bench.precisions, (most, 1)):
        chosen = config.replace(precision=precision, compile=compiled)
        loaded = load_networks(chosen, bench.device)
        torch.set_float32_matmul_precision("highest")
        CueExtractor(loaded, chosen, bench.device)  # chooses layouts, TF32 and cuDNN's algorithms
        both_ways = torch.cat((pairs, pairs.flip(1)))
        of_clips = torch.cat([both_ways + clip * config.frames for clip in range(clips)])
        for name, run in runs(loaded, clips * config.frames, of_clips).items():
            if name not in flops:
                with FlopCounterMode(display=False) as counter:
                    run()
                flops[name] = counter.get_total_flops() / clips
            seconds, known = bench.seconds(run), expected[name]
            error = (run()[: len(known)].float().cpu() - known).norm() / known.norm()
            kind = "compiled" if compiled else "eager"
            settings = f"{getattr(config, name)}, {precision}, {kind}, {clips} clips per pass"
            yield Quantity(f"{name}: time of a clip", "ms").figure(1000 * seconds / clips, settings)
            yield Quantity(f"{name}: rate", "TFLOP/s").figure(flops[name] * clips / seconds / 1e12, settings)
            yield Quantity(f"{name}: relative error against float32 on a CPU", "").figure(float(error), settings)


@contextmanager
def builder(bench: Bench, clips: int) -> Iterator[tuple[stores.CueStore, Worker]]:
    """Generate clips; open their store, with nothing built, and a worker."""
    folder, config = Path(tempfile.mkdtemp(dir=bench.folder)), bench.build_config()
    root = folder / "frames"
    names, run = write_images(root, min(clips, 8)), BuildOptions(root, device=bench.device)
    for clip in range(len(names), clips):  # a clip's cues differ by its id
        names.append(f"{clip:03d}")
        shutil.copytree(root / names[clip % 8], root / names[clip])
    loaded = load_networks(config, bench.device)
    store = pipeline.open_store(folder / "s.zarr", config, run, loaded.facts(config, bench.device), names)
    try:
        with Worker(config, run, loaded) as worker:
            yield store, worker
    finally:
        if not len(store.complete_clips()):  # nothing for the other parts
            shutil.rmtree(folder)


def extract(bench: Bench) -> Iterator[Figure]:
    """The networks, PAMR and quantization on frames in memory."""
    with builder(bench, 8) as (store, worker):
        clips = [worker.load_clip(store.clip_id(clip)) for clip in range(4)]
        for count in (1, 4):
            worker.clips_per_pass = count
            work = partial(worker.predict, store, clips[:count])
            seconds = bench.seconds(work)
            settings = f"{count} clips per pass"
            yield Quantity("extraction", "clips/s").figure(count / seconds, settings)
            if worker.extractor.clip_flops is not None:
                rate = worker.extractor.clip_flops * count / seconds / 1e12
                yield Quantity("extraction: rate of the networks", "TFLOP/s").figure(rate, settings)
            worker.timer.take()
            work()
            meter.wait(bench.device)
            for part, each in worker.timer.take().items():
                yield Quantity(f"extraction: {part}", "ms per clip").figure(1000 * each / count, settings)
            yield from bench.profile_figures(work, "extraction", settings)


def build(bench: Bench) -> Iterator[Figure]:
    """A build from images to shards: tasks in a row, after a first one and before one under the profiler."""
    with builder(bench, 6 if bench.tiny else 112) as (store, worker):
        first, *tasks, last = store.pending_tasks()
        list(pipeline.build_local(store, worker, [first]))
        began = time.perf_counter()
        reports = list(pipeline.build_local(store, worker, tasks))
        seconds, clips = time.perf_counter() - began, sum(report.complete for report in reports)
        config = worker.config
        settings = f"{clips} clips of 360p JPEGs, {config.precision}, {worker.clips_per_pass} clips per pass"
        yield Quantity("build", "clips/s").figure(clips / seconds, settings)
        yield Quantity("build: stored", "MB per clip").figure(sum(r.bytes for r in reports) / clips / 1e6, settings)
        parts = sum((Counter(report.seconds) for report in reports), Counter())
        for part, each in parts.items():
            yield Quantity(f"build: {part}, of all threads", "ms per clip").figure(1000 * each / clips, settings)
        work = partial(lambda: list(pipeline.build_local(store, worker, [last])))
        yield from bench.profile_figures(work, "build of one task", f"{config.shard_clips} clips", config.shard_clips)


def step(bench: Bench) -> Iterator[Figure]:
    """A training step on a batch that stays on the device: precision, compilation, stored cues or online ones."""
    store, config = bench.store(), bench.train_config()
    for compiled, online, precision in product((False,) if bench.tiny else (False, True), (False, True), PRECISIONS):
        way = Way(f"{compiled}-{online}-{precision}", config.replace(precision=precision), online, compiled)
        trainer = way.trainer(store, bench.folder / "step" / way.name, torch.device(bench.device))
        batch = next(trainer.batches())

        def work() -> None:  # the losses of a step are read a step later
            trainer.apply(trainer.compute_gradients(batch))  # noqa: B023

        before = meter.begin_peak_mib(bench.device)
        kind = f"{precision}, {'compiled' if compiled else 'eager'}, cues {'computed online' if online else 'stored'}"
        settings = f"{config.batch_size} pairs at {config.crop_size} px, {kind}"
        yield Quantity("training step", "ms").figure(1000 * bench.seconds(work), settings)
        yield Quantity("training step: memory", "MiB").figure(meter.peak_mib(bench.device) - before, settings)
        yield from bench.profile_figures(work, "training step", settings)


def loader(bench: Bench) -> Iterator[Figure]:
    """Pairs per second from the store to the device, decoded, by the number of loader processes."""
    store, config = bench.store(), bench.train_config()
    for workers in (0, 1) if bench.tiny else (0, 4, 8, 12):
        folder = bench.folder / f"loader-{workers}"
        trainer = Way("store", config).trainer(store, folder, torch.device(bench.device), workers)
        count, batches = (2 if bench.tiny else 8 + 4 * workers), trainer.batches()
        for _ in range(1 + workers):
            next(batches)
        began = time.perf_counter()
        deque(islice(batches, count), maxlen=0)
        meter.wait(bench.device)
        rate = count / (time.perf_counter() - began)
        del batches
        settings = f"{config.batch_size} pairs per batch, {workers} processes, {devices.usable_cores()} cores"
        yield Quantity("loader", "pairs/s").figure(config.batch_size * rate, settings)


def curves(bench: Bench) -> Iterator[Figure]:
    """Losses of float32 and of bfloat16 on the same batches."""
    store, device, steps = bench.store(), torch.device(bench.device), 2 if bench.tiny else 150
    config = bench.train_config()
    config = config.replace(steps=steps, batch_size=min(8, config.batch_size))
    trainers = {
        precision: Way(precision, config.replace(precision=precision)).trainer(
            store, bench.folder / f"curve-{precision}", device, 0 if bench.tiny else 4
        )
        for precision in PRECISIONS
    }
    losses: dict[str, list[Tensor]] = {precision: [] for precision in PRECISIONS}
    for batch in trainers["float32"].batches():
        for precision, trainer in trainers.items():
            losses[precision].append(one_step(trainer, batch).total)
    curve = {precision: torch.stack(values).float() for precision, values in losses.items()}
    for first in range(0, steps, max(1, steps // 15)):
        part = slice(first, first + max(1, steps // 15))
        for precision, values in curve.items():
            settings = f"{precision}, steps {first} to {min(part.stop, steps) - 1}, {config.batch_size} pairs"
            yield Quantity("loss", "").figure(float(values[part].mean()), settings)
    away = (curve["bfloat16"] - curve["float32"]).abs().max() / curve["float32"].abs().max()
    yield Quantity("loss: largest difference of bfloat16, of the largest loss", "%").figure(100 * float(away))


def inference(bench: Bench) -> Iterator[Figure]:
    """Features of one image by size: ViT-S/14 with the published widths."""
    for precision, size in product(bench.precisions, (56,) if bench.tiny else (224, 448, 896, 1792)):
        case = features_benchmark.Case("LILA", size, bench.device, None, 60, 64)
        with torch.autocast(bench.device.split(":")[0], torch.bfloat16, enabled=precision == "bfloat16"):
            found: list[features_benchmark.Measured] = []
            features_benchmark.measure(case, lambda: None, found.append)
        yield Quantity("features of an image", "ms").figure(1000 * found[0].seconds, f"{precision}, {size}²")
        yield Quantity("features of an image: memory", "MiB").figure(found[0].extra_mib, f"{precision}, {size}²")


@contextmanager
def memory_limit(bench: Bench, mib: float) -> Iterator[None]:
    """Let PyTorch take at most so much more of a GPU's memory than it holds; of a CPU's, any."""
    if not bench.on_gpu:
        yield
        return
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mib * 2**20) / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def oom(bench: Bench) -> Iterator[Figure]:
    """Passes that do not fit are halved: in stage one, and where features are computed."""
    with builder(bench, 4) as (store, worker):
        clips = [worker.load_clip(store.clip_id(clip)) for clip in range(4)]
        worker.clips_per_pass = 1
        worker.predict(store, clips[:1])
        before = meter.begin_peak_mib(bench.device)
        worker.predict(store, clips[:1])
        needed = meter.peak_mib(bench.device) - before
        worker.clips_per_pass = 4
        with memory_limit(bench, 2 * needed):
            predicted = worker.predict(store, clips)
        assert len(predicted) == 4
        settings = f"memory for 2 clips, {needed:.0f} MiB each" if bench.on_gpu else "no limit"
        yield Quantity("clips per pass that remain of 4", "").figure(worker.clips_per_pass, settings)
    side = 56 if bench.tiny else 448
    pictures = list(moving_texture(0, 4, (side, side)))
    model = features_benchmark.lila(bench.device)
    compute = FeatureComputer(model, FeatureConfig(), batch=1)
    compute(pictures[:1])
    before = meter.begin_peak_mib(bench.device)
    compute(pictures[:1])
    needed = meter.peak_mib(bench.device) - before
    compute = FeatureComputer(model, FeatureConfig(), batch=4)
    with memory_limit(bench, 2 * needed):
        features = compute(pictures)
    assert len(features) == 4
    settings = f"memory for 2 pictures of {side}², {needed:.0f} MiB each" if bench.on_gpu else "no limit"
    yield Quantity("features: pictures per pass that remain of 4", "").figure(
        compute.pass_size(pictures[0].shape), settings
    )


PARTS: dict[str, tuple[int, Callable[[Bench], Iterator[Figure]]]] = {  # seconds
    "ceilings": (25, ceilings), "pamr": (30, pamr), "networks": (130, networks), "extract": (40, extract),
    "build": (60, build), "step": (110, step), "loader": (50, loader), "curves": (45, curves),
    "inference": (30, inference), "oom": (20, oom),
}  # fmt: skip


def emit(**line: Any) -> None:
    print(json.dumps(line, ensure_ascii=False), flush=True)


def run_here(part: str, bench: Bench) -> bool:
    """Print the figures of a part, or its error; return whether it was carried out."""
    try:
        for figure in PARTS[part][1](bench):
            quantity = figure.quantity
            emit(part=part, name=quantity.name, value=figure.value, unit=quantity.unit, settings=figure.settings)
    except Exception as error:
        traceback.print_exc()
        emit(part=part, error=f"{type(error).__name__}: {error}")
        return False
    return True


def run_apart(part: str, options: Sequence[str], limit: float) -> bool:
    """Run a part in a process of its own, with its children ended at the limit."""
    process = subprocess.Popen([sys.executable, "-m", "tests.gpu.measure", part, *options], start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        emit(part=part, error=f"ended at its limit of {limit:g} s")
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status not in (0, REPORTED):
        emit(part=part, error=f"its process ended with status {status}")
    return status == 0


def circumstances(device: str) -> dict[str, str]:
    """Return machine, versions and commit; of a GPU its driver and clocks."""
    found = {"machine": table.machine(device), "commit": table.commit()}
    if device != "cpu":
        asked = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        with suppress(OSError):
            values = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[:1]
            found |= dict(zip(asked.split(","), "".join(values).split(", "), strict=False))
        found["cuda"] = str(torch.version.cuda)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks and sizes, in seconds on a CPU")
    parser.add_argument("--folder", type=Path, help="run the parts in this process, with their files in this folder")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"expected parts among {', '.join(PARTS)}, found {', '.join(unknown)}")
    devices.choose(options.device)
    if options.folder is not None:
        bench = Bench(options.device, options.tiny, options.folder)
        done = [run_here(part, bench) for part in parts]
        sys.exit(0 if all(done) else REPORTED)
    emit(**circumstances(options.device))
    with tempfile.TemporaryDirectory() as folder:
        passed_on = ["--device", options.device, "--folder", folder, *(["--tiny"] if options.tiny else [])]
        done = [run_apart(part, passed_on, PARTS[part][0]) for part in parts]
    sys.exit(0 if all(done) else 1)


if __name__ == "__main__":
    main()
