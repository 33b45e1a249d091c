"""Open-vocabulary segmentation with the features under test as attention: `openvocab@proxyclip` (docs/protocols.md).

CLIP's last attention map is replaced by the affinity of the features (Lan et al., ProxyCLIP, ECCV 2024); nothing is
trained. As in that paper the last block's residual and feed-forward are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.evaluation.dense.data import WHOLE, DenseData, Example, ValView, val_view
from lila_train.evaluation.dense.metrics import Confusion
from lila_train.evaluation.dense.segmentation import confusion
from lila_train.evaluation.dense.task import CLASSES, Examples, places, sliding_window
from lila_train.evaluation.models import ENCODER, GridModel, feature_map
from lila_train.evaluation.results import files_sha256
from lila_train.evaluation.text.clip import IMAGENET, ClassTexts, ClipImages, ade_names
from lila_train.model.resize import size_of, to_size, to_whole_patches

NAME = "openvocab@proxyclip"
CLIP = "openai/clip-vit-base-patch16"
CLASS_LIST = "objectInfo150.txt"
IMAGES_PER_PART = 100


@dataclass(frozen=True)
class ProxySettings:
    """What shapes the figures; sides in pixels. A pixel map is averaged to cells of `pixels_per_cell`² beforehand."""

    short_side: int = 336
    window: int = 336
    stride: int = 112
    beta: float = 1.2
    gamma: float = 3.0
    logit_scale: float = 40.0
    pixels_per_cell: int = 4
    rows_at_once: int = 1024  # of the affinity; changes memory alone


def proxy_attention(
    features: Float[Tensor, "c h w"], values: Float[Tensor, "v h w"], settings: ProxySettings
) -> Float[Tensor, "n v"]:
    """Values averaged by softmax(γ(S − β·mean S)) over where that is positive; S is the cosine of features."""
    cells = F.normalize(features.flatten(1).T, dim=1)
    each = values.flatten(1).T
    middle = settings.beta * cells.mean(dim=0).square().sum()  # the mean over all pairs, without the matrix
    parts = []
    for rows in cells.split(settings.rows_at_once):
        above = settings.gamma * (rows @ cells.T - middle)
        weights = torch.softmax(above.masked_fill(above < 0, -torch.inf), dim=1)
        parts.append(weights @ each)
    return torch.cat(parts)


@dataclass(frozen=True)
class OpenVocabulary:
    """A harness task: no training, one part per hundred images."""

    data: DenseData
    texts: ClassTexts
    clip: str
    shape: ProxySettings

    protocol = NAME

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that shapes the figures, for the record."""
        return asdict(self.shape) | {"clip": self.clip, "templates": len(self.texts.templates)}

    @property
    def root(self) -> Path:
        """The data folder."""
        return self.data.root

    def parts(self) -> Sequence[str]:
        """Runs of a hundred images, named by the place of their first."""
        return [f"{start:05d}" for start in range(0, len(self.data.val), IMAGES_PER_PART)]

    def steps(self, part: str) -> int:
        """Images in the run."""
        return len(self.data.val[int(part) : int(part) + IMAGES_PER_PART])

    def data_identity(self) -> dict[str, Any]:
        """Layout, texts, and a hash over names and sizes of the validation files."""
        paths = (path for files in self.data.val for path in files)
        return self.data.about | self.texts.identity() | {"files_sha256": files_sha256(paths, self.root)}

    def counts(self) -> dict[str, int]:
        """Images and classes."""
        return {"images": len(self.data.val), "classes": len(self.texts.names)}

    def derived(self, model: GridModel) -> dict[str, Any]:
        """The cells whose affinity is taken, along a window's side, for a grid and for a pixel map."""
        cells = self.shape.window // self.shape.pixels_per_cell
        return {"grid_cells": round(self.shape.window / model.patch_size), "pixel_map_cells": cells}

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> dict[str, Any]:
        """The confusion matrix over a run of images."""
        clip = ClipImages.load(self.clip, model.device)
        texts = self.texts.embeddings.to(model.device)
        found, shown = Confusion.none(len(texts)), places(len(self.data.val))
        examples = Examples(folder / "examples", CLASSES)
        for place, files in enumerate(self.data.val[int(part) : int(part) + IMAGES_PER_PART], start=int(part)):
            example = self.data.read(files)
            logits = self.logits(model, head, clip, texts, example.image)
            at_size = to_size(logits, size_of(example.target))
            found += confusion(example.target[None].to(model.device), at_size, len(texts))
            if place in shown:
                examples.keep(place, head, example.image / 255, example.target, at_size[0])
            advance()
        return {"sums": found.to_json()}

    def figures(self, records: Iterable[dict[str, Any]]) -> dict[str, float | None]:
        """Of all images' matrices together."""
        return sum(
            (Confusion.from_json(record["sums"]) for record in records), Confusion.none(len(self.texts.names))
        ).figures()

    @torch.no_grad()
    def logits(
        self, model: GridModel, head: str, clip: ClipImages, texts: Float[Tensor, "k t"], image: Tensor
    ) -> Float[Tensor, "1 k h w"]:
        """Averaged over windows of the image with its short side resized."""
        nothing = torch.zeros(1, *image.shape[1:])
        resized = val_view(Example(image, nothing), ValView(self.shape.short_side, WHOLE))[0]
        return sliding_window(
            lambda window: self._of_window(model, head, clip, texts, window),
            resized[None].to(model.device),
            self.shape.window,
            self.shape.stride,
        )

    def _of_window(
        self, model: GridModel, head: str, clip: ClipImages, texts: Float[Tensor, "k t"], window: Tensor
    ) -> Float[Tensor, "1 k h w"]:
        features = self._cells(model, head, window)
        values = clip.values(to_whole_patches(window, clip.patch_size))
        values = to_size(values, size_of(features))
        attended = proxy_attention(features[0], values[0], self.shape)
        embedded = F.normalize(clip.embedded(attended[None])[0], dim=1)
        found = (self.shape.logit_scale * embedded @ texts.T).T.unflatten(1, features.shape[2:])
        return to_size(found[None], size_of(window))

    def _cells(self, model: GridModel, head: str, window: Tensor) -> Float[Tensor, "1 c h w"]:
        found = feature_map(model, head)(to_whole_patches(window, model.patch_size))
        if head == ENCODER:
            return found
        rows, columns = (max(1, round(side / self.shape.pixels_per_cell)) for side in window.shape[2:])
        return F.adaptive_avg_pool2d(found, (rows, columns))


def texts_of(root: Path, file: Path | None, clip: str | None) -> ClassTexts:
    """ADE20K's 150 classes, named by objectInfo150.txt in `root`; embedded by `file`, else by CLIP in 80 sentences."""
    return ClassTexts(ade_names(root / CLASS_LIST), IMAGENET, clip or CLIP, file)
