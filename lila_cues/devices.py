"""The device that a command runs on."""

from __future__ import annotations

import re

import torch

from stores.errors import LilaError


def choose_device(name: str) -> torch.device:
    """Return the device of a --device option: auto (a GPU where there is one), cpu, cuda or cuda:N.

    Raises LilaError for another name, and for a GPU that PyTorch does not find.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if not re.fullmatch(r"(cpu|cuda)(:\d+)?", name):
        raise LilaError(f"expected --device auto, cpu or cuda, found {name}; pass one of these")
    device = torch.device(name)
    count = torch.cuda.device_count() if available else 0
    if device.type == "cuda" and not count:
        raise LilaError("expected a GPU for --device cuda, found none that PyTorch can use; pass --device cpu")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise LilaError(
            f"expected a GPU among cuda:0 to cuda:{count - 1} for --device {name}, found none of that number; "
            "pass one that is there"
        )
    return device
