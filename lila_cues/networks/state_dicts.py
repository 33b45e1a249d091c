"""Tensor names of others: original DINOv2 and DINOv3 files to timm's, original RAFT files to torchvision's.

Both mappings are our own, written from the two sets of names. What is left out is left out by name; everything else
has to match.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lila_cues.networks.weights import strip_prefix
from stores.errors import LilaError

_VIT_PREFIXES = ("module.", "backbone.", "pretrained.", "encoder.", "teacher.backbone.")
_VIT_UNUSED = re.compile(  # classifier and pretraining heads, the mask token, buffers that are computed
    r"^(head|head_dist|fc_norm_head|dino_head|ibot_head|local_cls_norm|mask_token)\b|^rope|bias_mask$"
)
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_DINOV2 = (("register_tokens", "reg_token"), ("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2."))
_DINOV3 = (
    ("storage_tokens", "reg_token"),
    ("ls1.gamma", "gamma_1"),
    ("ls2.gamma", "gamma_2"),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)
_RAFT = (
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


def to_timm(tensors: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """Return a vision transformer's tensors under timm's names; `expected` are the names of the network to load."""
    named = {
        _CHUNKED_BLOCK.sub(r"blocks.\1.", name): value for name, value in strip_prefix(tensors, *_VIT_PREFIXES).items()
    }
    bias_masks = {name: value for name, value in named.items() if name.endswith("bias_mask")}
    named = {name: value for name, value in named.items() if not _VIT_UNUSED.search(name)}
    dinov3 = "storage_tokens" in named
    if dinov3:
        named = _split_biases(named, bias_masks, expected)
    elif "register_tokens" in named and {"cls_token", "pos_embed"} <= named.keys():
        # timm has no position for the class token beside registers: the original's is added to the token itself
        named["cls_token"] = named["cls_token"] + named["pos_embed"][:, :1]
        named["pos_embed"] = named["pos_embed"][:, 1:]
    renamed = {}
    for name, value in named.items():
        for old, new in _DINOV3 if dinov3 else _DINOV2:
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


def _split_biases(
    tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], expected: Collection[str]
) -> dict[str, Tensor]:
    """Split DINOv3's one bias for queries, keys (masked) and values into the two that timm has, or into none."""
    split = {name: value for name, value in tensors.items() if not name.endswith("attn.qkv.bias")}
    for name in tensors.keys() - split.keys():
        mask = masks.get(f"{name}_mask", torch.ones(())).nan_to_num(1.0)
        query, _, value = (tensors[name] * mask).nan_to_num(0.0).chunk(3)
        attention = name.removesuffix("qkv.bias")
        if f"{attention}q_bias" in expected:
            split |= {f"{attention}q_bias": query, f"{attention}v_bias": value}
        elif query.any() or value.any():
            raise LilaError(
                f"expected a bias of zeros in {name}, for which the chosen DINOv3 network has no place, found another; "
                "choose the same network with _qkvb at the end of its timm name"
            )
    return split


def to_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return RAFT's tensors under torchvision's names; tensors that have these already stay as they are.

    The original saves a wrapped model (`module.`), and the norm of a downsampling path under two names: again as norm3
    of a block of two convolutions, or norm4 of one of three. The second name is left out.
    """
    plain = strip_prefix(tensors, "module.")
    if not any(name.startswith("fnet.") for name in plain):
        return plain
    renamed = {}
    for name, value in plain.items():
        block, _, rest = name.partition(".norm")
        last_norm = 4 if f"{block}.conv3.weight" in plain else 3
        if ".layer" in block and rest.startswith(f"{last_norm}."):
            continue
        for pattern, replacement in _RAFT:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
