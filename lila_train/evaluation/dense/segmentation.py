"""Semantic segmentation on COCO-Stuff-27 and ADE20K: folders, labels and protocols (docs/protocols.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from lila_cues.images import read_mask, read_stored
from lila_cues.inputs import list_files, read_text
from lila_train.evaluation.dense.data import (
    NO_CROP,
    DenseData,
    Example,
    Files,
    ScaledCrop,
    TrainView,
    ValView,
    check_files,
    check_size,
    flip_labels,
)
from lila_train.evaluation.dense.metrics import IGNORED, Confusion
from lila_train.evaluation.dense.probes import AttentionProbe, BuildProbe, LinearProbe, NormedLinearProbe
from lila_train.evaluation.dense.task import draw_classes
from lila_train.evaluation.dense.training import DenseProtocol, ProbeRecipe
from lila_train.model.resize import Labels
from stores.errors import LilaError

COCO_LIST = "Coco164kFull_Stuff_Coarse.txt"
COCO_FINE = 182
COCO_COARSE = 27
COCO_FROM_1 = frozenset({11, 25, 28, 44, 65, 67, 70, 82, 90, 182})  # labels of the other numbering alone, 1 to 182
FROM_0 = "from 0, with 255 for void", "add 1 to all maps (0 for 255)"
FROM_1 = "from 1, with 0 for void", "subtract 1 from all maps (255 for 0)"

# The 91 things by their supercategories in the order of their ids: coarse class, how many ids.
_THINGS = ((9, 1), (11, 8), (8, 6), (7, 10), (6, 8), (10, 10), (5, 8), (2, 10), (3, 10), (0, 6), (1, 6), (4, 8))
# The 91 kinds of stuff, ids 91 to 181: coarse classes in hexadecimal.
_STUFF = bytes.fromhex(
    "11 11 16 14 14 16 0f 19 10 0d 0c 0c 11 11 17 0f 0f 11 0f 15 0f 19 0d 0d 0d 0d "
    "0d 16 1a 0e 0e 0f 16 15 15 18 14 16 0f 11 10 0f 16 18 15 11 19 10 15 11 16 10 "
    "15 15 19 15 1a 15 18 14 11 0e 15 1a 0f 17 14 15 18 0f 18 16 19 0f 14 11 11 16 "
    "0e 12 12 12 12 12 12 12 1a 1a 13 13 18 "
)
COARSE_OF_FINE = np.array([coarse for coarse, count in _THINGS for _ in range(count)] + list(_STUFF), np.uint8)


def open_coco(root: Path, limit: int | None, fine: bool = False) -> DenseData:
    """List `curated/{train,val}2017/Coco164kFull_Stuff_Coarse.txt`, `images/…/ID.jpg`, `annotations/…/ID.png`.

    27 coarse classes, or the 182 `fine` labels as they are.
    """
    examples: list[Sequence[Files]] = []
    for split in ("train2017", "val2017"):
        path = root / "curated" / split / COCO_LIST
        if not path.is_file():
            raise LilaError(
                f"expected the curated list {path}, found none; pass the folder that holds curated, images and "
                "annotations"
            )
        ids = [line.strip(" \t,;").removesuffix(".jpg") for line in read_text(path).splitlines() if line.strip()]
        if not ids:
            raise LilaError(f"expected an image id per line in {path}, found none")
        images, labels = root / "images" / split, root / "annotations" / split
        examples.append(check_files([(images / f"{one}.jpg", labels / f"{one}.png") for one in ids[:limit]]))
    rule = LabelRule(np.arange(COCO_FINE, dtype=np.uint8) if fine else COARSE_OF_FINE, "COCO-Stuff", 0, COCO_FROM_1)
    about = {"layout": "COCO-Stuff 164k", "list": COCO_LIST, "classes": COCO_FINE if fine else COCO_COARSE}
    return DenseData(root, examples[0], examples[1], rule.read, about)


def open_ade(rule: LabelRule, classes: int, root: Path, limit: int | None, train: bool = True) -> DenseData:
    """List `images/{training,validation}/NAME.jpg`, `annotations/…/NAME.png` (0 other, 1 to 150).

    Without `train` the validation images alone, for protocols that train nothing.
    """
    splits = {}
    for split in ("training", "validation") if train else ("validation",):
        images = list_files(root / "images" / split, {".jpg"}, natural=False)[:limit]
        if not images:
            raise LilaError(
                f"expected images in {root / 'images' / split}, found none; pass the ADEChallengeData2016 folder"
            )
        splits[split] = check_files([(path, root / "annotations" / split / f"{path.stem}.png") for path in images])
    about = {"layout": f"ADEChallengeData2016{'' if train else ', validation'}", "classes": classes}
    return DenseData(root, splits.get("training", []), splits["validation"], rule.read, about)


@dataclass(frozen=True)
class LabelRule:
    """Maps stored labels of the data set `what` to classes: `table[label]`; 255 is ignored, others are an error.

    Where a data set is about in two numberings, its classes count from `first`, 0 or 1, and `other` are the labels that
    occur only in the other one.
    """

    table: Labels | UInt8[np.ndarray, " n"]
    what: str
    first: int = 0
    other: frozenset[int] = frozenset()

    def read(self, files: Files) -> Example:
        """Read an image and its classes; LilaError for sizes that differ, or a label that the table does not have."""
        image, stored = read_stored(files[0]), read_mask(files[1])
        if other := self.other.intersection(np.unique(stored).tolist()):
            (wanted, _), (found, remedy) = (FROM_1, FROM_0) if self.first else (FROM_0, FROM_1)
            raise LilaError(
                f"expected labels of {self.what} counted {wanted}, found {min(other)} in {files[1]}, which occurs only "
                f"where they count {found}; {remedy}"
            )
        if (beyond := stored[(stored >= len(self.table)) & (stored != IGNORED)]).size:
            raise LilaError(
                f"expected labels of {self.what}, 0 to {len(self.table) - 1} or 255, found {beyond[0]} in {files[1]}"
            )
        check_size(stored, files[1], "labels", image, files[0])
        full = np.full(256, IGNORED, np.uint8)
        full[: len(self.table)] = self.table
        return Example(torch.tensor(image).movedim(-1, 0), torch.from_numpy(full[stored])[None])


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over pixels that are not ignored; 0, with a gradient, where all are ignored."""
    total = F.cross_entropy(logits, target[:, 0].long(), ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp_min(1)


def _protocol(
    name: str, build: BuildProbe, classes: int, recipe: ProbeRecipe, side: int, antialias: bool = True
) -> DenseProtocol:
    return DenseProtocol(
        name=name,
        build=build,
        n_outputs=classes,
        recipe=recipe,
        train_view=TrainView(side, antialias=antialias),
        val_view=ValView(side, side, antialias=antialias),
        loss=cross_entropy,
        flip=flip_labels,
        measure=Confusion.of,
        from_json=Confusion.from_json,
        draw=draw_classes,
    )


def _ade(name: str, classes: int) -> DenseProtocol:
    """DINOv3's linear protocol: a window of 512 slides over the image, whose short side is 512."""
    recipe = ProbeRecipe(1, 16, 1e-3, 1e-3, schedule="cosine", iterations=40_000)
    protocol = _protocol(name, NormedLinearProbe, classes, recipe, 512)
    return replace(protocol, train_view=ScaledCrop(512), val_view=ValView(512, NO_CROP), slide=(512, 341))


_JAFAR_RECIPE = ProbeRecipe(20, 2, 5e-4, 1e-5, schedule="cosine")
COCO_LILA = _protocol(
    "cocostuff27@lila", AttentionProbe, COCO_COARSE, ProbeRecipe(30, 64, 3e-4, 0.01), 224, antialias=False
)
COCO_FEATUP = _protocol("cocostuff27@featup", LinearProbe, COCO_COARSE, ProbeRecipe(200, 64, 5e-3, 0.0, "adam"), 224)
COCO_JAFAR = _protocol("cocostuff27@jafar", LinearProbe, COCO_COARSE, _JAFAR_RECIPE, 448)
ADE_150, ADE_151 = _ade("ade20k150", 150), _ade("ade20k151", 151)
ADE_150_LABELS = LabelRule(np.array([IGNORED, *range(150)], np.uint8), "ADE20K", 1, frozenset({255}))
ADE_151_LABELS = LabelRule(np.arange(151, dtype=np.uint8), "ADE20K", 1, frozenset({255}))
