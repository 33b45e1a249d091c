"""ViT-Up (2026): features at any point, by attention from points to the tokens of seven blocks of DINOv3 with LoRA.

Its repository states no license. Images are stretched to squares, of 448 px for the tokens, as its own code does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import normalized
from stores.errors import LilaError

REPOSITORY = "krispinwandel/vit-up"
REVISION = "9a74487c1b46b600e22090f0cbb70d2a4c530a92"
MARKER = "vit_up/model/vit_up.py"
LICENSE = "none stated"
ENCODER = "dinov3_vits16plus"
WEIGHTS = "hf:Krispin/vit-up/vit_up_dinov3_splus.safetensors"
PREFIXES = {"backbone.": "backbone.", **{f"{part}.": f"vit_up.{part}." for part in ("vit_up_blocks", "decoder_mlp")}}

SIDE = 448  # px of the image whose tokens are read
POINTS_PER_CHUNK = 3136  # of the authors' evaluation; bounds the memory of the attention


def build(encoder: FrozenEncoder) -> nn.ModuleDict:
    """Build the network for the S+ encoder, whose weights become those of its backbone; LilaError for another one."""
    if encoder.name not in (ENCODER, "vit_small_plus_patch16_dinov3"):
        raise LilaError(f"expected {ENCODER} below ViT-Up, found {encoder.name}; pass --encoder {ENCODER}")
    wrapper = import_module("vit_up.inference.vit_up_wrapper").ViTUpWrapper
    config = wrapper._load_model_config(wrapper._resolve_model_config_path("vit_up_dinov3_splus"))
    config = config["model"]["init_args"]
    backbone = import_module("vit_up.layers.backbones.dinov3_vit").DINOv3ViT(
        import_module("transformers").DINOv3ViTConfig(
            use_gated_mlp=True, hidden_act="silu", num_register_tokens=4, attn_implementation="sdpa"
        )
    )
    backbone.load_state_dict(backbone.state_dict() | renamed(encoder.vit.state_dict()))
    adapted = import_module("peft").get_peft_model(backbone, wrapper._resolve_backbone_lora_config(config))
    network = nn.ModuleDict({"backbone": adapted, "vit_up": wrapper._instantiate_config_tree(config["vit_up"])})
    vars(network)["given"] = {f"backbone.{name}" for name in adapted.state_dict() if "lora" not in name}
    return network


def call(network: nn.ModuleDict, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """Return the features at the centers of all pixels."""
    height, width = images.shape[2:]
    rows, columns = ((torch.arange(n, device=images.device) + 0.5) / n for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x, y], dim=-1).flatten(0, 1).expand(len(images), -1, -1)
    vit_up: Any = network["vit_up"]
    tokens = vit_up.compute_cache_data(normalized(images), network["backbone"], SIDE)
    chunks = [vit_up(None, part, cache_data=tokens)[-1] for part in points.split(POINTS_PER_CHUNK, dim=1)]
    return torch.cat(chunks, dim=1).mT.unflatten(2, (height, width))


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return timm's DINOv3 tensors under the names of `transformers`; its biases of queries and values are zero."""
    names = {"reg_token": "register_tokens", "patch_embed.proj": "patch_embeddings", "cls_token": "cls_token"}
    parts = {"attn.proj": "attention.o_proj", "gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1"}
    parts |= {"mlp.fc1_g": "mlp.gate_proj", "mlp.fc1_x": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
    result = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
        if stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            layer = f"layer.{number}."
            if part == "attn.qkv":
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    result[f"{layer}attention.{letter}_proj.{kind}"] = third
                    if letter != "k":
                        result[f"{layer}attention.{letter}_proj.bias"] = torch.zeros(len(third))
                continue
            stem = layer + parts.get(part, part)
        elif stem in names:
            stem = f"embeddings.{names[stem]}"
        result[f"{stem}.{kind}" if kind else stem] = tensor
    return result
