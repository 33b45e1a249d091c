"""Open-vocabulary segmentation with the features under test as attention: `openvocab@proxyclip` (docs/protocols.md).

CLIP's last attention map is replaced by the affinity of the features (Lan et al., ProxyCLIP, ECCV 2024); nothing is
trained. As in that paper the last block's residual and feed-forward layer are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense import segmentation
from lila_train.evaluation.dense.data import NO_CROP, DenseData, Example, ValView
from lila_train.evaluation.dense.metrics import Confusion
from lila_train.evaluation.dense.task import draw_classes, example_indices, keep_example, sliding_window
from lila_train.evaluation.harness import Task
from lila_train.evaluation.models import ENCODER, GridModel, feature_map
from lila_train.evaluation.text.clip import IMAGENET, ClassTexts, ClipImages, ade_names
from lila_train.model.resize import size_of, to_size, to_whole_patches
from lila_train.outputs import Json

CLIP = "openai/clip-vit-base-patch16"
IMAGES_PER_PART = 100


@dataclass(frozen=True)
class ProxySettings:
    """Settings that shape the scores; sides in pixels. A pixel map is first averaged to cells of `pixels_per_cell`²."""

    short_side: int = 336
    window: int = 336
    stride: int = 112
    beta: float = 1.2
    gamma: float = 3.0
    logit_scale: float = 40.0
    pixels_per_cell: int = 4
    rows_at_once: int = 1024  # of the affinity; changes memory only


@dataclass(frozen=True)
class OpenVocabulary(Task):
    """A task without training: one part per hundred images."""

    data: DenseData
    rule: ProxySettings
    texts: ClassTexts

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"clip": self.texts.clip, "templates": len(self.texts.templates)}

    def parts(self) -> dict[str, int]:
        """Return runs of a hundred images, named by the index of their first."""
        count = len(self.data.val)
        return {f"{n:05d}": min(IMAGES_PER_PART, count - n) for n in range(0, count, IMAGES_PER_PART)}

    def counts(self) -> dict[str, int]:
        return {"images": len(self.data.val), "classes": len(self.texts.names)}

    def derived(self, model: GridModel) -> dict[str, Any]:
        """Return the cells along a window's side whose affinity is computed, for a grid and for a pixel map."""
        cells = self.rule.window // self.rule.pixels_per_cell
        return {"grid_cells": round(self.rule.window / model.patch_size), "pixel_map_cells": cells}

    @cached_property
    def clip_images(self) -> ClipImages:
        """CLIP, loaded once for all parts."""
        return ClipImages.load(self.texts.clip)

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        clip = self.clip_images
        clip.network.to(model.device)
        texts = self.texts.embeddings.to(model.device)
        matrices, kept = [], example_indices(len(self.data.val))
        for index, files in enumerate(self.data.val[int(part) : int(part) + IMAGES_PER_PART], start=int(part)):
            example = self.data.read(files)
            target = example.target
            logits = to_size(self.logits(model, head, clip, texts, example.image), size_of(target))
            matrices.append(Confusion.of(target[None].to(model.device), logits))
            if index in kept:
                truth, prediction = draw_classes(target), draw_classes(logits[0])
                keep_example(folder / "examples", index, head, example.image / 255, truth, prediction)
            advance()
        return {"sums": reduce(add, matrices).to_json()}

    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        return reduce(add, (Confusion.from_json(record["sums"]) for record in records)).metrics()

    @torch.no_grad()
    def logits(
        self, model: GridModel, head: str, clip: ClipImages, texts: Float[Tensor, "k t"], image: Tensor
    ) -> Float[Tensor, "1 k h w"]:
        """Return logits averaged over windows of the image, whose short side is resized."""
        no_target = torch.zeros(1, *image.shape[1:])
        resized, _ = ValView(self.rule.short_side, NO_CROP).apply(Example(image, no_target))

        def forward(window: Tensor) -> Tensor:
            features = feature_map(model, head)(to_whole_patches(window, model.patch_size))
            if head != ENCODER:
                rows, columns = (max(1, round(side / self.rule.pixels_per_cell)) for side in window.shape[2:])
                features = F.adaptive_avg_pool2d(features, (rows, columns))
            values = to_size(clip.values(to_whole_patches(window, clip.patch_size)), size_of(features))
            attended = proxy_attention(features[0], values[0], self.rule)
            embedded = F.normalize(clip.embedded(attended[None])[0], dim=1)
            logits = (self.rule.logit_scale * embedded @ texts.T).T.unflatten(1, features.shape[2:])
            return to_size(logits[None], size_of(window))

        return sliding_window(forward, resized[None].to(model.device), self.rule.window, self.rule.stride)


def open_vocabulary_task(data: Path, config: EvalConfig) -> OpenVocabulary:
    """Open an ADE20K folder for `openvocab@proxyclip`: its validation set, classes named by objectInfo150.txt."""
    texts = ClassTexts(ade_names(data / "objectInfo150.txt"), IMAGENET, config.clip or CLIP, config.texts)
    images = segmentation.open_ade(segmentation.ADE_150_LABELS, 150, data, config.limit, train=False)
    images = replace(images, about=images.about | texts.identity())
    return OpenVocabulary("openvocab@proxyclip", images, config, ProxySettings(), texts)


def proxy_attention(
    features: Float[Tensor, "c h w"], values: Float[Tensor, "v h w"], settings: ProxySettings
) -> Float[Tensor, "n v"]:
    """Return values averaged by softmax(γ(S − β·mean S)) over where that is positive; S is the cosine of features."""
    cells = F.normalize(features.flatten(1).T, dim=1)
    flat_values = values.flatten(1).T
    offset = settings.beta * cells.mean(dim=0).square().sum()  # β times the mean over all pairs, without the matrix
    parts = []
    for rows in cells.split(settings.rows_at_once):
        affinity = settings.gamma * (rows @ cells.T - offset)
        weights = torch.softmax(affinity.masked_fill(affinity < 0, -torch.inf), dim=1)
        parts.append(weights @ flat_values)
    return torch.cat(parts)
