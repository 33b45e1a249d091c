"""Time and memory of pixel features at several sizes: LILA, the encoder alone or enlarged, and peers from local clones.

python -m tests.benchmarks.inference [--peers DIR] [--sizes 224 448 896] [--limit 60]

ViT-S/14 with the published widths, DINOv3's ViT-S+/16 below ViT-Up; random weights, which cost the same. Every case
runs in a process of its own, on one thread of a CPU, and is ended at its limits of CPU time and memory. FLOPs are those
of matrix products and convolutions as they are executed: LILA's 3×3 convolutions by Winograd's algorithm, the
neighborhood sums of FeatUp and UPLiFT not at all. At 1792² LILA and the encoder take minutes:
`--sizes 224 448 896 1792 --limit 150` asks for it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import figures, meter, peers
from tests.benchmarks.figures import Bar, Figure, Quantity

if TYPE_CHECKING:
    from lila_train.model.lila import Lila

PATIENCE = 4  # times the limit, for what is to be compared with
SIZES = (224, 448, 896)
FULL_RESOLUTION = ("LILA", "encoder, enlarged", *peers.NAMES)
FASTEST = Quantity("pixel features: time of the fastest other at full resolution, of LILA's", "×", Bar("above", 1))
# Linear but for what an allocator rounds: were it quadratic, four times the side would give 16.
LINEAR = Quantity("pixel features: memory per pixel, most at any size, of the smallest's", "×", Bar("at most", 1.5))
FIGURES = (FASTEST, LINEAR)


@dataclass(frozen=True)
class Case:
    """One method at one image size; limits in CPU seconds of its process and in GiB of memory."""

    method: str
    size: int
    device: str
    clones: Path | None
    limit: float
    memory: float


@dataclass(frozen=True)
class Measured:
    """Median seconds of an image, MiB at the peak on top of what was held before, 10⁹ FLOPs, channels; or why none.

    Of what was ended at its limit, `over` is the seconds that its image had taken by then.
    """

    seconds: float = float("nan")
    extra_mib: float = float("nan")
    gflop: float = float("nan")
    channels: int = 0
    reason: str = ""
    over: float = float("nan")


def lila(device: str) -> Lila:
    """ViT-S/14 with the published widths and random weights."""
    from lila_cues.networks import load_encoder
    from lila_train.model.decoder import Decoder, DecoderWidths
    from lila_train.model.lila import Lila

    encoder = load_encoder("dinov2_vits14", "random:0", device=device)
    return Lila(encoder, Decoder(DecoderWidths.of_encoder(encoder.width))).to(device).eval()


def features_of(case: Case) -> Callable[[Tensor], Tensor]:
    """The method, on its device."""
    if case.method == "vit-up":
        assert case.clones is not None
        from lila_cues.networks import load_encoder

        encoder = load_encoder("dinov3_vits16plus", "random:0", device=case.device)
        return peers.peer(case.method, case.clones, encoder)
    model = lila(case.device)
    encoder = model.encoder
    if case.method == "LILA":
        return model
    if case.method == "encoder alone":
        return encoder.grid
    if case.method == "encoder, enlarged":
        return peers.enlarged(encoder)
    assert case.clones is not None
    return peers.peer(case.method, case.clones, encoder)


@torch.no_grad()
def measure(case: Case, begin: Callable[[], None], answer: Callable[[Measured], None]) -> float:
    """Run one case in this process and return its 10⁹ FLOPs, which are counted without computing.

    `begin` is called when all is ready for the first image, `answer` with time and memory.
    """
    run = features_of(case)
    small = torch.rand(1, 3, *2 * [126 if case.method == "naf" else 56], device=case.device)  # the least for NAF
    run(small)
    image = torch.rand(1, 3, case.size, case.size, device=case.device)
    before = meter.begin_peak_mib(case.device)
    begin()
    first = _seconds(run, image, case.device)
    extra = meter.peak_mib(case.device) - before
    repeats = 3 if first < 1 else 1 if first < 8 else 0
    rest = [_seconds(run, image, case.device) for _ in range(repeats)]
    answer(Measured(statistics.median(rest or [first]), extra, channels=run(small).shape[1]))
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        run(torch.rand(1, 3, case.size, case.size, device=case.device))
    return counter.get_total_flops() / 1e9


def _seconds(run: Callable[[Tensor], Tensor], image: Tensor, device: str) -> float:
    meter.wait(device)
    began = meter.clock(device)
    run(image)
    meter.wait(device)
    return meter.clock(device) - began


def _child(case: Case, answer: Connection) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (int(case.memory * 2**30), resource.RLIM_INFINITY))
    try:
        answer.send(measure(case, lambda: answer.send(meter.clock(case.device)), answer.send))
    except ImportError as error:
        answer.send(Measured(reason=f"not here: {str(error).splitlines()[0]}"))
    except (MemoryError, torch.OutOfMemoryError):
        answer.send(Measured(reason=f"more than {case.memory:g} GiB"))
    except RuntimeError as error:
        short = f"more than {case.memory:g} GiB" if "allocate" in str(error) else str(error).splitlines()[0][:60]
        answer.send(Measured(reason=short))


def in_a_process(case: Case) -> Measured:
    """Measured, or ended at its limits."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(case, theirs))
    process.start()
    theirs.close()
    began, found = float("nan"), None
    try:
        while (taken := _cpu_seconds(process)) < case.limit:
            if not mine.poll(1):
                continue
            said = mine.recv()
            if isinstance(said, Measured):
                found = found or said
                if said.reason:
                    return found
            elif found is None:
                began = said  # when its first image began
            else:
                return replace(found, gflop=said)
        over = taken - began
        return found or Measured(
            reason=f"more than {over:.0f} s" if over == over else f"not ready in {case.limit:g} s", over=over
        )
    except EOFError:
        return found or Measured(reason="ended by the system, out of memory")
    finally:
        process.kill()
        process.join()


def _cpu_seconds(process: BaseProcess) -> float:
    """What `meter.clock` would say in that process, on Linux."""
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    from lila_cues.console import out

    parser = figures.parser(__doc__)
    parser.add_argument("--peers", type=Path, help="a folder of clones of " + ", ".join(peers.NAMES))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--limit", type=float, default=60, help="CPU seconds that a case may take, start included")
    parser.add_argument("--memory", type=float, default=14, help="GiB that a case may take on a CPU")
    parser.add_argument("--methods", nargs="+", default=peers.NAMES, help="of the clones, those to run")
    chosen = parser.parse_args()
    methods = ["encoder alone", "LILA", *(chosen.methods if chosen.peers else ["encoder, enlarged"])]
    found = _measured(methods, chosen)
    out.print("ViT-S/14, one image, one thread: CPU s (times LILA's) / MiB / GFLOP")
    out.print(f"| | channels | {' | '.join(f'{size}²' for size in chosen.sizes)} |", soft_wrap=True)
    out.print(f"|---|---:|{len(chosen.sizes) * '---:|'}")
    for method in methods:
        row = [found[method, size] for size in chosen.sizes]
        cells = [_shown(each, found["LILA", size].seconds) for each, size in zip(row, chosen.sizes, strict=True)]
        channels = max(each.channels for each in row) or "–"
        out.print(f"| {method} | {channels} | {' | '.join(cells)} |", soft_wrap=True)
    figures.hand_back(chosen.figures, FIGURES, _judged(found, list(chosen.sizes)))


def _measured(methods: list[str], chosen: argparse.Namespace) -> dict[tuple[str, int], Measured]:
    """All figures, told as they come; what did not get through at one size is not tried at the next."""
    from lila_cues.console import err

    found: dict[tuple[str, int], Measured] = {}
    for last, size in zip((None, *chosen.sizes), chosen.sizes, strict=False):
        for method in methods:
            limit = chosen.limit * (PATIENCE if method in ("LILA", "encoder alone") else 1)
            case = Case(method, size, "cpu", chosen.peers, limit, chosen.memory)
            before = found.get((method, last)) if last else None
            found[method, size] = before if before and before.reason else in_a_process(case)
            err.print(f"{method} at {size}²: {_shown(found[method, size])}", style="dim")
    return found


def _shown(measured: Measured, ours: float = float("nan")) -> str:
    ratio = f" ({measured.seconds / ours:.2g}×)" if ours == ours else ""
    return measured.reason or f"{measured.seconds:.2f}{ratio} / {measured.extra_mib:.0f} / {measured.gflop:.0f}"


def _judged(found: dict[tuple[str, int], Measured], sizes: list[int]) -> list[Figure]:
    """How LILA stands among those of full resolution, and how its memory grows with the pixels."""
    from lila_cues.console import out

    judged = []
    for size in sizes:
        ours = found["LILA", size].seconds
        others = {m: f.seconds / ours for (m, s), f in found.items() if s == size and m in FULL_RESOLUTION[1:]}
        others = {method: ratio for method, ratio in others.items() if ratio == ratio}
        listed = ", ".join(f"{method} {ratio:.1f}" for method, ratio in sorted(others.items(), key=lambda x: x[1]))
        out.print(f"{size}²: times as long as LILA: {listed or 'nobody else got through'}")
        judged.append(_fastest(found, size))
    per_pixel = [found["LILA", size].extra_mib / size**2 * 2**20 for size in sizes]
    out.print(f"LILA's memory per pixel, bytes: {', '.join(f'{value:.0f}' for value in per_pixel)}")
    linear = max(per_pixel) / per_pixel[0] if len(sizes) > 1 else math.nan
    settings = ", ".join(f"{size}²" for size in sizes)
    return [*judged, LINEAR.figure(linear if math.isfinite(linear) else None, settings)]


def _fastest(found: dict[tuple[str, int], Measured], size: int) -> Figure:
    """The fastest other at one size; of one that was ended, what it had taken by then is a bound, if that is enough."""
    ours, settings = found["LILA", size].seconds, f"ViT-S/14, {size}²"
    others = {m: f for (m, s), f in found.items() if s == size and m in FULL_RESOLUTION[1:]}
    took = {m: f.over if f.reason else f.seconds for m, f in others.items()}
    took = {method: seconds for method, seconds in took.items() if math.isfinite(seconds)}
    best = min(took, key=took.__getitem__, default=None)
    if best is None or not math.isfinite(ours) or (others[best].reason and took[best] <= ours):
        reasons = {"LILA": found["LILA", size], **others}
        return FASTEST.figure(None, settings, "; ".join(f"{m}: {f.reason}" for m, f in reasons.items() if f.reason))
    note = f"{best}, ended after {took[best]:.0f} s, so at least this" if others[best].reason else best
    return FASTEST.figure(took[best] / ours, settings, note)


if __name__ == "__main__":
    main()
