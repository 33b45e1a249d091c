"""FlowFeat (Araslanov et al., 2025): a DPT decoder that reads the raw outputs of four of the encoder's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from threading import get_ident
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from stores.errors import LilaError

REPOSITORY = "tum-vision/flowfeat"
REVISION = "70c0a969093b80d1014fe299bcaddedc4719ab2f"
MARKER = "hubconf.py"
LICENSE = "apache-2.0"
ENCODER = "dinov2_vits14"
WEIGHTS = "https://cvg.cit.tum.de/webshare/g/papers/flowfeat/dino2_s14_flowfeat_yt.pth"
PREFIXES = {"decoder.": ""}

WIDTH = 128  # inside the decoder, and of its map


def build(encoder: FrozenEncoder) -> nn.Module:
    """Build the decoder; LilaError for encoders with register tokens, which it cannot read."""
    if encoder.vit.num_prefix_tokens != 1:
        raise LilaError(
            f"expected an encoder with a class token and no registers for FlowFeat, found {encoder.name}; choose one "
            "such as dinov2_vits14 with --encoder"
        )
    module = import_module("model")
    return module.DecodeDPT(module.CfgDPT(encoder.patch_size, 4 * [encoder.width], encoder.width), WIDTH, WIDTH)


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """Return the decoder's map at the images' size; its coarsest level halves the grid, so the sides are padded."""
    height, width = images.shape[2:]
    bottom, right = -height % (2 * encoder.patch_size), -width % (2 * encoder.patch_size)
    padded = F.pad(images, (0, right, 0, bottom), mode="replicate")
    with hooked(encoder) as outputs:
        encoder(padded)
    layers = {f"layer_{n}": torch.cat(outputs[block]) for n, block in enumerate(hooked_blocks(encoder), start=1)}
    features = network(SimpleNamespace(**layers), (padded.shape[2], padded.shape[3]))
    return features[..., :height, :width]


def hooked_blocks(encoder: FrozenEncoder) -> tuple[int, int, int, int]:
    """Return the blocks that FlowFeat reads: the last of each quarter."""
    depth = len(encoder.vit.blocks)
    return (depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1, depth - 1)


@contextmanager
def hooked(encoder: FrozenEncoder) -> Iterator[dict[int, list[Tensor]]]:
    """Collect the outputs of the hooked blocks, of this thread only: another one may be using the same encoder."""
    outputs: dict[int, list[Tensor]] = {block: [] for block in hooked_blocks(encoder)}
    thread = get_ident()

    def collect(module: nn.Module, inputs: object, output: Tensor, collected: list[Tensor]) -> None:
        if get_ident() == thread:
            collected.append(output)

    with ExitStack() as stack:
        for block, collected in outputs.items():
            hook = encoder.vit.blocks[block].register_forward_hook(partial(collect, collected=collected))
            stack.callback(hook.remove)
        yield outputs
