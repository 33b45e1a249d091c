"""CLIP by transformers: its text encoder, and the parts of its image encoder that open-vocabulary protocols take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stores.errors import LilaError

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
