"""Fixtures of every test: where the shared real data lie, and one thread per process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, weights and conformance values: `$LILA_SHARED`, or `shared` beside the checkout."""
    folder = Path(os.environ.get("LILA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "conformance").is_dir():
        pytest.skip(f"no shared data at {folder}; set LILA_SHARED to the folder that holds data/ and conformance/")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the GPU say so where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
