"""CLIP by transformers: embeddings of class names in sentences, and the part of the image encoder that ProxyCLIP uses.

Sentences: 80 of the ImageNet zero-shot classifier (Radford et al., CLIP, 2021), 5 of scenes (Gu et al., ViLD, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from lila_cues.inputs import read_text
from lila_cues.networks.weights import file_sha256
from lila_train.evaluation.models import from_transformers
from stores.errors import LilaError

COCO_CLASSES = 182
ADE_CLASSES = 150
HINT = "a folder of it with --clip (or embeddings of the classes with --texts)"

_BOTH_ARTICLES = (
    *("bad photo", "sculpture", "low resolution photo", "cropped photo", "bright photo", "dark photo", "drawing"),
    *("close-up photo", "black and white photo", "painting", "pixelated photo", "jpeg corrupted photo", "blurry photo"),
    *("good photo", "rendering", "doodle", "sketch", "rendition", "tattoo"),
)
IMAGENET = (
    *(f"a {kind} of {article} {{}}." for kind in _BOTH_ARTICLES for article in ("a", "the")),
    *(
        f"a photo of {article} {adjective} {{}}."
        for adjective in ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")
        for article in ("a", "the")
    ),
    *(
        f"{article} {material} {{}}."
        for material in ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")
        for article in ("a", "the")
    ),
    *(f"{kind} of {article} {{}}." for kind in ("graffiti", "art", "itap") for article in ("a", "the")),
    *("a photo of the {}.", "a photo of a {}.", "a photo of many {}.", "a photo of one {}.", "a photo of my {}."),
    *("itap of my {}.", "a {} in a video game.", "the {} in a video game."),
)
_SCENES = ("there is a {}", "there is the {}", "this is a {}", "this is the {}", "this is one {}")
SCENES = tuple(f"{start} in the scene." for start in _SCENES)


@dataclass(frozen=True)
class ClassTexts:
    """Unit embeddings of classes: from a .npy file in order (LilaError if missing), or CLIP's of names in sentences."""

    names: Sequence[str]
    templates: Sequence[str]
    clip: str  # hub name, or a folder in the hub's form
    file: Path | None = None
    unused: Sequence[int] = ()  # classes that a file may leave out

    def __post_init__(self) -> None:
        if self.file is not None and not self.file.is_file():
            raise LilaError(f"expected embeddings of the classes at {self.file}, found none; pass a .npy with --texts")

    def identity(self) -> dict[str, Any]:
        if self.file is not None:
            return {"texts_sha256": file_sha256(self.file)}
        return {"clip": self.clip, "templates": len(self.templates)}

    @cached_property
    def embeddings(self) -> Float[Tensor, "k t"]:
        """A row per class; those that a file leaves out are zero."""
        if self.file is None:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):  # building CLIP draws random numbers
                encode = text_encoder(self.clip)
                sentences = ([template.format(name) for template in self.templates] for name in self.names)
                means = (F.normalize(encode(group), dim=1).mean(dim=0) for group in sentences)
                return torch.stack([F.normalize(mean, dim=0) for mean in means])
        try:
            rows = np.load(self.file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise LilaError(
                f"expected embeddings as a .npy array in {self.file}, but it cannot be read ({error})"
            ) from error
        used = [index for index in range(len(self.names)) if index not in self.unused]
        classes_by_length = {len(self.names): list(range(len(self.names))), len(used): used}
        if rows.ndim != 2 or len(rows) not in classes_by_length:
            raise LilaError(
                f"expected a row for each of {len(self.names)} classes (or of the {len(used)} that are used), found an "
                f"array of shape {rows.shape} in {self.file}; give another file with --texts"
            )
        embeddings = torch.zeros(len(self.names), rows.shape[1])
        embeddings[classes_by_length[len(rows)]] = torch.from_numpy(rows).float()
        return F.normalize(embeddings, dim=1)


def text_encoder(place: str) -> Callable[[Sequence[str]], Float[Tensor, "n t"]]:
    """Load CLIP's text encoder; it maps sentences to embeddings that are not normalized."""
    network = from_transformers("CLIPTextModelWithProjection", place, "CLIP", HINT, use_safetensors=True)
    tokenizer = from_transformers("AutoTokenizer", place, "CLIP", HINT)

    def encode(sentences: Sequence[str]) -> Float[Tensor, "n t"]:
        tokens = tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        embeddings: Tensor = network(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
        return embeddings

    return encode


@dataclass(frozen=True)
class ClipImages:
    """CLIP's image encoder, stopped before its last attention."""

    network: Any

    @classmethod
    def load(cls, place: str) -> ClipImages:
        """Load it by a hub name or from a folder in the hub's form, on the CPU."""
        network = from_transformers("CLIPVisionModelWithProjection", place, "CLIP", HINT, use_safetensors=True)
        return cls(network.requires_grad_(False))

    @property
    def patch_size(self) -> int:
        return int(self.network.config.patch_size)

    @torch.no_grad()
    def values(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b v h w"]:
        """Return the values that the last attention would average, for RGB in [0, 1] whose sides are whole patches."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        model = self.network.vision_model
        normed = normalize(images, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        states = model(normed, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last = model.encoder.layers[-1]
        return last.self_attn.v_proj(last.layer_norm1(states[-2]))[:, 1:].mT.unflatten(2, grid)

    @torch.no_grad()
    def embedded(self, attended: Float[Tensor, "b n v"]) -> Float[Tensor, "b n t"]:
        """Project an attention's output to the space of texts; no residual, no feed-forward layer."""
        model = self.network.vision_model
        projected = model.post_layernorm(model.encoder.layers[-1].self_attn.out_proj(attended))
        embeddings: Tensor = self.network.visual_projection(projected)
        return embeddings


def coco_names(path: Path) -> list[str]:
    """Read COCO-Stuff's labels.txt (`1: person`, …): the names of label values 0 to 181; `0: unlabeled` is skipped."""
    names = {}
    for number, line in enumerate(_lines(path, "COCO-Stuff's"), start=1):
        index, colon, name = line.partition(":")
        if not colon or not index.strip().isdecimal() or not name.strip():
            raise LilaError(f"expected lines like `1: person` in {path}, found {line!r} in line {number}")
        names[int(index)] = name.strip()
    if missing := sorted(set(range(1, COCO_CLASSES + 1)) - set(names)):
        raise LilaError(f"expected the names of classes 1 to {COCO_CLASSES} in {path}, found none of {missing[0]}")
    return [names[index].replace("-", " ") for index in range(1, COCO_CLASSES + 1)]


def ade_names(path: Path) -> list[str]:
    """Read ADE20K's objectInfo150.txt: a header, then columns by tabs; the first synonym of the last column."""
    rows = [line.split("\t") for line in _lines(path, "ADE20K's")[1:]]
    for number, row in enumerate(rows, start=1):
        if row[0].strip() != str(number) or not row[-1].strip():
            raise LilaError(f"expected class {number} in line {number + 1} of {path}, found {' '.join(row)[:60]!r}")
    if len(rows) != ADE_CLASSES:
        raise LilaError(f"expected {ADE_CLASSES} classes in {path}, found {len(rows)}; restore the file")
    return [row[-1].split(",")[0].strip() for row in rows]


def _lines(path: Path, whose: str) -> list[str]:
    if not path.is_file():
        raise LilaError(f"expected {whose} list of classes at {path}, found none; put {path.name} there")
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise LilaError(f"expected a class per line in {path}, found none; restore the file")
    return lines
