"""The baselines by name: repository, revision, licence, weights, and how each is built and called.

A new one is a row here: `build` imports its network from the code's folder, `call` runs it on images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import featup, flowfeat, naf
from lila_train.evaluation.baselines.asked import Baseline
from lila_train.evaluation.baselines.clones import Code, imported
from lila_train.evaluation.baselines.enlarged import Enlarged
from lila_train.evaluation.baselines.upsamplers import Upsampler, normalised
from lila_train.evaluation.baselines.video import VideoBaseline, VideoMae, VJepa2

QUERIES_AT_ONCE = 16384  # of AnyUp: bounds its memory


def _anyup(root: Path, encoder: FrozenEncoder) -> nn.Module:
    with imported(root, "anyup.model") as module:
        return module.AnyUp()


def _call_anyup(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    return network(normalised(images), encoder.grid(images), q_chunk_size=QUERIES_AT_ONCE)


def _jafar(root: Path, encoder: FrozenEncoder) -> nn.Module:
    with imported(root, "src.upsampler.jafar") as module:
        # It makes coordinates on CUDA wherever it runs itself; without a device they follow `torch.device` below.
        vars(module)["create_coordinate"] = partial(vars(module)["create_coordinate"], device=None)
        return module.JAFAR(input_dim=3, qk_dim=128, v_dim=encoder.width, kernel_size=1, num_heads=4)


def _call_jafar(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    with torch.device(images.device):
        return _call_to_size(network, encoder, images)


def _call_to_size(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    return network(normalised(images), encoder.grid(images), tuple(images.shape[2:]))


def _loftup(root: Path, encoder: FrozenEncoder) -> nn.Module:
    with imported(root, "upsamplers.upsamplers") as module:
        upsampler = module.LoftUp(encoder.width, lr_pe_type="sine", lr_size=16)
        return module.UpsamplerwithChannelNorm(upsampler, module.ChannelNorm(encoder.width))


def _call_loftup(network: nn.Module, encoder: FrozenEncoder, images: Tensor) -> Tensor:
    return network(encoder.grid(images), normalised(images))


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
