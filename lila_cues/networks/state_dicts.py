"""Names of RAFT's tensors: from the original repository's files to torchvision's.

Own mapping, written from the two sets of names. The original saves a wrapped model (`module.`) and keeps the norm of
a downsampling path under two names, of which one is left out.

Names of a vision transformer's tensors: from the original DINOv2 and DINOv3 files to timm's.

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

_RULES = (
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(\w+_encoder)\.norm1\.", r"\1.convnormrelu.1."),
    (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
    (r"\.(layer\d\.\d)\.conv(\d)\.", r".\1.convnormrelu\2.0."),
    (r"\.(layer\d\.\d)\.norm(\d)\.", r".\1.convnormrelu\2.1."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.gru\.conv([zrq])\.", r"update_block.recurrent_block.convgru1.conv\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)


def to_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under torchvision's names; those that have them already stay as they are."""
    plain = strip_prefix(tensors, "module.")
    if not any(name.startswith("fnet.") for name in plain):
        return plain
    return {_rename_raft(name): value for name, value in plain.items() if not _is_second_name(name, plain)}


def _rename_raft(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _is_second_name(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """norm3 of a block of two convolutions, norm4 of one of three, is the norm of its downsampling path again."""
    block, _, rest = name.partition(".norm")
    last = 4 if f"{block}.conv3.weight" in tensors else 3
    return rest.startswith(f"{last}.") and ".layer" in block


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
        return _rename_vit(_split_class_position(named), _DINOV2)
    if "storage_tokens" in named:
        return _rename_vit(_split_biases(named, masks, wanted), _DINOV3)
    return _rename_vit(named, _DINOV2)


_DINOV2 = (("register_tokens", "reg_token"), ("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
_DINOV3 = (
    ("storage_tokens", "reg_token"),
    ("ls1.gamma", "gamma_1"),
    ("ls2.gamma", "gamma_2"),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)


def _rename_vit(tensors: Mapping[str, Tensor], pairs: Collection[tuple[str, str]]) -> dict[str, Tensor]:
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
