"""The commands of the README parse, and its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from lila_cues.cli import app as cues
from lila_train.cli import app as train

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"lila-cues": cues, "lila-train": train}


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for kind, block in fences if kind == language]


def commands() -> list[str]:
    lines = "".join(blocks("")).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if re.match(r"(lila-cues|lila-train|make) ", line)]


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("make")])
def test_a_command_of_the_readme_parses(command: str) -> None:
    program, name, *arguments = shlex.split(command)
    group = typer.main.get_group(PROGRAMS[program])
    group.commands[name].make_context(name, arguments)


def test_make_knows_the_commands_of_the_readme() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {word for c in commands() if c.startswith("make") for word in shlex.split(c)[1:] if "=" not in word}
    assert named
    assert named <= targets
    assert {"setup", "demo", "ablate", "test", "check", "bench", "bench-gpu"} <= targets


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    import torch

    from lila_cues.networks import hub, load_encoder
    from lila_cues.networks.weights import tensors_sha256
    from lila_train.model import released
    from tests.lila_train.training import world

    monkeypatch.chdir(tmp_path)
    world.build(Path("cues/kinetics.zarr"), clips=2)
    encoder = load_encoder("vit_tiny_patch16_224", "random:0").vit.state_dict()
    safetensors.torch.save_file(encoder, "published.safetensors")
    monkeypatch.setattr(hub, "fetch", lambda *place: (Path("published.safetensors"), "commit"))
    monkeypatch.setitem(released.PACKAGED_MODELS, "lila_vit_tiny", tensors_sha256(encoder))
    names: dict[str, object] = {"images": torch.rand(1, 3, 40, 56)}
    for block in blocks("python"):
        exec(block, names)  # noqa: S102 - the README is ours
    assert names["features"].shape == (1, 16, 40, 56)  # type: ignore[attr-defined]
