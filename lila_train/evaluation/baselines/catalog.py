"""The baselines by name: repository, revision, licence, weights, and how each is built and called.

A new one is a row here: `build` imports its network from the code's folder, `call` runs it on images.

A frozen encoder on an enlarged input: the costly way to finer features, by which a pixel map is to be measured.

Enlarged by the patch size there is a token for every pixel; the cost of attention grows with the fourth power.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder, load_encoder
from lila_train.evaluation.baselines import featup, flowfeat, naf
from lila_train.evaluation.baselines.upsamplers import Baseline, BaselineOptions, Code, Upsampler, imported, normalized
from lila_train.evaluation.baselines.video import VideoBaseline, VideoMae, VJepa2
from lila_train.evaluation.models import ENCODER, EncoderAlone, OnEncoder, encoder_identity
from lila_train.model.resize import size_of, to_size
from stores.errors import LilaError


@dataclass(frozen=True)
class EnlargedModel(OnEncoder):
    """The grid of the image as it is, and as pixel map the grid of the image enlarged bilinearly."""

    factor: int
    head: str

    @torch.no_grad()
    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e H W"]:
        """The grid of the enlarged image, `factor`² as many tokens, at the image's size."""
        larger = F.interpolate(images, scale_factor=self.factor, mode="bilinear", align_corners=False)
        return to_size(self.below.encoder_grid(larger), size_of(images))

    def describe(self) -> dict[str, Any]:
        """Provenance of the encoder, and the factor."""
        return self.below.describe() | {"enlarged": self.factor}


@dataclass(frozen=True)
class Enlarged:
    """`factor` None: the encoder's patch size."""

    name: str
    factor: int | None

    @property
    def heads(self) -> tuple[str, ...]:
        """The grid as it is, and the enlarged one by the name of this row."""
        return (ENCODER, self.name)

    def identity(self, asked: BaselineOptions) -> dict[str, Any]:
        """The baseline's name, which gives the factor, and the encoder."""
        return {"baseline": self.name} | encoder_identity(_encoder(asked, self.name), asked.encoder_weights)

    def load(self, asked: BaselineOptions, device: torch.device) -> EnlargedModel:
        """The encoder asked for; LilaError where none is, since any will do."""
        encoder = load_encoder(_encoder(asked, self.name), asked.encoder_weights, device)
        return EnlargedModel(EncoderAlone(encoder, device), self.factor or encoder.patch_size, self.name)


def _encoder(asked: BaselineOptions, name: str) -> str:
    if asked.encoder is None:
        raise LilaError(f"expected an encoder for --baseline {name}, found none; name one with --encoder")
    return asked.encoder


QUERIES_AT_ONCE = 16384  # of AnyUp: bounds its memory


def _anyup(root: Path, encoder: FrozenEncoder) -> nn.Module:
    with imported(root, "anyup.model") as module:
        return module.AnyUp()


def _call_anyup(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    return network(normalized(images), encoder.grid(images), q_chunk_size=QUERIES_AT_ONCE)


def _jafar(root: Path, encoder: FrozenEncoder) -> nn.Module:
    with imported(root, "src.upsampler.jafar") as module:
        # It makes coordinates on CUDA wherever it runs itself; without a device they follow `torch.device` below.
        vars(module)["create_coordinate"] = partial(vars(module)["create_coordinate"], device=None)
        return module.JAFAR(input_dim=3, qk_dim=128, v_dim=encoder.width, kernel_size=1, num_heads=4)


def _call_jafar(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    with torch.device(images.device):
        return _call_to_size(network, encoder, images)


def _call_to_size(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    return network(normalized(images), encoder.grid(images), tuple(images.shape[2:]))


def _loftup(root: Path, encoder: FrozenEncoder) -> nn.Module:
    with imported(root, "upsamplers.upsamplers") as module:
        upsampler = module.LoftUp(encoder.width, lr_pe_type="sine", lr_size=16)
        return module.UpsamplerwithChannelNorm(upsampler, module.ChannelNorm(encoder.width))


def _call_loftup(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    return network(encoder.grid(images), normalized(images))


_UPSAMPLERS = (
    Upsampler(
        name="flowfeat",
        code=Code("tum-vision/flowfeat", "70c0a969093b80d1014fe299bcaddedc4719ab2f", "hubconf.py"),
        licence="apache-2.0",
        encoder="dinov2_vits14",
        weights="https://cvg.cit.tum.de/webshare/g/papers/flowfeat/dino2_s14_flowfeat_yt.pth",
        build=flowfeat.build,
        call=flowfeat.call,
        prefixes={"decoder.": ""},
    ),
    Upsampler(
        name="featup",
        code=Code("mhamilton723/FeatUp", "6b5a6c0e91f75e69194807128dcbc39c3084a30d", "featup/upsamplers.py"),
        licence="mit",
        encoder="dinov2_vits14",
        weights="https://marhamilresearch4.blob.core.windows.net/feature-upsampling-public/pretrained/"
        "dinov2_jbu_stack_cocostuff.ckpt",
        build=featup.build,
        call=featup.call,
        prefixes={"state_dict.upsampler.": "upsampler.", "state_dict.model.1.": "norm."},
    ),
    Upsampler(
        name="loftup",
        code=Code("andrehuang/loftup", "6620d9bcde4c1af5cddedde6b9aaed6d4174a799", "upsamplers/upsamplers.py"),
        licence="mit",
        encoder="dinov2_vits14",
        weights="hf:haiwen/loftup-dinov2s/pytorch_model.bin",
        build=_loftup,
        call=_call_loftup,
    ),
    Upsampler(
        name="anyup",
        code=Code("wimmerth/anyup", "351807a9c4287368732cc247f26c7c81c9139af4", "anyup/model.py"),
        licence="cc-by-4.0",
        encoder="dinov2_vits14",
        weights="https://github.com/wimmerth/anyup/releases/download/checkpoint/anyup_paper.pth",
        build=_anyup,
        call=_call_anyup,
    ),
    Upsampler(
        name="jafar",
        code=Code("PaulCouairon/JAFAR", "94d4d5456ff3c719d111b9a26ead3813e089302b", "src/upsampler/jafar.py"),
        licence="apache-2.0",
        encoder="dinov2_vits14",
        weights="https://github.com/PaulCouairon/JAFAR/releases/download/Weights/vit_small_patch14_dinov2.lvd142m.pth",
        build=_jafar,
        call=_call_jafar,
        prefixes={"jafar.": ""},
    ),
    Upsampler(
        name="naf",
        code=Code("valeoai/NAF", "ad4e24d2ec32a2fbcccb3beaf7107bc3caa7038a", "src/model/naf.py"),
        licence="apache-2.0",
        encoder="dinov2_vits14",
        weights="https://github.com/valeoai/NAF/releases/download/model/naf_release.pth",
        build=naf.build,
        call=_call_to_size,
    ),
)

BASELINES: dict[str, Baseline] = {
    **{row.name: row for row in _UPSAMPLERS},
    "enlarged": Enlarged("enlarged", None),
    "enlarged-2": Enlarged("enlarged-2", 2),
    "enlarged-4": Enlarged("enlarged-4", 4),
    "vjepa2": VideoBaseline("vjepa2", "facebook/vjepa2-vitl-fpc64-256", "mit", VJepa2),
    "videomae": VideoBaseline("videomae", "MCG-NJU/videomae-base", "cc-by-nc-4.0", VideoMae),
}
