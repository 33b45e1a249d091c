"""Files of a wheel that are not Python are declared and exist; extras, hooks and workflows are those of the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

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


def test_messages_name_extras_that_exist() -> None:
    sources = [path.read_text() for package in DATA for path in (ROOT / package).rglob("*.py")]
    named = set(re.findall(r"lila-pixels\[(\w+)\]", "".join(sources)))
    assert {"baselines", "export", "gpu", "torchcodec"} <= named
    assert named <= SETTINGS["project"]["optional-dependencies"].keys()


def test_hooks_are_the_tools_of_make_check() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    tools = [re.sub(r" -.*| \.$", "", line.strip().replace("$(BIN)/", "")) for line in recipe.splitlines()]
    assert [re.sub(r"\.venv/bin/| -.*", "", hook["entry"]) for hook in repository["hooks"]] == tools


def test_workflows_run_what_a_developer_runs() -> None:
    jobs = {path.stem: yaml.safe_load(path.read_text())["jobs"] for path in (ROOT / ".github/workflows").glob("*.yml")}
    commands = [step.get("run") for job in jobs["ci"].values() for step in job["steps"]]
    assert {".ci/run", "make docs"} <= set(commands)
    assert jobs["release"]["publish"]["permissions"] == {"id-token": "write"}
    tested = jobs["ci"]["test"]["strategy"]["matrix"]["python-version"]
    listed = [each.rpartition(" ")[2] for each in SETTINGS["project"]["classifiers"] if re.search(r":: 3\.\d", each)]
    assert tested == listed
