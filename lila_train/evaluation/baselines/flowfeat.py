"""FlowFeat's decoder, which reads the raw outputs of four of the encoder's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import get_ident
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines.upsamplers import imported
from stores.errors import LilaError

WIDTH = 128  # inside the decoder, and of its map


def build(root: Path, encoder: FrozenEncoder) -> nn.Module:
    """The decoder of a clone for this encoder, without class and register tokens but one."""
    if encoder.vit.num_prefix_tokens != 1:
        raise LilaError(
            f"expected an encoder with a class token and no registers for FlowFeat, found {encoder.name}; choose one "
            "such as dinov2_vits14 with --encoder"
        )
    with imported(root, "model") as module:
        settings = module.CfgDPT(encoder.patch_size, 4 * [encoder.width], encoder.width)
        return module.DecodeDPT(settings, WIDTH, WIDTH)


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """The decoder's map at the image's size; its coarsest level halves the grid, whose sides are padded to be even."""
    height, width = images.shape[2:]
    beyond = (-height % (2 * encoder.patch_size), -width % (2 * encoder.patch_size))
    padded = F.pad(images, (0, beyond[1], 0, beyond[0]), mode="replicate")
    with _heard(encoder) as outputs:
        encoder(padded)
    layers = {f"layer_{n}": torch.cat(outputs[block]) for n, block in enumerate(hooks(encoder), start=1)}
    found = network(SimpleNamespace(**layers), (padded.shape[2], padded.shape[3]))
    return found[..., :height, :width]


def hooks(encoder: FrozenEncoder) -> tuple[int, int, int, int]:
    """The blocks that FlowFeat listens to: the last of each quarter."""
    depth = len(encoder.vit.blocks)
    return (depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1, depth - 1)


@contextmanager
def _heard(encoder: FrozenEncoder) -> Iterator[dict[int, list[Tensor]]]:
    """What the blocks give in this thread; another one may be using the same encoder."""
    outputs: dict[int, list[Tensor]] = {block: [] for block in hooks(encoder)}
    own = get_ident()

    def listen(module: nn.Module, inputs: object, output: Tensor, heard: list[Tensor]) -> None:
        if get_ident() == own:
            heard.append(output)

    with ExitStack() as stack:
        for block, heard in outputs.items():
            stack.callback(encoder.vit.blocks[block].register_forward_hook(partial(listen, heard=heard)).remove)
        yield outputs
