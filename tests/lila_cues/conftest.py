"""Videos that several tests build from, and folders that cannot be listed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips, the fourth of them no video."""
    root = tmp_path_factory.mktemp("videos")
    for index in range(7):
        barcodes.write(root / f"{index}.mp4", Clip(frames=20 + index, size=(72, 96)))
    (root / "3.mp4").write_text("nothing to see")
    return root


@pytest.fixture
def closed_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders named `closed` cannot be listed; simulated, since root may list everything."""
    scandir = os.scandir

    def refusing(place: os.PathLike[str] | str) -> object:
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
