"""Files of a wheel that are not Python are declared and exist."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
DATA: dict[str, list[str]] = SETTINGS["tool"]["setuptools"]["package-data"]


@pytest.mark.parametrize("package", SETTINGS["tool"]["mypy"]["packages"])
def test_a_package_is_marked_as_typed(package: str) -> None:
    assert "py.typed" in DATA[package]


@pytest.mark.parametrize(("package", "pattern"), [(package, each) for package in DATA for each in DATA[package]])
def test_declared_files_exist(package: str, pattern: str) -> None:
    assert list((ROOT / package).glob(pattern)), f"nothing in {package}/ matches {pattern}; fix pyproject.toml"


def test_every_other_file_is_declared() -> None:
    files = {path for package in DATA for path in (ROOT / package).rglob("*") if path.is_file()}
    declared = {path for package in DATA for pattern in DATA[package] for path in (ROOT / package).glob(pattern)}
    left = {path for path in files - declared if path.suffix not in (".py", ".pyc")}
    assert not left, f"a wheel would miss {', '.join(sorted(str(path.relative_to(ROOT)) for path in left))}"
