"""V-JEPA 2.1 (2026), the distilled ViT-B/16: frames as images, for which it has a patch embedding of its own."""

from __future__ import annotations

from importlib import import_module

from jaxtyping import Float
from torch import Tensor

from lila_train.evaluation.baselines import named_warnings, normalized
from lila_train.evaluation.baselines._video import OwnEncoder

REPOSITORY = "facebookresearch/vjepa2"
REVISION = "16de6c80c258eab97f0517f69399576f06568cb9"
MARKER = "app/vjepa_2_1/models/vision_transformer.py"
LICENSE = "mit"
WEIGHTS = "https://dl.fbaipublicfiles.com/vjepa2/vjepa2_1_vitb_dist_vitG_384.pt"
PREFIXES = {"ema_encoder.module.backbone.": "network."}


class VJepa21(OwnEncoder):
    """The encoder of the repository, for images."""

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return the four blocks that it was trained to predict, each through its own norm."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        with named_warnings("vjepa2-1"):
            tapped = self.network(normalized(images)[:, :, None])
        return tuple(tokens.mT.unflatten(2, grid) for tokens in tapped)


def transformer(place: str) -> VJepa21:
    """Build the network with the settings of the repository's `vjepa2_1_vit_base_384`."""
    network = import_module("app.vjepa_2_1.models.vision_transformer").vit_base(
        img_size=(384, 384),
        num_frames=64,
        use_rope=True,
        img_temporal_dim_size=1,
        interpolate_rope=True,
        n_output_distillation=1,
    )
    network.out_layers = network.hierarchical_layers
    return VJepa21(network)
