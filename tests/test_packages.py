"""Public names of the packages exist, and the help of the command line loads no network."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = (
    "stores",
    "lila_cues",
    "lila_cues.networks",
    "lila_train",
    "lila_train.model",
)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_exists(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__all__
    assert all(getattr(package, public) is not None for public in package.__all__)
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        package.nothing_of_that_name  # noqa: B018 - asking for it is the test


def test_the_help_does_not_import_pytorch() -> None:
    packages = ", ".join(PACKAGES)
    script = f"import sys, lila_train.cli, {packages}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_errors_come_without_zarr() -> None:
    script = "import sys, stores.errors; sys.exit(any(name in sys.modules for name in ('zarr', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
