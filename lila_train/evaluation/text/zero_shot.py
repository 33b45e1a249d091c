"""Zero-shot segmentation of COCO-Stuff: `cocostuff-zs@lila` (docs/protocols.md).

A probe maps features to CLIP's text space; 15 of the 182 classes are never named in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.evaluation.dense.data import DenseData, TrainView, ValView, same_pixels_mirrored
from lila_train.evaluation.dense.metrics import IGNORED, Confusion
from lila_train.evaluation.dense.probes import FrozenFeatures
from lila_train.evaluation.dense.segmentation import COCO_FINE, LabelRule, confusion, open_coco_with
from lila_train.evaluation.dense.task import CLASSES, DenseProtocol
from lila_train.evaluation.dense.training import ProbeRecipe
from lila_train.evaluation.text.clip import IMAGENET, SCENES, ClassTexts, coco_names
from lila_train.model.resize import size_of, to_size
from stores.errors import LilaError

CLIP = "openai/clip-vit-base-patch32"
LABELS = "labels.txt"
UNSEEN = {  # label value: name in COCO-Stuff's list
    20: "cow",
    24: "giraffe",
    32: "suitcase",
    33: "frisbee",
    40: "skateboard",
    56: "carrot",
    86: "scissors",
    99: "cardboard",
    105: "clouds",
    123: "grass",
    144: "playingfield",
    147: "river",
    148: "road",
    168: "tree",
    171: "wall concrete",
}
UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)  # in the list, in no image
NEVER = -1e4  # the logit of a class without an embedding
SEEN_SHARE = 0.1  # of cross-entropy, where the batch has ignored pixels


class TextProbe(nn.Module):
    """Features to the space of text embeddings, cosine with each class's; the scale of the logits is learned."""

    texts: Tensor
    nameless: Tensor

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int, texts: ClassTexts) -> None:
        super().__init__()
        embeddings = texts.embeddings
        self.norm = nn.BatchNorm2d(grid_width)
        self.grid = nn.Conv2d(grid_width, embeddings.shape[1], 1, bias=False)
        self.pixels = None if pixel_width is None else nn.Conv2d(pixel_width, embeddings.shape[1], 1, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(100.0)))
        self.register_buffer("texts", embeddings, persistent=False)
        self.register_buffer("nameless", ~embeddings.any(dim=1), persistent=False)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        """A logit per class, at the size of the images; −10⁴ for a class without an embedding."""
        found = self.grid(self.norm(features.grid))
        if self.pixels is not None and features.pixels is not None:
            fine = self.pixels(features.pixels)
            found = fine + to_size(found, size_of(fine))
        cosine = torch.einsum("kt,bthw->bkhw", self.texts, F.normalize(found, dim=1))
        logits = to_size(self.log_scale.exp() * cosine, features.size)
        return logits.masked_fill(self.nameless[:, None, None], NEVER)


def zero_shot_loss(logits: Float[Tensor, "b k h w"], target: Tensor, unseen: Sequence[int]) -> Float[Tensor, ""]:
    """Cross-entropy on seen pixels; where some are not, a tenth of it + mean over those of (Σ p_seen)²."""
    hidden = torch.isin(target[:, 0], torch.tensor([*unseen, IGNORED], dtype=target.dtype, device=target.device))
    known = target[:, 0].long().masked_fill(hidden, IGNORED)
    entropy = F.cross_entropy(logits, known, ignore_index=IGNORED, reduction="sum") / (~hidden).sum().clamp_min(1)
    if not hidden.any():
        return entropy
    of_unseen = logits.softmax(dim=1)[:, list(unseen)].sum(dim=1)
    return SEEN_SHARE * entropy + (1 - of_unseen)[hidden].square().mean()


@dataclass(frozen=True)
class SeenAndUnseen:
    """One confusion matrix, its mean IoU taken over classes that were named in training and those that were not."""

    confusion: Confusion
    unseen: tuple[int, ...]

    def __add__(self, other: SeenAndUnseen) -> SeenAndUnseen:
        return SeenAndUnseen(self.confusion + other.confusion, self.unseen)

    def figures(self) -> dict[str, float | None]:
        """Means over the classes present, their harmonic mean, and how many classes are not."""
        iou = self.confusion.iou()
        of_unseen = np.isin(np.arange(len(iou)), self.unseen)
        seen, unseen = (_mean(iou[rows]) for rows in (~of_unseen, of_unseen))
        both = None if seen is None or unseen is None else 2 * seen * unseen / max(seen + unseen, 1e-12)
        absent = self.confusion.figures()["absent_classes"]
        return {"miou_seen": seen, "miou_unseen": unseen, "miou_harmonic": both, "absent_classes": absent}

    def to_json(self) -> dict[str, Any]:
        """The confusion matrix, and which classes are unseen."""
        return self.confusion.to_json() | {"unseen": list(self.unseen)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> SeenAndUnseen:
        """The inverse of `to_json`."""
        return cls(Confusion.from_json(content), tuple(content["unseen"]))


def open_zero_shot(texts: ClassTexts, root: Path, limit: int | None) -> DenseData:
    """COCO-Stuff with its 182 labels as they are."""
    rule = LabelRule(np.arange(COCO_FINE, dtype=np.uint8), "COCO-Stuff")
    found = open_coco_with(rule, COCO_FINE, root, limit)
    return replace(found, about=found.about | texts.identity())


def texts_of(root: Path, file: Path | None, clip: str | None) -> ClassTexts:
    """The classes' embeddings; the list of names is checked for the unseen ones."""
    names = coco_names(root / LABELS)
    for label, name in UNSEEN.items():
        if names[label] != name:
            raise LilaError(
                f"expected {name} as class {label + 1} of {root / LABELS}, found {names[label]}; use its own list"
            )
    return ClassTexts(names, (*IMAGENET, *SCENES), clip or CLIP, file, UNUSED)


def protocol(texts: ClassTexts) -> DenseProtocol:
    """`cocostuff-zs@lila` with these embeddings."""
    unseen = tuple(UNSEEN)
    return DenseProtocol(
        name="cocostuff-zs@lila",
        build=partial(TextProbe, texts=texts),
        n_outputs=COCO_FINE,
        recipe=ProbeRecipe(epochs=5, batch=32, lr=3e-4, weight_decay=0.01),
        train_view=TrainView(224),
        val_view=ValView(224, 224),
        loss=partial(zero_shot_loss, unseen=unseen),
        mirror=same_pixels_mirrored,
        measure=lambda target, logits: SeenAndUnseen(confusion(target, logits, COCO_FINE), unseen),
        from_json=SeenAndUnseen.from_json,
        drawn=CLASSES,
    )


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
