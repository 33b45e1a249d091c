"""A headless browser, and a page of two small images whose features are known."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lila_train.inference.explore import Explored, write_page
from tests.lila_train.inference.models import write_weights

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; the tests that need it skip where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser to click in: none of {', '.join(BROWSERS)} is on the PATH")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


def smooth(channels: int, height: int, width: int, seed: int) -> np.ndarray:
    """Waves of random direction, normalised over channels as LILA's features are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / height
    phases, directions = rng.uniform(0, 7, channels), rng.normal(0, 6, (channels, 2))
    waves = np.sin(directions[:, 0, None, None] * y + directions[:, 1, None, None] * x + phases[:, None, None])
    waves -= waves.mean(axis=0)
    return (waves / waves.std(axis=0)).astype(np.float32)


@pytest.fixture(scope="session")
def explored() -> list[Explored]:
    """A wide image and a tall one."""
    rng = np.random.default_rng(0)
    return [
        Explored(
            name,
            rng.integers(0, 256, (2 * h, 2 * w, 3), dtype=np.uint8),
            smooth(12, h, w, n),
            smooth(6, 5, 7, n),
            (4 * h, 4 * w),
            name,
            frame=n,
        )
        for n, (name, h, w) in enumerate((("wide <b>.png", 40, 60), ("tall.png", 50, 30)))
    ]


@pytest.fixture(scope="session")
def page_file(explored: list[Explored], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "explore.html"
    write_page(path, "A & B", "two images.", explored, 0.001)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")
