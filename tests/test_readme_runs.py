"""The README's commands, run in its order in an empty folder, with small videos and settings in place of large ones."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
from PIL import Image
from typer.testing import CliRunner

from lila_train.training.config import RECIPES, TrainConfig
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip
from tests.lila_train.evaluation import worlds
from tests.test_readme import PROGRAMS, commands

SMALL = TrainConfig(steps=2, batch_size=2, decoder_width=16, crop_size=32, channels=8, max_gap=4)
NOT_HERE = {
    "make ": "runs this very test, or a demo of minutes",
    "--encoder dinov2": "fetches DINOv2",
    "scores/encoder scores/anyup": "needs the two above",
    "--scheduler": "needs a cluster; tests/lila_cues/pipeline/test_cluster.py starts one",
    "--compile": "compiles for minutes; tests/lila_train/training/test_step.py",
    "merge": "needs stores of several machines; tests/lila_cues/cli/test_store.py",
}


@pytest.mark.slow
def test_the_commands_of_the_readme_run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # an export is traced with sizes that are symbols
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, config=SMALL))
    prepare(tmp_path, shared)
    left_out = set(NOT_HERE)
    for command in commands():
        reason = next((part for part in NOT_HERE if part in command), None)
        if reason is not None:
            left_out.discard(reason)
            continue
        program, *arguments = shlex.split(in_an_own_place(command))
        result = CliRunner().invoke(PROGRAMS[program], arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
    assert not left_out, "no longer in the README"
    made = (
        "features/photos/clip_pca.mp4",
        "explore.html",
        "tracked/00000.png",
        "model.onnx",
        "runs/ablations/ablations.html",
    )
    assert all((tmp_path / name).is_file() for name in made), list(tmp_path.rglob("*"))


def in_an_own_place(command: str) -> str:
    """The second way to build one's own store is another store."""
    return command.replace("cues/mine.zarr", "cues/other.zarr") if "--flow-weights" in command else command


def prepare(folder: Path, shared: Path) -> None:
    """Everything that the README's reader has."""
    for name in ("MY_VIDEOS/a.mp4", "MY_VIDEOS/b.mp4", "data/kinetics/c.mp4", "clip.mp4"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        barcodes.write(path, Clip(frames=20, size=(96, 128)))
    worlds.write_davis(folder / "DAVIS")
    frame = next((folder / "DAVIS").rglob("*.jpg"))
    (folder / "photos").mkdir()
    shutil.copy(frame, folder / "photos")
    mask = Image.new("P", (128, 96))
    mask.putpalette([0, 0, 0, 255, 0, 0])
    mask.paste(1, (30, 30, 60, 60))
    mask.save(folder / "first.png")
    (folder / "points.csv").write_text("x,y,frame\n40,40,0\n90,50,3\n")
    for name in ("vit_tiny_patch16_224.pth", "raft_small.pth"):
        (folder / name).symlink_to(shared / "data" / "weights" / name)
