"""RAFT's weights in the naming of the original repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lila_cues.networks import load_flow
from lila_cues.networks.state_dicts import to_torchvision

ORIGINAL_NAMES = {  # princeton-vl/RAFT, core/extractor.py and core/update.py: one of each kind
    "fnet.conv1.weight": "feature_encoder.convnormrelu.0.weight",
    "fnet.conv2.bias": "feature_encoder.conv.bias",
    "fnet.layer1.0.conv2.weight": "feature_encoder.layer1.0.convnormrelu2.0.weight",
    "fnet.layer2.0.downsample.0.weight": "feature_encoder.layer2.0.downsample.0.weight",
    "cnet.norm1.running_mean": "context_encoder.convnormrelu.1.running_mean",
    "cnet.layer3.1.norm2.weight": "context_encoder.layer3.1.convnormrelu2.1.weight",
    "cnet.layer3.0.downsample.1.running_var": "context_encoder.layer3.0.downsample.1.running_var",
    "update_block.encoder.convc1.weight": "update_block.motion_encoder.convcorr1.0.weight",
    "update_block.encoder.convf2.bias": "update_block.motion_encoder.convflow2.0.bias",
    "update_block.encoder.conv.weight": "update_block.motion_encoder.conv.0.weight",
    "update_block.gru.convz1.weight": "update_block.recurrent_block.convgru1.convz.weight",
    "update_block.gru.convq2.bias": "update_block.recurrent_block.convgru2.convq.bias",
    "update_block.flow_head.conv2.weight": "update_block.flow_head.conv2.weight",
    "update_block.mask.0.weight": "mask_predictor.convrelu.0.weight",
    "update_block.mask.2.bias": "mask_predictor.conv.bias",
}


@pytest.mark.parametrize("original", ORIGINAL_NAMES)
def test_names_of_the_original_repository(original: str) -> None:
    value = torch.ones(1)
    renamed = to_torchvision({"module.fnet.conv1.bias": value, f"module.{original}": value})
    assert ORIGINAL_NAMES[original] in renamed


@pytest.mark.parametrize("name", ["raft_small", "raft_large"])
def test_a_complete_file_of_the_original_repository(name: str, tmp_path: Path) -> None:
    """All tensors under the original's names, its doubled norms included, wrapped as it saves them."""
    expected = load_flow(name, "random:2").network.state_dict()  # type: ignore[attr-defined]
    original = {f"module.{new}": value for old, value in expected.items() for new in _original(old, name)}
    path = tmp_path / "raft-sintel.pth"
    torch.save(original, path)
    network = load_flow(name, path)
    loaded = network.network.state_dict()  # type: ignore[attr-defined]
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert (network.source.origin, network.source.location) == ("file", str(path))


def _original(name: str, network: str) -> list[str]:
    """A name of torchvision's as princeton-vl/RAFT has it; two where the original registers a norm twice."""
    old = name.replace("feature_encoder", "fnet").replace("context_encoder", "cnet")
    for new, original in (
        ("mask_predictor.convrelu.0", "update_block.mask.0"),
        ("mask_predictor.conv", "update_block.mask.2"),
        ("motion_encoder.convcorr1.0", "encoder.convc1"),
        ("motion_encoder.convcorr2.0", "encoder.convc2"),
        ("motion_encoder.convflow1.0", "encoder.convf1"),
        ("motion_encoder.convflow2.0", "encoder.convf2"),
        ("motion_encoder.conv.0", "encoder.conv"),
        ("net.convnormrelu.0", "net.conv1"),
        ("net.convnormrelu.1", "net.norm1"),
        *((f"convnormrelu{n}.0", f"conv{n}") for n in (1, 2, 3)),
        *((f"convnormrelu{n}.1", f"norm{n}") for n in (1, 2, 3)),
    ):
        old = old.replace(new, original)
    if old.startswith(("fnet.conv.", "cnet.conv.")):
        old = old.replace(".conv.", ".conv2.")
    if "recurrent_block" in old:
        _, _, cell, gate, kind = old.split(".")
        number = cell[-1] if network == "raft_large" else ""
        old = f"update_block.gru.{gate}{number}.{kind}"
    doubled = old.replace("downsample.1", "norm3")
    return [old] if doubled == old else [old, doubled]
