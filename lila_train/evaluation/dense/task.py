"""Probes over a data set as work for the harness: one part per head, trained, then measured on the validation set.

A few validation images are kept with their truth and the predictions of each head, for the reports:
`examples/00012/{image,truth,HEAD}.png`: classes as indexed PNGs, directions as RGB, (n + 1)/2, depth as gray levels;
the last two black where unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from lila_cues.viz.pictures import write_label_png, write_png
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense.data import NO_CROP, DenseData, Files
from lila_train.evaluation.dense.probes import features_of, seeded
from lila_train.evaluation.dense.training import DenseProtocol, Sums, read_batches, train
from lila_train.evaluation.harness import Task
from lila_train.evaluation.models import GridModel
from lila_train.evaluation.results import ResultFolder, fingerprint
from lila_train.model.resize import size_of, to_size
from lila_train.outputs import Json, read_json

EXAMPLE_SIDE_PX = 640  # at most

Stored = UInt8[np.ndarray, "h w *rgb"]


@dataclass(frozen=True)
class DenseTask(Task):
    """A probe of `rule`, trained on frozen features, and measured on `data`."""

    data: DenseData
    rule: DenseProtocol

    @property
    def settings(self) -> dict[str, Any]:
        return self.rule.settings() | {"seed": self.config.seed}

    def parts(self) -> dict[str, int]:
        """Return the number of training steps and validation batches of the one part."""
        return {"probe": self.rule.recipe.steps(len(self.data.train)) + math.ceil(len(self.data.val) / self._val_batch)}

    def counts(self) -> dict[str, int]:
        return {"train images": len(self.data.train), "images": len(self.data.val)}

    def derived(self, model: GridModel) -> dict[str, Any]:
        return {"patch_size": model.patch_size}

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        """Train the probe of a head (its checkpoint below `folder`/probes) and measure it."""
        identity = read_json(ResultFolder(folder).identity) or {}
        side = self.rule.train_view.side
        widths = features_of(model, head, torch.zeros(1, 3, side, side, device=model.device)).widths
        probe = seeded(self.rule.build, widths, self.rule.n_outputs, self.config.seed).to(model.device)
        checkpoint = folder / "probes" / f"{head}.pt"
        train(probe, model, head, self.rule, self.data, self.config.seed, checkpoint, fingerprint(identity), advance)
        return {"sums": self._measure(probe, model, head, folder / "examples", advance).to_json()}

    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        (record,) = records
        return self.rule.from_json(record["sums"]).metrics()

    @torch.no_grad()
    def _measure(
        self, probe: nn.Module, model: GridModel, head: str, examples: Path, advance: Callable[[], None]
    ) -> Sums:
        """Return the sums over the validation set; a few images are kept as examples."""

        def view(files: Files) -> tuple[Tensor, Tensor]:
            example = self.data.read(files)
            image, target = self.rule.val_view.apply(example)
            return image, target if self.rule.slide is None else example.target

        def forward(images: Tensor) -> Tensor:
            return probe(features_of(model, head, images))

        probe.eval()
        kept, sums = example_indices(len(self.data.val)), None
        starts = range(0, len(self.data.val), self._val_batch)
        for start, views in zip(starts, read_batches(view, self.data.val, self._val_batch), strict=True):
            images, targets = (torch.stack(part).to(model.device) for part in zip(*views, strict=True))
            if self.rule.slide is None:
                outputs = forward(images)
            else:
                outputs = to_size(sliding_window(forward, images, *self.rule.slide), size_of(targets))
            measured = self.rule.measure(targets, outputs)
            sums = measured if sums is None else sums + measured
            for index, (image, target, output) in enumerate(zip(images, targets, outputs, strict=True), start):
                if index in kept:
                    image = to_size(image[None], size_of(target))[0]
                    keep_example(examples, index, head, image, self.rule.draw(target), self.rule.draw(output))
            advance()
        assert sums is not None, "the validation list is not empty"
        return sums

    @property
    def _val_batch(self) -> int:
        whole = self.rule.slide is not None or self.rule.val_view.side == NO_CROP  # images keep their sizes
        return 1 if whole else self.rule.recipe.batch


def dense_task(
    protocol: DenseProtocol, open_data: Callable[[Path, int | None], DenseData], data: Path, config: EvalConfig
) -> DenseTask:
    """Open a data folder for a protocol with a probe."""
    return DenseTask(protocol.name, open_data(data, config.limit), config, protocol)


def sliding_window(
    forward: Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b k h w"]], images: Tensor, window: int, stride: int
) -> Tensor:
    """Return logits averaged over windows that cover the image; `forward` maps images to logits of their size."""
    height, width = images.shape[2:]
    total: Tensor | None = None
    weight = images.new_zeros(1, 1, height, width)
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            box = (slice(None), slice(None), slice(top, top + window), slice(left, left + window))
            logits = forward(images[box])
            total = logits.new_zeros(len(logits), logits.shape[1], height, width) if total is None else total
            total[box] += logits
            weight[box] += 1
    assert total is not None
    return total / weight


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first pixel of each window along a side: every stride, and last the one that ends at the border."""
    last = max(0, length - window)
    return sorted({*range(0, last, stride), last})


def example_indices(count: int) -> list[int]:
    """Return which images of a set are kept: four, evenly spread."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(4, count))})


def keep_example(
    root: Path, index: int, head: str, image: Float[Tensor, "3 h w"], truth: Stored, prediction: Stored
) -> None:
    """Write one validation image (RGB in [0, 1]), its truth and a prediction, subsampled to at most 640 px."""
    folder = root / f"{index:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    step = max(1, -(-max(image.shape[1:]) // EXAMPLE_SIDE_PX))
    rgb = (image[:, ::step, ::step] * 255).round().byte().movedim(0, -1).cpu().numpy()
    write_png(folder / "image.png", rgb)
    for name, values in (("truth", truth), (head, prediction)):
        write = write_label_png if values.ndim == 2 else write_png
        kept = values[::step, ::step]
        write(folder / f"{name}.png", kept[..., 0] if kept.shape[2:] == (1,) else kept)


def draw_classes(values: Shaped[Tensor, "k h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return labels (one channel) as they are, and of logits the class with the largest."""
    labels = values[0] if len(values) == 1 else values.argmax(dim=0)
    return labels.to(torch.uint8).cpu().numpy()


def draw_directions(vectors: Float[Tensor, "k h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the first three channels at unit length as RGB, (n + 1)/2; black where they are 0."""
    unit = F.normalize(vectors[:3], dim=0)
    stored = ((unit + 1) * 127.5).round().byte() * (vectors[:3].abs().sum(dim=0) > 0)
    return stored.movedim(0, -1).cpu().numpy()
