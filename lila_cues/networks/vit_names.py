"""Names of a vision transformer's tensors: from the original DINOv2 and DINOv3 files to timm's.

Own mapping, written from the two sets of names. What is left out is left out by name: the mask token of pretraining,
classifier heads, buffers that are computed anew. Everything else has to match.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lila_cues.networks.weights import strip_prefix
from stores.errors import LilaError

_PREFIXES = ("module.", "backbone.", "pretrained.", "encoder.", "teacher.backbone.")
_NOT_USED = re.compile(
    r"^(head|head_dist|fc_norm_head|dino_head|ibot_head|local_cls_norm|mask_token)\b|^rope|bias_mask$"
)
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")


def to_timm(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors under timm's names, for a transformer whose own names are `wanted`."""
    named = {
        _CHUNKED_BLOCK.sub(r"blocks.\1.", name): value for name, value in strip_prefix(tensors, *_PREFIXES).items()
    }
    masks = {name: value for name, value in named.items() if name.endswith("bias_mask")}
    named = {name: value for name, value in named.items() if not _NOT_USED.search(name)}
    if "register_tokens" in named:
        return _renamed(_split_class_position(named), _DINOV2)
    if "storage_tokens" in named:
        return _renamed(_split_biases(named, masks, wanted), _DINOV3)
    return _renamed(named, _DINOV2)


_DINOV2 = (("register_tokens", "reg_token"), ("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
_DINOV3 = (
    ("storage_tokens", "reg_token"),
    ("ls1.gamma", "gamma_1"),
    ("ls2.gamma", "gamma_2"),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)


def _renamed(tensors: Mapping[str, Tensor], pairs: Collection[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def _split_class_position(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's register variants have no position for the class token: the original's is added to the token itself."""
    split = dict(tensors)
    if {"cls_token", "pos_embed"} <= split.keys():
        split["cls_token"] = split["cls_token"] + split["pos_embed"][:, :1]
        split["pos_embed"] = split["pos_embed"][:, 1:]
    return split


def _split_biases(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], wanted: Collection[str]
) -> dict[str, Tensor]:
    """DINOv3 keeps one bias for queries, keys and values, that of the keys masked away; timm keeps two, or none."""
    split = {name: value for name, value in tensors.items() if not name.endswith("attn.qkv.bias")}
    for name in tensors.keys() - split.keys():
        mask = masks.get(f"{name}_mask", torch.ones(())).nan_to_num(1.0)
        query, _, value = (tensors[name] * mask).nan_to_num(0.0).chunk(3)
        place = name.removesuffix("qkv.bias")
        if f"{place}q_bias" in wanted:
            split |= {f"{place}q_bias": query, f"{place}v_bias": value}
        elif query.any() or value.any():
            raise LilaError(
                f"expected a bias of zeros in {name}, for which the chosen DINOv3 network has no place, found another; "
                "choose the same network with _qkvb at the end of its timm name"
            )
    return split
