"""Zero-shot segmentation of COCO-Stuff: `cocostuff-zs@lila` (docs/protocols.md).

A probe maps features to CLIP's text space; 15 of the 182 classes are never named in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense.metrics import IGNORED, Confusion
from lila_train.evaluation.dense.probes import FrozenFeatures
from lila_train.evaluation.dense.segmentation import COCO_FINE, COCO_LILA, open_coco
from lila_train.evaluation.dense.task import DenseTask, dense_task
from lila_train.evaluation.dense.training import ProbeRecipe
from lila_train.evaluation.text.clip import IMAGENET, SCENES, ClassTexts, coco_names
from lila_train.model.resize import Size, to_size
from stores.errors import LilaError

CLIP = "openai/clip-vit-base-patch32"
LABELS = "labels.txt"
UNSEEN = {  # label value: name in COCO-Stuff's list
    **{20: "cow", 24: "giraffe", 32: "suitcase", 33: "frisbee", 40: "skateboard", 56: "carrot", 86: "scissors"},
    **{99: "cardboard", 105: "clouds", 123: "grass", 144: "playingfield", 147: "river", 148: "road", 168: "tree"},
    **{171: "wall concrete"},
}
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)  # in the list, in no image
UNNAMED_LOGIT = -1e4  # of a class without an embedding


def zero_shot_task(data: Path, config: EvalConfig) -> DenseTask:
    """Open a COCO-Stuff folder with its 182 labels for `cocostuff-zs@lila`; `labels.txt` names them.

    LilaError where an unseen class has another name there.
    """
    names = coco_names(data / LABELS)
    for label, name in UNSEEN.items():
        if names[label] != name:
            raise LilaError(
                f"expected {name} as class {label + 1} of {data / LABELS}, found {names[label]}; use its own list"
            )
    texts = ClassTexts(names, (*IMAGENET, *SCENES), config.clip or CLIP, config.texts, UNUSED)
    protocol = replace(ZERO_SHOT, build=partial(TextProbe, texts=texts))
    task = dense_task(protocol, partial(open_coco, fine=True), data, config)
    return replace(task, data=replace(task.data, about=task.data.about | texts.identity()))


class TextProbe(nn.Module):
    """Cosines with the text embedding of each class, of the grid and of the pixel map, each projected on its own.

    Both are upsampled, added, and multiplied by a learned scale.
    """

    texts: Tensor
    unnamed: Tensor

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int, texts: ClassTexts) -> None:
        super().__init__()
        embeddings = texts.embeddings
        self.norm = nn.BatchNorm2d(grid_width)
        self.grid = nn.Conv2d(grid_width, embeddings.shape[1], 1, bias=False)
        self.pixels = None if pixel_width is None else nn.Conv2d(pixel_width, embeddings.shape[1], 1, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(100.0)))
        self.register_buffer("texts", embeddings, persistent=False)
        self.register_buffer("unnamed", ~embeddings.any(dim=1), persistent=False)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        """Return a logit per class; −10⁴ for a class without an embedding."""
        cosines = self._cosines(self.grid(self.norm(features.grid)), features.size)
        if self.pixels is not None and features.pixels is not None:
            cosines = cosines + self._cosines(self.pixels(features.pixels), features.size)
        return (self.log_scale.exp() * cosines).masked_fill(self.unnamed[:, None, None], UNNAMED_LOGIT)

    def _cosines(self, projected: Float[Tensor, "b t h w"], size: Size) -> Float[Tensor, "b k H W"]:
        return to_size(torch.einsum("kt,bthw->bkhw", self.texts, F.normalize(projected, dim=1)), size)


def zero_shot_loss(logits: Float[Tensor, "b k h w"], target: Tensor, unseen: Sequence[int]) -> Float[Tensor, ""]:
    """Return the cross-entropy on seen pixels; where others are, a tenth of it + mean over those of (Σ p_seen)²."""
    hidden = torch.isin(target[:, 0], torch.tensor([*unseen, IGNORED], dtype=target.dtype, device=target.device))
    seen = target[:, 0].long().masked_fill(hidden, IGNORED)
    entropy = F.cross_entropy(logits, seen, ignore_index=IGNORED, reduction="sum") / (~hidden).sum().clamp_min(1)
    if not hidden.any():
        return entropy
    p_unseen = logits.softmax(dim=1)[:, list(unseen)].sum(dim=1)
    return 0.1 * entropy + (1 - p_unseen)[hidden].square().mean()


@dataclass(frozen=True)
class SeenAndUnseen(Confusion):
    """A confusion matrix with mean IoU over classes that were named in training, and over those that were not."""

    unseen: tuple[int, ...] = tuple(UNSEEN)

    def metrics(self) -> dict[str, float | None]:
        """Return means over the classes present, their harmonic mean, and how many classes are absent."""
        iou = self.iou()
        is_unseen = np.isin(np.arange(len(iou)), self.unseen)
        seen, unseen = (
            float(values[~np.isnan(values)].mean()) if np.isfinite(values).any() else None
            for values in (iou[~is_unseen], iou[is_unseen])
        )
        harmonic = None if seen is None or unseen is None else 2 * seen * unseen / max(seen + unseen, 1e-12)
        absent = super().metrics()["absent_classes"]
        return {"miou_seen": seen, "miou_unseen": unseen, "miou_harmonic": harmonic, "absent_classes": absent}


ZERO_SHOT = replace(
    COCO_LILA,
    name="cocostuff-zs@lila",
    build=TextProbe,  # type: ignore[arg-type] # without the texts, which a task adds
    n_outputs=COCO_FINE,
    recipe=ProbeRecipe(epochs=5, batch=32, lr=3e-4, weight_decay=0.01),
    loss=partial(zero_shot_loss, unseen=tuple(UNSEEN)),
    measure=SeenAndUnseen.of,
    from_json=SeenAndUnseen.from_json,
)
