"""Videos that several tests build from."""

from __future__ import annotations

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
