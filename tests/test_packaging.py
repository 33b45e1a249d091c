"""What a wheel must carry besides Python files is declared and there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
DATA: dict[str, list[str]] = SETTINGS["tool"]["setuptools"]["package-data"]


@pytest.mark.parametrize("package", SETTINGS["tool"]["mypy"]["packages"])
def test_a_package_says_that_it_is_typed(package: str) -> None:
    assert "py.typed" in DATA[package]


@pytest.mark.parametrize(("package", "pattern"), [(package, each) for package in DATA for each in DATA[package]])
def test_declared_files_are_there(package: str, pattern: str) -> None:
    assert list((ROOT / package).glob(pattern)), f"nothing in {package}/ is called {pattern}; mend pyproject.toml"


def test_every_file_that_is_no_python_is_declared() -> None:
    files = {path for package in DATA for path in (ROOT / package).rglob("*") if path.is_file()}
    told = {path for package in DATA for pattern in DATA[package] for path in (ROOT / package).glob(pattern)}
    left = {path for path in files - told if path.suffix not in (".py", ".pyc")}
    assert not left, f"a wheel would lack {', '.join(sorted(str(path.relative_to(ROOT)) for path in left))}"
