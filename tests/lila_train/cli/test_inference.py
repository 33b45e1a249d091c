"""Commands on a model whose features are not finite: each stops with one sentence, and leaves no result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lila_cues.viz.pictures import write_label_png
from lila_train.cli import app
from lila_train.evaluation.dense.probes import features_of
from stores.errors import LilaError
from tests.lila_train.evaluation.worlds import ColorModel, write_davis
from tests.lila_train.inference.models import small_model, write_test_video, write_weights

RESULTS = ("*.npz", "*.png", "*.mp4", "*.html", "*.json", "*.pt", "*.pt2", "*.onnx")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights so large that the features overflow, an image, a video with a mask, and a DAVIS folder."""
    root = tmp_path_factory.mktemp("media")
    model = small_model()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(1e30)
    write_weights(root / "weights.safetensors", model)
    Image.fromarray(np.full((32, 32, 3), 100, np.uint8)).save(root / "a.png")
    write_test_video(root / "v.mp4", frames=2)
    write_label_png(root / "mask.png", np.tile(np.uint8([0, 1]), (36, 25)))
    write_davis(root / "davis")
    return root


@pytest.mark.parametrize(
    "command",
    [
        "features a.png --out out",
        "features a.png --out out --tile 16",
        "features v.mp4 --out out",
        "track v.mp4 --mask mask.png --out out",
        "explore a.png --out out/page.html",
        "export --out out/decoder.pt",
        "export --out out/model.pt2",
        "eval davis-knn@lila --data davis --out out --short-side 48 --limit 1",
    ],
)
def test_features_that_are_not_finite_stop_a_command(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(media)
    arguments = [str(tmp_path / word) if word.startswith("out") else word for word in command.split()]
    result = CliRunner().invoke(app, [*arguments, "--weights", "weights.safetensors"])
    assert isinstance(result.exception, LilaError), result.output
    assert "found NaN or infinity; its weights are damaged or their training diverged" in str(result.exception)
    left = [path for pattern in RESULTS for path in tmp_path.rglob(pattern) if "encoder" not in str(path)]
    assert {path.name for path in left} <= {
        "features.json", "identity.json", "track.json", "00000.png", "overlay.mp4",
    }, "settings; the mask that was given"  # fmt: skip


def test_probes_refuse_features_that_are_not_finite() -> None:
    with pytest.raises(LilaError, match="expected finite features from encoder, found NaN or infinity"):
        features_of(ColorModel(), "encoder", torch.full((1, 3, 16, 16), torch.nan))
