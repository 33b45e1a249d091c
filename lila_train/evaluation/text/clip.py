"""Names of classes from the lists that data sets ship, and what CLIP's text encoder makes of them.

CLIP by transformers: its text encoder, and the parts of its image encoder that open-vocabulary protocols take.

The sentences that classes are put into, for CLIP: 80 of the ImageNet zero-shot classifier and 5 of scenes.

Sources: Radford et al., CLIP (2021), the prompts released with it; Gu et al., ViLD (2022) for those of scenes. Their
embeddings are averaged, so their order means nothing.
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
from torch import Tensor, nn

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


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def text_encoder(place: str) -> Callable[[Sequence[str]], Float[Tensor, "n t"]]:
    """Embeddings of sentences, not of unit length."""
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    network = _loaded(CLIPTextModelWithProjection, place)
    tokenizer = _loaded(AutoTokenizer, place, safetensors=False)

    def encode(sentences: Sequence[str]) -> Float[Tensor, "n t"]:
        tokens = tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        found: Tensor = network(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
        return found

    return encode


@dataclass(frozen=True)
class ClipImages:
    """CLIP's image encoder, stopped before its last attention."""

    network: Any

    @classmethod
    def load(cls, place: str, device: torch.device) -> ClipImages:
        """By a hub's name or from a folder in the hub's form."""
        from transformers import CLIPVisionModelWithProjection

        network = _loaded(CLIPVisionModelWithProjection, place)
        return cls(network.requires_grad_(False).eval().to(device))

    @property
    def patch_size(self) -> int:
        """In pixels."""
        return int(self.network.config.patch_size)

    @torch.no_grad()
    def values(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b v h w"]:
        """The values that the last attention would average, for RGB in [0, 1] with sides that are whole patches."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        mean, std = (images.new_tensor(found).view(1, 3, 1, 1) for found in (MEAN, STD))
        model = self.network.vision_model
        states = model((images - mean) / std, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last = self._last
        return last.self_attn.v_proj(last.layer_norm1(states[-2]))[:, 1:].mT.unflatten(2, grid)

    @torch.no_grad()
    def embedded(self, attended: Float[Tensor, "b n v"]) -> Float[Tensor, "b n t"]:
        """What the attention gave, through the last layers to where texts lie; no residual, no feed-forward."""
        found: Tensor = self.network.visual_projection(
            self.network.vision_model.post_layernorm(self._last.self_attn.out_proj(attended))
        )
        return found

    @property
    def _last(self) -> Any:
        return self.network.vision_model.encoder.layers[-1]


def _loaded(kind: Any, place: str, safetensors: bool = True) -> Any:
    try:
        found = kind.from_pretrained(place, use_safetensors=True) if safetensors else kind.from_pretrained(place)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise LilaError(
            f"expected CLIP at {place}, but it cannot be had ({reason}); go online once, or pass a folder of it with "
            "--clip (or embeddings of the classes with --texts)"
        ) from error
    return found.eval() if isinstance(found, nn.Module) else found


_BOTH = (  # with "a" and with "the"
    "bad photo of {}",
    "sculpture of {}",
    "low resolution photo of {}",
    "cropped photo of {}",
    "bright photo of {}",
    "dark photo of {}",
    "drawing of {}",
    "close-up photo of {}",
    "black and white photo of {}",
    "painting of {}",
    "pixelated photo of {}",
    "jpeg corrupted photo of {}",
    "blurry photo of {}",
    "good photo of {}",
    "rendering of {}",
    "doodle of {}",
    "sketch of {}",
    "rendition of {}",
    "tattoo of {}",
)
_PHOTOS = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")  # a photo of a clean …
_MADE = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")  # the plastic …, a plastic …
_ART = ("graffiti of", "art of", "itap of")
_OTHER = (
    "a photo of the {}.",
    "a photo of a {}.",
    "a photo of many {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "itap of my {}.",
    "a {} in a video game.",
    "the {} in a video game.",
)
SCENES = tuple(
    f"{words} in the scene."
    for words in ("there is a {}", "there is the {}", "this is a {}", "this is the {}", "this is one {}")
)


def _imagenet() -> tuple[str, ...]:
    found = [f"a {words.format(f'{article} {{}}')}." for words in _BOTH for article in ("a", "the")]
    found += [f"a photo of {article} {word} {{}}." for word in _PHOTOS for article in ("a", "the")]
    found += [f"{article} {word} {{}}." for word in _MADE for article in ("a", "the")]
    found += [f"{word} {article} {{}}." for word in _ART for article in ("a", "the")]
    return (*found, *_OTHER)


IMAGENET = _imagenet()
