"""The frozen encoder: a vision transformer whose features are distilled in stage one and decoded from in stage two.

Learned position embeddings on a grid other than the one they were learned on.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lila_cues.networks.execution import Execution, backend
from lila_cues.networks.weights import WeightSource
from stores.errors import LilaError

DINOV2_OFFSET = 0.1


def resize(
    embedding: Float[Tensor, "1 e h w"], grid: tuple[int, int], offset: float | None = None
) -> Float[Tensor, "1 e H W"]:
    """Resize bicubically to `grid` (y, x), in float32.

    With an offset, as the plain DINOv2 models do: the scale is (n + offset) / n₀ and nothing is smoothed
    (dinov2/models/vision_transformer.py, `interpolate_pos_encoding`). Without, as its register variants do:
    to the size, antialiased. A grid equal to the learned one is left alone by both.
    """
    learned = embedding.shape[-2:]
    if tuple(learned) == tuple(grid):
        return embedding
    values = embedding.float()
    if offset is None:
        resized = F.interpolate(values, size=grid, mode="bicubic", antialias=True)
    else:
        scale = ((grid[0] + offset) / learned[0], (grid[1] + offset) / learned[1])
        resized = F.interpolate(values, scale_factor=scale, mode="bicubic", antialias=False)
    assert tuple(resized.shape[-2:]) == tuple(grid)
    return resized.to(embedding.dtype)


Taps = tuple[int, int, int, int]


class FrozenEncoder(nn.Module):
    """A vision transformer in eval mode for good, without gradients, giving the tokens of four of its blocks.

    Four tapped blocks (counted from 0), each through the final LayerNorm; class and register tokens are dropped.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vit: VisionTransformer | Eva,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        source: WeightSource,
        attention_backend: str = "sdpa",
        position_offset: float | None = None,
        execution: Execution | None = None,
    ) -> None:
        super().__init__()
        self.vit = vit
        self.source = source
        self.name = source.network
        self.width = int(vit.embed_dim)
        self.patch_size = _patch_size(vit)
        self.taps = taps(len(vit.blocks))
        self.attention = attention_backend
        self.execution = execution or Execution()
        self._attention = backend(attention_backend)
        self._position_offset = position_offset
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        tokens = self._learned_positions if isinstance(vit, VisionTransformer) else self._rotary_positions
        self._run = self.execution.prepare(tokens)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Frozen means frozen: stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Tokens of the four tapped blocks for RGB in [0, 1], whose sides are multiples of the patch size."""
        self._check(images)
        pieces = [self._tokens(piece) for (piece,) in self.execution.batches(images)]
        return pieces[0] if len(pieces) == 1 else tuple(torch.cat(taps) for taps in zip(*pieces, strict=True))

    def grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """Tokens of the last block after the final LayerNorm, on the encoder's own grid."""
        return self(images)[-1]

    def _check(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size or not height * width:
            raise LilaError(
                f"expected images with sides that are multiples of {self.patch_size}, the patch size of {self.name}, "
                f"found {height}×{width}; pad or resize them first"
            )

    def _tokens(self, images: Tensor) -> tuple[Tensor, ...]:
        with self._attention(), self.execution.autocast(images.device):
            tokens = self._run((images - self.mean) / self.std)
        return tokens if self.execution.precision == "float32" else tuple(tap.float() for tap in tokens)

    def _rotary_positions(self, normalized: Tensor) -> tuple[Tensor, ...]:
        """The transformer by timm's own pass: DINOv3's positions are computed for any grid, none are resized."""
        blocks = sorted(set(self.taps))
        tokens = self.vit.forward_intermediates(
            normalized, indices=blocks, norm=True, stop_early=True, intermediates_only=True
        )
        assert isinstance(tokens, list)
        return tuple(tokens[blocks.index(tap)] for tap in self.taps)

    def _learned_positions(self, normalized: Tensor) -> tuple[Tensor, ...]:
        """The transformer with its position embedding resized as its authors do, block by block."""
        patches = self.vit.patch_embed(normalized)
        grid = tuple(patches.shape[1:3])
        tokens, prefix = self._with_positions(patches.flatten(1, 2), grid)
        tokens = self.vit.norm_pre(tokens)
        norm = self.vit.norm if not isinstance(self.vit.norm, nn.Identity) else self.vit.fc_norm
        tapped = {}
        for index, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            if index in self.taps:
                tapped[index] = norm(tokens)[:, prefix:].transpose(1, 2).unflatten(2, grid).contiguous()
        return tuple(tapped[index] for index in self.taps)

    def _with_positions(self, patches: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, int]:
        """Tokens with positions, class and register tokens in front; and how many those are."""
        front: list[Tensor] = [token for token in (self.vit.cls_token, self.vit.reg_token) if token is not None]
        prefix = sum(token.shape[1] for token in front)
        expanded = [token.expand(patches.shape[0], -1, -1) for token in front]
        if self.vit.pos_embed is None:
            return torch.cat([*expanded, patches], dim=1), prefix
        own = 0 if self.vit.no_embed_class else prefix
        learned = self.vit.pos_embed[:, own:].transpose(1, 2).unflatten(2, self.vit.patch_embed.grid_size)
        resized = resize(learned, (grid[0], grid[1]), self._position_offset).flatten(2).transpose(1, 2)
        if not own:
            return torch.cat([*expanded, patches + resized], dim=1), prefix
        positions = torch.cat([self.vit.pos_embed[:, :own], resized], dim=1)
        return torch.cat([*expanded, patches], dim=1) + positions, prefix


def _patch_size(vit: VisionTransformer | Eva) -> int:
    """px of the image per cell of the grid, stride of a convolutional stem included."""
    ratio = vit.patch_embed.feat_ratio()
    assert isinstance(ratio, int)
    return ratio


def taps(depth: int) -> Taps:
    """The four tapped blocks of a transformer with `depth` blocks: evenly spread, ending with the last.

    Of 24, as in DINOv2 and DINOv3, the published models tap 4, 11, 17, 23, where an even spread would start at 5.
    """
    if depth == 24:
        return (4, 11, 17, 23)
    first, second, third = (max(0, math.floor(depth * quarter / 4) - 1) for quarter in (1, 2, 3))
    return (first, second, third, depth - 1)
