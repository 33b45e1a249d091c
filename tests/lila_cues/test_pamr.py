"""PAMR against stored values and a loop over pixels, and properties of any map."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lila_cues import pamr
from lila_cues.pamr import ORIGINAL, Affinity, Stage, refine, three_scales

CASES = {
    "three_stage": ((Stage((24, 32), 6), Stage((48, 64), 4), Stage(None, 2)), None),
    "one_stage_5": ((Stage(None, 5),), None),
    "original_sigma01": ((Stage(None, 5),), ORIGINAL),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_stored_values(shared: Path, case: str) -> None:
    stored = np.load(shared / "conformance" / "pamr.npz")
    stages, affinity = CASES[case]
    refined = refine(_tensor(stored["map"]), _tensor(stored["image"]), stages, affinity)
    assert (refined[0] - torch.from_numpy(stored[case])).abs().max() < 1e-4


@pytest.mark.parametrize("affinity", [Affinity(), Affinity(dilations=(2,), sigma=0.2, eps=1e-3), ORIGINAL])
def test_one_iteration_equals_a_loop_over_pixels(affinity: Affinity) -> None:
    features, guide = _random(2, 3, 7, 9), _random(2, 3, 7, 9).sigmoid()
    refined = refine(features, guide, (Stage(None, 1),), affinity)
    for item in range(2):
        looped = _loop(features[item].double().numpy(), guide[item].double().numpy(), affinity)
        np.testing.assert_allclose(refined[item].numpy(), looped, atol=2e-6)


def test_a_constant_map_is_unchanged() -> None:
    refined = refine(torch.full((1, 4, 6, 5), 3.5), _random(1, 3, 24, 20).sigmoid(), three_scales((24, 20)))
    torch.testing.assert_close(refined, torch.full((1, 4, 24, 20), 3.5))


def test_values_do_not_cross_an_edge() -> None:
    guide = torch.zeros(1, 3, 32, 32)
    guide[..., 16:] = 1
    features = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 + guide[:, :1]
    smoothed = refine(features, guide, (Stage(None, 10),))[0, 0]
    assert smoothed[:, :14].max() < 0.2
    assert smoothed[:, 18:].min() > 0.8
    assert smoothed[:, :14].std() < features[0, 0, :, :14].std() / 3


def test_items_of_a_batch_are_independent() -> None:
    features, guide = _random(3, 5, 6, 6), _random(3, 3, 12, 15).sigmoid()
    stages = three_scales((12, 15))
    together = refine(features, guide, stages)
    apart = torch.cat([refine(features[item : item + 1], guide[item : item + 1], stages) for item in range(3)])
    assert torch.equal(together, apart)


def test_no_iterations_only_resizes() -> None:
    features = _random(1, 2, 5, 5)
    corners = refine(features, _random(1, 3, 9, 9).sigmoid(), (Stage(None, 0),))[..., ::8, ::8]
    torch.testing.assert_close(corners, features[..., ::4, ::4])


def test_runs_in_float32_under_autocast() -> None:
    features, guide = _random(1, 2, 8, 8), _random(1, 3, 8, 8).sigmoid()
    plain = refine(features, guide, (Stage(None, 3),))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(refine(features, guide, (Stage(None, 3),)), plain)
    assert refine(features.bfloat16(), guide, (Stage(None, 3),)).dtype == torch.float32


def test_three_scales_follow_the_grid() -> None:
    assert three_scales((224, 224)) == (Stage((56, 56), 20), Stage((112, 112), 10), Stage((224, 224), 5))
    assert three_scales((112, 200), (3, 2, 1)) == (Stage((28, 50), 3), Stage((56, 100), 2), Stage((112, 200), 1))


KERNELS = """
import torch
from lila_cues import pamr, pamr_triton
draw = torch.Generator().manual_seed(1)
for dilations in ((1, 3, 5), (2,), (1, 4)):
    affinity = pamr.Affinity(dilations=dilations)
    guide = torch.rand(2, 3, 7, 9, generator=draw)
    guide[0, :, :4] = 0.3
    weights = pamr._weights(guide, affinity)
    kernel = pamr_triton.affinity(guide, dilations, affinity.sigma, affinity.eps)
    torch.testing.assert_close(kernel, weights, atol=1e-5, rtol=1e-4)
    maps = torch.randn(2, 17, 7, 9, generator=draw)
    for iterations in (1, 3):
        kernel = pamr_triton.iterate(maps.clone(), weights, dilations, iterations)
        torch.testing.assert_close(kernel, pamr._iterate(maps, weights, pamr._offsets(dilations), iterations))
"""


COMPILATION = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lila_cues import pamr_triton
sizes = {"height": "i32", "width": "i32"}
for kernel, types, constants in (
    (
        pamr_triton._affinity,
        {"guide": "*fp32", "result": "*fp32", **sizes, "sigma": "fp32", "eps": "fp32"},
        {"dilations": (1, 3, 5), "rows": 32, "pixels": 64},
    ),
    (
        pamr_triton._iteration,
        {"maps": "*fp32", "weights": "*fp32", "result": "*fp32", "channels": "i32", **sizes},
        {"dilations": (1, 3, 5), "pixels": 128, "group": 16},
    ),
):
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    assert compiled.asm["cubin"]
"""


@pytest.mark.parametrize(("program", "interpreted"), [(KERNELS, "1"), (COMPILATION, "0")])
def test_gpu_kernels_equal_the_cpu_and_can_be_compiled(program: str, interpreted: str) -> None:
    """By Triton's interpreter, and for a GPU that is not there; in processes without the shape checks of a test run."""
    pytest.importorskip("triton", reason="no triton here: the GPU kernels are not in use")
    environment = {**os.environ, "TRITON_INTERPRET": interpreted}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_a_compiler_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pamr_triton = pytest.importorskip("lila_cues.pamr_triton")

    def broken(*arguments: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(pamr_triton, "affinity", broken)
    pamr._gpu_kernels.cache_clear()
    assert [pamr._gpu_kernels(torch.device("cpu")) for _ in range(2)] == [None, None]
    pamr._gpu_kernels.cache_clear()
    (message,) = caplog.messages
    assert message.endswith("Triton cannot build them (Failed to find C compiler.)")


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    features, guide = _random(2, 64, 16, 16), _random(2, 3, 64, 80).sigmoid()
    stages = three_scales((64, 80))
    on_gpu = refine(features.cuda(), guide.cuda(), stages).cpu()
    torch.testing.assert_close(on_gpu, refine(features, guide, stages), atol=1e-4, rtol=1e-4)


def _loop(features: np.ndarray, guide: np.ndarray, affinity: Affinity) -> np.ndarray:
    """PAMR as docs/method.md has it, pixel by pixel."""
    _, height, width = guide.shape
    result = np.zeros_like(features)

    def at(maps: np.ndarray, row: int, column: int) -> np.ndarray:
        return maps[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    steps = [(i * d, j * d) for d in affinity.dilations for i in (-1, 0, 1) for j in (-1, 0, 1)]
    for row in range(height):
        for column in range(width):
            window = [at(guide, row + i, column + j) for i, j in steps]
            deviation = [statistics.stdev(sample[channel] for sample in window) for channel in range(3)]
            scale = [affinity.eps + affinity.sigma * value for value in deviation]
            near = [step for step in steps if step != (0, 0)]
            logits = [
                -sum(
                    abs(guide[c, row, column] - at(guide, row + i, column + j)[c]) / scale[c] for c in range(3)
                ) / 3
                for i, j in near
            ]  # fmt: skip
            shares = [math.exp(logit - max(logits)) for logit in logits]
            for share, (i, j) in zip(shares, near, strict=True):
                result[:, row, column] += share / sum(shares) * at(features, row + i, column + j)
    return result


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[None]
