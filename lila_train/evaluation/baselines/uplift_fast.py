"""UPLiFT in its authors' fast mode: folded norms, channels last and, on a GPU, a fused kernel and `torch.compile`."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module

from torch import nn

from lila_train.evaluation.baselines import replaced_modules, uplift

REPOSITORY, REVISION, MARKER, LICENSE = uplift.REPOSITORY, uplift.REVISION, uplift.MARKER, uplift.LICENSE
ENCODER, WEIGHTS = uplift.ENCODER, uplift.WEIGHTS

build, call = uplift.build, uplift.call


def finish(network: nn.Module) -> nn.Module:
    """Return the fast form of the network with its weights; a CPU gets neither the kernel nor the compiler."""
    device = next(network.parameters()).device
    fast = import_module("uplift.fast").make_fast
    with nullcontext() if device.type == "cuda" else replaced_modules("uplift.kernels.triton_attender"):
        return fast(network, compile=device.type == "cuda", device=device)
