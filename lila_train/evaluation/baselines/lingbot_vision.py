"""LingBot-Vision (arXiv 2607.05247), ViT-S/16 with four registers: an encoder trained by masked boundary modeling."""

from __future__ import annotations

from importlib import import_module

from jaxtyping import Float
from torch import Tensor

from lila_cues.networks.encoder import taps
from lila_train.evaluation.baselines import normalized
from lila_train.evaluation.baselines._video import OwnEncoder

REPOSITORY = "robbyant/lingbot-vision"
REVISION = "151e46321bae4399f8568829f190c7bdec216b49"
MARKER = "lingbot_vision/vit.py"
LICENSE = "apache-2.0"
WEIGHTS = "hf:robbyant/lingbot-vision-vit-small/model.pt"
PREFIXES = {"": "network."}


class LingBotVision(OwnEncoder):
    """The encoder of the repository."""

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return four blocks, spread like those of other encoders, each through the final norm."""
        blocks = taps(len(self.network.blocks))
        return self.network.get_intermediate_layers(normalized(images), n=blocks, reshape=True)


def transformer(place: str) -> LingBotVision:
    """Build the network of the repository's configuration for ViT-S."""
    loader = import_module("lingbot_vision.loader")
    config = loader.load_config("configs/lbot_vision_vits.yaml")
    return LingBotVision(loader.build_backbone_from_cfg(config)[0])
