"""Networks of a few operations with known results, for tests of what is around them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lila_cues.config import BuildConfig, RunOptions
from lila_cues.networks.weights import WeightSource
from lila_cues.pipeline.frames import DepthFiles
from lila_cues.pipeline.setup import NetworkFacts, Networks
from stores.spec import Geometry

GEOMETRY = Geometry(frames=6, pairs=4, base=(48, 48), cue=(32, 32), features=(16, 16), encoder=(4, 4), channels=5)
CONFIG = BuildConfig(
    dataset="videos", encoder="patches", depth="brightness", flow="no motion", max_gap=3, base_size=48, cue_size=32,
    feature_size=16, channels=5, frames=6, pairs=4, pamr_iterations=(2, 1, 1),
)  # fmt: skip


def source_of(name: str) -> WeightSource:
    return WeightSource(name, "code", "tests", "1", None, "Apache-2.0")


class Patches:
    """The mean colour of each 8×8 patch, times 1, 2, 3, … 8 in turn: channel 3k + c is colour c times k + 1."""

    name, width, patch_size = "patches", 24, 8
    source, settings = source_of("patches"), {"precision": "float32"}

    def grid(self, images: Tensor) -> Tensor:
        mean = torch.nn.functional.avg_pool2d(images, 8)
        return torch.cat([mean * (k + 1) for k in range(8)], dim=1)


class Brightness:
    """q is ten times the mean over the colours."""

    name, source, settings = "brightness", source_of("brightness"), {"scale": 10}

    def __call__(self, images: Tensor) -> Tensor:
        return 10 * images.mean(1)

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        return ()


class Difference:
    """Flow is the difference of the images' means, to the right, and minus twice that, down."""

    name, source, settings = "no motion", source_of("no motion"), {"updates": 0}

    def between(self, images: Tensor, pairs: Tensor) -> Tensor:
        first, second = (images[column.to(images.device)] for column in pairs.unbind(1))
        change = (second - first).mean((1, 2, 3))[:, None, None].expand(-1, *images.shape[-2:])
        return torch.stack([change, -2 * change], dim=1)

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        return ()


def networks(depth_files: Path | None = None) -> Networks:
    depth = DepthFiles(depth_files) if depth_files else Brightness()
    return Networks(Patches(), Difference(), depth)  # type: ignore[arg-type]


def facts(config: BuildConfig = CONFIG) -> NetworkFacts:
    return networks().facts(config, "cpu")


def run_options(root: Path) -> RunOptions:
    return RunOptions(root, device="cpu")
