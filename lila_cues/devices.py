"""The device that a command runs on."""

from __future__ import annotations

import torch

from stores.errors import LilaError


def choose(name: str) -> torch.device:
    """`auto` is a GPU where there is one; anything else is taken at its word, and refused where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LilaError(f"expected --device auto, cpu or cuda, found {name}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LilaError("--device cuda was asked for, but PyTorch finds no GPU here; pass --device cpu")
    return device
