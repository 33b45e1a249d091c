"""Names of RAFT's tensors: from the original repository's files to torchvision's.

Own mapping, written from the two sets of names. The original saves a wrapped model (`module.`) and keeps the norm of
a downsampling path under two names, of which one is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from lila_cues.networks.weights import strip_prefix

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
    return {_renamed(name): value for name, value in plain.items() if not _is_second_name(name, plain)}


def _renamed(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _is_second_name(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """norm3 of a block of two convolutions, norm4 of one of three, is the norm of its downsampling path again."""
    block, _, rest = name.partition(".norm")
    last = 4 if f"{block}.conv3.weight" in tensors else 3
    return rest.startswith(f"{last}.") and ".layer" in block
