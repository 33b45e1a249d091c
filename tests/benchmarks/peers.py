"""Upsamplers of others, from local clones, on top of the same frozen encoder; random weights cost the same.

A folder holds the clones under their names: featup, loftup, anyup, jafar, naf. Nothing of them is part of this project.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lila_cues.networks import FrozenEncoder

NAMES = ("featup", "loftup", "anyup", "jafar", "naf")

Features = Callable[[Tensor], Tensor]


def peer(name: str, clones: Path, encoder: FrozenEncoder) -> Features:
    """Images to features of full resolution by that peer; raises ImportError where something of it is missing."""
    if not (clones / name).is_dir():
        raise ImportError(f"no clone at {clones / name}")
    sys.path.insert(0, str(clones / name))
    upsample = _MAKERS[name](encoder)
    return lambda images: upsample(images, encoder.grid(images))


def _featup(encoder: FrozenEncoder) -> Callable[[Tensor, Tensor], Tensor]:
    """Its compiled extension is replaced by shifted products, one per weight of the kernel."""
    for extension in ("adaptive_conv_cuda_impl", "adaptive_conv_cpp_impl"):
        module: Any = types.ModuleType(extension)
        module.forward = _adaptive_convolution
        sys.modules.setdefault(extension, module)
    network = importlib.import_module("featup.upsamplers").get_upsampler("jbu_stack", encoder.width)
    network = _ready(network, encoder)
    return lambda images, grid: network(grid, images)


def _adaptive_convolution(source: Tensor, kernels: Tensor) -> Tensor:
    height, width, side = kernels.shape[1:4]
    total = source.new_zeros(*source.shape[:2], height, width)
    for y in range(side):
        for x in range(side):
            total.addcmul_(source[..., y : y + height, x : x + width], kernels[:, None, :, :, y, x])
    return total


def _loftup(encoder: FrozenEncoder) -> Callable[[Tensor, Tensor], Tensor]:
    network = importlib.import_module("upsamplers.upsamplers").LoftUp(encoder.width, lr_pe_type="sine")
    network = _ready(network, encoder)
    return lambda images, grid: network(grid, images)


def _anyup(encoder: FrozenEncoder) -> Callable[[Tensor, Tensor], Tensor]:
    """In chunks of queries, as its authors advise for large images."""
    network = _ready(importlib.import_module("anyup.model").AnyUp(), encoder)
    return lambda images, grid: network(images, grid, q_chunk_size=4096)


def _jafar(encoder: FrozenEncoder) -> Callable[[Tensor, Tensor], Tensor]:
    """Its coordinates are made on CUDA unless told otherwise."""
    module: Any = importlib.import_module("src.upsampler.jafar")
    module.create_coordinate = partial(module.create_coordinate, device=_device(encoder))
    network = _ready(module.JAFAR(v_dim=encoder.width), encoder)
    return lambda images, grid: network(images, grid, images.shape[-2:])


def _naf(encoder: FrozenEncoder) -> Callable[[Tensor, Tensor], Tensor]:
    network = _ready(importlib.import_module("src.model.naf").NAF(), encoder)
    return lambda images, grid: network(images, grid, images.shape[-2:])


_MAKERS = {"featup": _featup, "loftup": _loftup, "anyup": _anyup, "jafar": _jafar, "naf": _naf}


def enlarged(encoder: FrozenEncoder) -> Features:
    """The encoder on the input enlarged by its patch size: a token per pixel, without any decoder."""
    factor = encoder.patch_size
    return lambda images: encoder.grid(F.interpolate(images, scale_factor=factor, mode="bilinear"))


def _ready(network: torch.nn.Module, encoder: FrozenEncoder) -> torch.nn.Module:
    return network.to(_device(encoder)).eval()


def _device(encoder: FrozenEncoder) -> torch.device:
    return next(encoder.parameters()).device
