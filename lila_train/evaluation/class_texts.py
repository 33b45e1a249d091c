"""Names of classes from the lists that data sets ship, and what CLIP's text encoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_cues.networks.weights import file_sha256
from stores.errors import LilaError

COCO_NAMES = 182
ADE_NAMES = 150


@dataclass(frozen=True)
class ClassTexts:
    """Unit embeddings of classes: a .npy file of them in order, or CLIP's of their names in sentences."""

    names: Sequence[str]
    templates: Sequence[str]
    clip: str  # a hub's name, or a folder in the hub's form
    file: Path | None = None
    unused: Sequence[int] = ()  # classes that a file may leave out

    def identity(self) -> dict[str, Any]:
        """What decides the embeddings."""
        if self.file is not None:
            return {"texts_sha256": file_sha256(self.file)}
        return {"clip": self.clip, "templates": len(self.templates)}

    @cached_property
    def embeddings(self) -> Float[Tensor, "k t"]:
        """A row per class; those that a file leaves out are zero."""
        if self.file is not None:
            return self._read(self.file)
        with torch.random.fork_rng(devices=[]):  # building CLIP draws numbers, which others count on
            return self._computed()

    def _read(self, path: Path) -> Float[Tensor, "k t"]:
        try:
            rows = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise LilaError(
                f"expected embeddings as a .npy array in {path}, but it cannot be read ({error})"
            ) from error
        used = [index for index in range(len(self.names)) if index not in self.unused]
        places = {len(self.names): list(range(len(self.names))), len(used): used}
        if rows.ndim != 2 or len(rows) not in places:
            raise LilaError(
                f"expected a row for each of {len(self.names)} classes (or of the {len(used)} that are used), found an "
                f"array of shape {rows.shape} in {path}; give another file with --texts"
            )
        found = torch.zeros(len(self.names), rows.shape[1])
        found[places[len(rows)]] = torch.from_numpy(rows).float()
        return F.normalize(found, dim=1)

    @torch.no_grad()
    def _computed(self) -> Float[Tensor, "k t"]:
        from lila_train.evaluation.clip_networks import text_encoder

        encode = text_encoder(self.clip)
        return torch.stack([averaged(encode([words.format(name) for words in self.templates])) for name in self.names])


def averaged(embeddings: Float[Tensor, "n t"]) -> Float[Tensor, " t"]:
    """Each to unit length, then their mean to unit length."""
    return F.normalize(F.normalize(embeddings, dim=1).mean(dim=0), dim=0)


def coco_names(path: Path) -> list[str]:
    """COCO-Stuff's labels.txt, `1: person` and so on: the names of label values 0 to 181; `0: unlabeled` is none."""
    found = {}
    for number, line in enumerate(_lines(path, "COCO-Stuff's"), start=1):
        index, colon, name = line.partition(":")
        if not colon or not index.strip().isdecimal() or not name.strip():
            raise LilaError(f"expected lines like `1: person` in {path}, found {line!r} in line {number}")
        found[int(index)] = name.strip()
    if missing := sorted(set(range(1, COCO_NAMES + 1)) - set(found)):
        raise LilaError(f"expected the names of classes 1 to {COCO_NAMES} in {path}, found none of {missing[0]}")
    return [found[index].replace("-", " ") for index in range(1, COCO_NAMES + 1)]


def ade_names(path: Path) -> list[str]:
    """ADE20K's objectInfo150.txt: a head, then columns by tabs, the last one synonyms, of which the first is taken."""
    rows = [line.split("\t") for line in _lines(path, "ADE20K's")[1:]]
    for number, row in enumerate(rows, start=1):
        if row[0].strip() != str(number) or not row[-1].strip():
            raise LilaError(f"expected class {number} in line {number + 1} of {path}, found {' '.join(row)[:60]!r}")
    if len(rows) != ADE_NAMES:
        raise LilaError(f"expected {ADE_NAMES} classes in {path}, found {len(rows)}; restore the file")
    return [row[-1].split(",")[0].strip() for row in rows]


def _lines(path: Path, whose: str) -> list[str]:
    if not path.is_file():
        raise LilaError(f"expected {whose} list of classes at {path}, found none; put {path.name} there")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    if not lines:
        raise LilaError(f"expected a class per line in {path}, found none; restore the file")
    return lines
