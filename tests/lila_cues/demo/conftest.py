"""A few rendered clips, shared by the demo's tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lila_cues.demo.dataset import SceneSeed, Split, render_demo, visible_scene
from lila_cues.demo.scenes import Scene, Truth, render_scene


@dataclass(frozen=True)
class Clip:
    """A rendered scene, before it is encoded."""

    scene: Scene
    rgb: np.ndarray
    truth: Truth


@pytest.fixture(scope="session")
def clips() -> list[Clip]:
    """Four short clips."""
    scenes = [visible_scene(SceneSeed(7, Split.TRAIN, index), 6) for index in range(4)]
    return [Clip(scene, *render_scene(scene)) for scene in scenes]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo on disk: two train clips, two held-out ones. Not to be written to."""
    root = tmp_path_factory.mktemp("data") / "demo"
    render_demo(root, train=2, heldout=2, seed=5)
    return root
