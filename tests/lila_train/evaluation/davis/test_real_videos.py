"""The DAVIS protocols end to end on real sequences, made small, with a real encoder; and on published weights."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lila_cues.networks.weights import file_sha256
from lila_train.cli import app
from lila_train.evaluation.model_spec import ModelSpec
from stores.errors import LilaError

SIZE = (214, 120)
COUNT = 5


@pytest.fixture(scope="module")
def davis(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of camel and dog at a quarter of their size."""
    root = tmp_path_factory.mktemp("davis")
    for name in ("camel", "dog"):
        for kind, suffix, way in (
            ("JPEGImages", "jpg", Image.Resampling.BOX),
            ("Annotations", "png", Image.Resampling.NEAREST),
        ):
            source, folder = shared / "data/davis" / kind / "480p" / name, root / kind / "480p" / name
            folder.mkdir(parents=True)
            for n in range(COUNT):
                with Image.open(source / f"{n:05d}.{suffix}") as picture:
                    picture.resize(SIZE, way).save(folder / f"{n:05d}.{suffix}", quality=95)
    (root / "ImageSets/480p").mkdir(parents=True)
    (root / "ImageSets/480p/val.txt").write_text("camel\ndog\n")
    return root


@pytest.mark.parametrize(
    ("protocol", "short_side", "names"),
    [("davis-lp@lila", 112, ["camel"]), ("davis-knn@lila", 112, ["camel", "dog"]), ("davis-knn@dino", 192, ["camel"])],
)
def test_a_real_encoder_segments_real_videos(
    protocol: str, short_side: int, names: list[str], davis: Path, shared: Path, tmp_path: Path
):
    weights = shared / "data/weights/vit_tiny_patch16_224.pth"
    words = ["eval", protocol, "--data", davis, "--encoder", "vit_tiny_patch16_224", "--encoder-weights", weights]
    words += ["--out", tmp_path / "out", "--short-side", short_side, "--device", "cpu", "--seed", 1]
    words += ["--limit", len(names)] + (["--fast-probe"] if "lp" in protocol else [])
    shown = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert shown.exit_code == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["counts"] == {
        "sequences": len(names),
        "objects": len(names),
        "frames": len(names) * COUNT,
    }
    assert result["scores"]["encoder"]["J"] > 0.5
    assert ("radius_cells" in shown.output) == ("knn" in protocol)
    for name in names:
        with Image.open(tmp_path / f"out/predictions/encoder/{name}/00004.png") as picture:
            assert (picture.mode, picture.size) == ("P", SIZE)
            assert set(np.unique(np.asarray(picture))) == {0, 1}


def test_a_published_file_is_scored_like_a_trained_one(shared: Path, tmp_path: Path):
    path = tmp_path / "lila_dino2_s14_ytvos.pt"
    torch.save(runpy.run_path(str(shared / "conformance/released_checkpoint.py"))["checkpoint"]("s14"), path)
    spec = ModelSpec(weights=path, encoder_weights=Path("random:0"))
    model = spec.load(torch.device("cpu"))
    assert spec.heads() == ("encoder", "lila")
    assert spec.identity() == {"weights_sha256": file_sha256(path), "encoder_weights": "random:0"}
    assert model.pixel_map(torch.rand(1, 3, 28, 42)).shape == (1, 128, 28, 42)
    unused, norm = 2 * 256 * (256 * 9 + 1), 2 * 128
    assert model.describe()["decoder_parameters"] == 13_501_024 - unused + norm


def test_a_published_name_is_a_model_and_any_other_file_must_exist(tmp_path: Path):
    spec = ModelSpec(weights=Path("lila_dinov2_vits14"))
    assert spec.identity() == {"weights": "lila_dinov2_vits14"}
    with pytest.raises(LilaError, match=r"no weights at .*none\.safetensors; pass the folder of a run"):
        ModelSpec(weights=tmp_path / "none.safetensors")
    with pytest.raises(LilaError, match="no weights at nosuchmodel"):
        ModelSpec(weights=Path("nosuchmodel")).load(torch.device("cpu"))
