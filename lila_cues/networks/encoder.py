"""The frozen encoder, a vision transformer whose features stage one stores and stage two decodes, by name.

Its weights come from the hub, a local file, the package or a checkpoint, or are random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lila_cues.networks import registry, state_dicts, tiny
from lila_cues.networks.frozen import Execution, FrozenNetwork
from lila_cues.networks.registry import ENCODER, Entry
from lila_cues.networks.weights import WeightSource, load_network, load_strictly
from stores.errors import LilaError

OPTION = "--encoder-weights"
DINOV2_OFFSET = 0.1  # dinov2/models/vision_transformer.py, `interpolate_pos_encoding`
MARGIN = 2  # cells beyond the border that the bicubic kernel reaches


def load_encoder(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    execution: Execution | None = None,
    sha256: str | None = None,
) -> FrozenEncoder:
    """Load a frozen encoder.

    Args:
        name: "tiny", a short name such as dinov2_vits14, or any plain ViT of timm; "@REVISION" may follow for the hub.
        weights: a local file in timm's or the original naming, "random:SEED" for untrained ones, or None for the hub.
        execution: how it is run; float32 and eager if None.
        sha256: the recorded hash that the weights must have.

    Raises LilaError for an unknown name, or weights that are missing, unreadable, of another network or another hash.
    """
    name, _, revision = name.partition("@")
    entry = _entry(name)
    vit, source = load_network(
        lambda: _build(entry), entry, weights, OPTION, revision or None, sha256,
        rename=lambda tensors, vit: state_dicts.to_timm(tensors, vit.state_dict().keys()),
    )  # fmt: skip
    return FrozenEncoder(entry, vit, source, execution).to(device)


def encoder_sizes(name: str) -> tuple[int, int]:
    """Return the patch size in px and the number of channels of an encoder, without its weights."""
    with torch.device("meta"):
        vit: Any = _build(_entry(name.partition("@")[0]))
    return int(vit.patch_embed.feat_ratio()), int(vit.embed_dim)


def restore_encoder(
    source: WeightSource, weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> FrozenEncoder:
    """Load the encoder that a checkpoint or a store has recorded, from `weights` where its file has moved.

    The hub is asked for the recorded commit. Raises LilaError where the hash differs from the recorded one.
    """
    if weights is None and source.origin in ("file", "random"):
        weights = source.location
    name = f"{source.network}@{source.revision}" if source.revision else source.network
    return load_encoder(name, weights, device, sha256=source.sha256)


def encoder_from_tensors(name: str, tensors: Mapping[str, Tensor], source: WeightSource) -> FrozenEncoder:
    """Return a frozen encoder with the given tensors, in timm's or the original naming, such as a checkpoint's."""
    entry = _entry(name)
    vit = _build(entry)
    load_strictly(vit, state_dicts.to_timm(tensors, vit.state_dict().keys()), source.location, OPTION)
    return FrozenEncoder(entry, vit, source)


def _entry(name: str) -> Entry:
    """Return the registry's row, or one made of what timm knows of the name."""
    known = registry.entry(ENCODER, name)
    if known is not None:
        return known
    if not timm.is_model(name.partition(".")[0]):
        raise LilaError(
            f"expected an encoder named {', '.join(registry.names(ENCODER)[:4])}, … or a vision transformer of timm, "
            f"found {name}; `lila-cues models` lists them"
        )
    settings: Any = timm.get_pretrained_cfg(name)
    licence = settings.license or registry.NOT_STATED
    return Entry(ENCODER, name, settings.hf_hub_id or "", licence, 0, name, one_licence="dinov" in name)


def _build(entry: Entry) -> VisionTransformer | Eva:
    """Return the network without its head and its weights, for images of any size."""
    if entry.is_packaged:
        return tiny.encoder()
    try:
        vit = timm.create_model(entry.architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:  # a network without that argument
        vit = timm.create_model(entry.architecture, pretrained=False, num_classes=0)
    if not isinstance(vit, VisionTransformer | Eva) or hasattr(vit, "dist_token"):
        raise LilaError(
            f"expected a plain vision transformer, found {entry.name}, a {type(vit).__name__}; choose a ViT"
        )
    return vit


class FrozenEncoder(FrozenNetwork):
    """A frozen ViT that returns the patch tokens of four of its blocks, each through the final LayerNorm."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, entry: Entry, vit: VisionTransformer | Eva, source: WeightSource, execution: Execution | None = None
    ) -> None:
        super().__init__(source, execution)
        settings: Any = None if entry.is_packaged else timm.get_pretrained_cfg(entry.architecture)
        mean, std = (settings.mean, settings.std) if settings else (tiny.MEAN, tiny.STD)
        plain_dinov2 = "dinov2" in entry.architecture and vit.reg_token is None
        self._position_offset = DINOV2_OFFSET if plain_dinov2 else 0.0  # of `interpolate_positions`
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.vit = vit
        self.width = int(vit.embed_dim)
        patch_size = vit.patch_embed.feat_ratio()  # px per token, stride of a convolutional stem included
        assert isinstance(patch_size, int)
        self.patch_size = patch_size
        self.taps = taps(len(vit.blocks))
        self._run = self.execution.prepare(
            self._run_learned_positions if isinstance(vit, VisionTransformer) else self._run_rotary_positions
        )
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return the tokens of the four tapped blocks for RGB in [0, 1], sides multiples of the patch size.

        No parameter requires a gradient, so that no graph is built unless the images or, after `requires_grad_(True)`,
        the parameters ask for one.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size or not height * width:
            raise LilaError(
                f"expected images with sides that are multiples of {self.patch_size}, the patch size of {self.name}, "
                f"found {height}×{width}; pad or resize them first"
            )
        return self.tokens(images)

    def grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """Return the tokens of the last block alone."""
        return self(images)[-1]

    def tokens(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """As `forward`, without its check, so that one traced graph serves images of any size."""
        with self.execution.attend(), self.execution.autocast(images.device):
            tokens = self._run((images - self.mean) / self.std)
        return tokens if self.execution.precision == "float32" else tuple(tap.float() for tap in tokens)

    def _run_rotary_positions(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the transformer by timm's own pass: rotary positions are computed for any grid."""
        blocks = sorted(set(self.taps))
        tokens = self.vit.forward_intermediates(
            images, indices=blocks, norm=True, stop_early=True, intermediates_only=True
        )
        assert isinstance(tokens, list)
        return tuple(tokens[blocks.index(tap)] for tap in self.taps)

    def _run_learned_positions(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the transformer block by block, its position embedding resized as its authors do."""
        vit = self.vit
        patches = vit.patch_embed(images)
        grid = tuple(patches.shape[1:3])
        patches = patches.flatten(1, 2)
        # patches.shape[0], not len(patches), which makes a constant of the batch size where the graph is traced
        front = [
            token.expand(patches.shape[0], -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None
        ]
        prefix = sum(token.shape[1] for token in front)
        if vit.pos_embed is None:
            tokens = torch.cat([*front, patches], dim=1)
        else:
            own = 0 if vit.no_embed_class else prefix  # positions of class and register tokens
            learned = vit.pos_embed[:, own:].transpose(1, 2).unflatten(2, vit.patch_embed.grid_size)
            positions = interpolate_positions(learned, grid, self._position_offset).flatten(2).transpose(1, 2)
            if own:
                tokens = torch.cat([*front, patches], dim=1) + torch.cat([vit.pos_embed[:, :own], positions], dim=1)
            else:
                tokens = torch.cat([*front, patches + positions], dim=1)
        tokens = vit.norm_pre(tokens)
        norm = vit.norm if not isinstance(vit.norm, nn.Identity) else vit.fc_norm
        tapped = {}
        for index, block in enumerate(vit.blocks):
            tokens = block(tokens)
            if index in self.taps:
                tapped[index] = norm(tokens)[:, prefix:].transpose(1, 2).unflatten(2, grid).contiguous()
        return tuple(tapped[index] for index in self.taps)


def taps(depth: int) -> tuple[int, int, int, int]:
    """Return the four tapped blocks (from 0) of a transformer with `depth` blocks: evenly spread, the last included.

    Of 24, as in DINOv2 and DINOv3, the published models tap 4, 11, 17, 23, where an even spread would start at 5.
    """
    if depth == 24:
        return (4, 11, 17, 23)
    first, second, third = (max(0, math.floor(depth * quarter / 4) - 1) for quarter in (1, 2, 3))
    return (first, second, third, depth - 1)


def interpolate_positions(
    positions: Float[Tensor, "1 e h w"], grid: tuple[int, int], offset: float = 0.0
) -> Float[Tensor, "1 e H W"]:
    """Resize a position embedding bicubically to `grid` (y, x): rows × embedding × columns.

    With an offset, as the plain DINOv2 models: the scale is (n + offset) / n₀, without antialiasing. With 0, as the
    register variants: to the size, antialiased. The learned grid itself comes back unchanged. Equals `F.interpolate`
    to 1e-5, and can be traced with symbolic sizes, which a scale factor cannot.
    """
    learned, original = positions.shape[-2:], positions
    positions = positions.cpu() if positions.device.type == "mps" else positions  # Apple's GPUs have no float64
    lengths = [torch.full((), length, dtype=torch.float64, device=positions.device) for length in grid]
    resized = (lengths[0] != learned[0]) | (lengths[1] != learned[1])
    rows, columns = (
        _bicubic_matrix(new, old, old / (length + offset * resized), antialias=not offset)
        for new, old, length in zip(grid, learned, lengths, strict=True)
    )
    values = positions.double()  # out of reach of autocast and TF32
    if offset:
        values = F.pad(values, (MARGIN,) * 4, mode="replicate")
    return (rows @ values @ columns.mT).to(original.dtype).to(original.device)


def _bicubic_matrix(new: int, old: int, scale: Float[Tensor, ""], antialias: bool) -> Float[Tensor, "n m"]:
    """Return the weights (Keys' kernel) of `old` cells at `new` places that lie `scale` cells apart.

    Antialiased, the kernel is as wide as a step and stops at the border; otherwise it reaches `MARGIN` cells over it.
    """
    a, margin = (-0.5, 0) if antialias else (-0.75, MARGIN)  # the constants of PyTorch
    scale = scale.float().double()
    places = (torch.arange(new, dtype=torch.float64, device=scale.device) + 0.5) * scale
    # F.interpolate rounds to float32 at these points, which is visible at 1e-5
    places = places.float() - 0.5 if antialias else (places - 0.5).float()
    cells = torch.arange(-margin, old + margin, device=scale.device)
    distance = (places[:, None].double() - cells).abs() / (scale.clamp(min=1) if antialias else 1)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))
    return weights / weights.sum(dim=1, keepdim=True)
