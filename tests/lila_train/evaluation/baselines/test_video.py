"""V-JEPA 2 and VideoMAE frame by frame, as small networks of random weights in local folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel, VJEPA2Config, VJEPA2Model

from lila_train.evaluation.baselines import normalized
from lila_train.evaluation.model_spec import ModelSpec
from stores.errors import LilaError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("video")
    torch.manual_seed(0)
    VJEPA2Model(
        VJEPA2Config(
            patch_size=8,
            crop_size=32,
            frames_per_clip=4,
            hidden_size=48,
            num_attention_heads=2,
            num_hidden_layers=4,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        )
    ).save_pretrained(root / "vjepa2")
    VideoMAEModel(
        VideoMAEConfig(
            image_size=32,
            patch_size=8,
            num_frames=4,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=64,
            use_mean_pooling=False,
        )
    ).save_pretrained(root / "videomae")
    return {name: root / name for name in ("vjepa2", "videomae")}


def image(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "network"), [("vjepa2", VJEPA2Model), ("videomae", VideoMAEModel)])
def test_at_its_own_size_the_grid_is_that_of_the_network(name, network, folders):
    model = ModelSpec(baseline=name, baseline_weights=folders[name]).load(CPU)
    frames = normalized(image(32, 32))
    reference = network.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        if name == "vjepa2":
            tokens = reference(frames[:, None], skip_predictor=True).last_hidden_state
        else:
            reference.embeddings.position_embeddings = reference.embeddings.position_embeddings[:, :16]
            reference.embeddings.patch_embeddings.num_patches = 16
            tokens = reference(frames[:, None].expand(-1, 2, -1, -1, -1)).last_hidden_state
    torch.testing.assert_close(model.encoder_grid(image(32, 32)), tokens.mT.unflatten(2, (4, 4)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["vjepa2", "videomae"])
def test_any_size_gives_four_taps_and_positions_matter(name, folders):
    spec = ModelSpec(baseline=name, baseline_weights=folders[name])
    model = spec.load(CPU)
    taps = model.encoder_taps(image(24, 56))
    assert spec.heads() == ("encoder",)
    assert len(taps) == 4
    assert {tap.shape[2:] for tap in taps} == {(3, 7)}
    torch.testing.assert_close(taps[-1], model.encoder_grid(image(24, 56)))
    gray = model.encoder_grid(torch.full((1, 3, 24, 56), 0.5))
    if name == "videomae":  # absolute positions; those of V-JEPA 2 are relative, a grey frame has none to relate
        assert gray.std(dim=(2, 3)).max() > 1e-3
    assert model.describe()["patch_size"] == 8


def test_rows_and_columns_differ_beyond_the_trained_grid(folders):
    """Exchanging two rows of cells and exchanging them back changes nothing; exchanging them alone does."""
    model = ModelSpec(baseline="vjepa2", baseline_weights=folders["vjepa2"]).load(CPU)
    frame = image(48, 64)
    swapped = frame.clone()
    swapped[:, :, :8], swapped[:, :, 40:] = frame[:, :, 40:], frame[:, :, :8]
    there, back = model.encoder_grid(frame), model.encoder_grid(swapped)
    assert (there[:, :, 1] - back[:, :, 1]).abs().max() > 1e-4


def test_folders_without_the_network_are_refused(tmp_path: Path, folders):
    spec = ModelSpec(baseline="videomae", baseline_weights=tmp_path)
    with pytest.raises(LilaError, match=r"expected a VideoMAEModel as safetensors at .*but it cannot be loaded"):
        spec.load(CPU)
    with pytest.raises(LilaError, match="--encoder and --baseline-repo do not apply to vjepa2, which is an encoder"):
        ModelSpec(baseline="vjepa2", encoder="tiny", baseline_weights=folders["vjepa2"]).load(CPU)
    assert set(ModelSpec(baseline="vjepa2", baseline_weights=folders["vjepa2"]).identity()) == {
        "baseline",
        "baseline_weights_sha256",
    }
