"""The scripts of docs/experiments run: every command that they issue is understood by its program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import typer.main

from tests.test_readme import PROGRAMS

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "docs/experiments").glob("*.sh"))
RECORDER = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$@" "" >> "$RECORD"\n'


def commands_of(script: Path, folder: Path) -> list[list[str]]:
    """Run a script with programs that only record their arguments, one per line, and return the commands."""
    for program in (*PROGRAMS, "torchrun"):
        (folder / program).write_text(RECORDER)
        (folder / program).chmod(0o755)
    record, lists = folder / "record", folder / "DATA/davis/ImageSets/480p"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("bear\n" * 30)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "RECORD": str(record)}
    subprocess.run([script, "DATA", "OTHER", "RUN"], check=True, cwd=folder, env=environment)
    return [command.split("\n") for command in record.read_text().strip().split("\n\n")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_command_of_an_experiment_parses(script: Path, tmp_path: Path) -> None:
    commands = commands_of(script, tmp_path)
    assert len(commands) >= 2
    assert commands[0][:2] == ["lila-cues", "build"]
    for program, *arguments in commands:
        if program == "torchrun":
            program, *arguments = ["lila-train", *arguments[arguments.index("lila_train") + 1 :]]
        group = typer.main.get_group(PROGRAMS[program])
        group.commands[arguments[0]].make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_experiment_states_its_hardware_and_is_listed(script: Path) -> None:
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert "\nset -euo pipefail\n" in text
    assert "\n# Hardware: " in text
    assert "Time: " in text
    assert f"docs/experiments/{script.name}" in (ROOT / "docs/results.md").read_text()
