"""A checkpoint, and media to run it on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lila_train.inference.models import write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")
