"""`lila-train run` as a user meets it: end, resume, SIGTERM, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import stores
from lila_train.cli import app
from stores.errors import LilaError
from tests.train import world

OPTIONS = ["--recipe", "demo", "--batch-size", "2", "--width", "16", "--view-size", "32", "--channels", "4"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, LilaError), result.output
    return str(result.exception)


def test_a_run_leaves_what_it_promises_and_resumes_to_nothing(store: stores.CueStore, tmp_path: Path) -> None:
    arguments = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), "--steps", "3", *OPTIONS]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "weights.safetensors",
        "log.jsonl",
        "loss.png",
        "run.json",
    }
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["steps"] == 3
    assert record["settings"]["method"]["view_size"] == 32
    assert "exists and is not empty" in refusal(*arguments)
    written = (tmp_path / "run/weights.safetensors").stat().st_mtime_ns
    again = CliRunner().invoke(app, [*arguments, "--resume"])
    assert "this run is finished" in again.output
    assert (tmp_path / "run/weights.safetensors").stat().st_mtime_ns == written


def test_sigterm_writes_a_checkpoint_and_resume_ends_the_run(store: stores.CueStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "lila_train", "run", "--store", str(store.path), "--out", str(out)]
    command += ["--steps", "100000", *OPTIONS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        wait_for(lambda: (out / "log.jsonl").exists() and len((out / "log.jsonl").read_text().splitlines()) > 2)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "--resume goes on" in printed
    (checkpoint,) = (out / "checkpoints").iterdir()
    steps = int(checkpoint.stem.removeprefix("step-"))
    assert steps == len((out / "log.jsonl").read_text().splitlines())
    command[command.index("100000")] = str(steps + 2)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert f"going on at step {steps} of {steps + 2}" in done.stdout
    assert len((out / "log.jsonl").read_text().splitlines()) == steps + 2


def wait_for(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_cannot_be_run_is_refused_in_one_sentence(store: stores.CueStore, tmp_path: Path) -> None:
    on = ["run", "--store", str(store.path), "--out", str(tmp_path / "run")]
    assert "--channels asks for 32" in refusal(*on, "--recipe", "demo", "--view-size", "32")
    assert "one of s14-youtube-vos" in refusal(*on, "--recipe", "nothing")
    assert "--precision must be float32 or bfloat16" in refusal(*on, *OPTIONS, "--precision", "int3")
    assert "--schedule must be constant or cosine" in refusal(*on, *OPTIONS, "--schedule", "up")
    assert "--steps must be above 0" in refusal(*on, *OPTIONS, "--steps", "0")
    assert "finds no GPU" in refusal(*on, *OPTIONS, "--device", "cuda") or _has_gpu()
    assert "expected --device" in refusal(*on, *OPTIONS, "--device", "abacus")
    assert not (tmp_path / "run").exists()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def test_nothing_given_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = refusal("run")
    assert "no cue store at cues/kinetics.zarr" in told
    assert "--store" in told
    assert "lila-cues build --dataset kinetics" in told


def test_a_pair_window_that_no_pair_meets_is_refused(tmp_path: Path) -> None:
    store = world.build(tmp_path / "cues.zarr", clips=1, gap=4)
    told = refusal("run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS, "--max-gap", "2")
    assert "expected pairs at most 2 frames apart" in told
