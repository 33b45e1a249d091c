"""`lila-train run` on several ranks, by the commands that users type: same result, stop, resume, errors."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch

import stores
from lila_train.training import callbacks as callbacks_module
from lila_train.training import distributed
from lila_train.training.callbacks import DecoderSpec, Logger, PictureCallback, ScoreCallback, open_logger, open_tasks
from lila_train.training.config import RunOptions, find_recipe
from lila_train.training.distributed import Rank
from lila_train.training.run_dir import RunDir
from lila_train.training.trainer import StepRecord, Trainer
from stores.errors import LilaError
from tests.lila_train.evaluation import worlds
from tests.lila_train.training import world

pytestmark = pytest.mark.timeout(900)  # a process takes seconds to import PyTorch, and four of them share the cores
OPTIONS = ["--recipe", "demo", "--batch-size", "8", "--crop-size", "64", "--device", "cpu", "--lr", "1e-4"]
OPTIONS += ["--set", "decoder_width=32", "--set", "channels=4", "--pictures-every", "2", "--checkpoint-every", "2"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("davis")
    worlds.write_davis(root)
    return root


def launcher(ranks: int, *torchrun: str) -> list[str]:
    """Return `torchrun … -m lila_train`, or without it for one rank."""
    command = [sys.executable, "-m"]
    if ranks > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *torchrun, "-m"]
    return [*command, "lila_train"]


def run(ranks: int, store: stores.CueStore, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*launcher(ranks), "run", "--store", str(store.path), "--out", str(out), *OPTIONS, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=800)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def largest_difference(out: Path, other: Path) -> float:
    weights, expected = (safetensors.torch.load_file(folder / "weights.safetensors") for folder in (out, other))
    return max(float((weights[name] - tensor).abs().max()) for name, tensor in expected.items())


@pytest.fixture(scope="module")
def alone(store: stores.CueStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one rank: 3 steps of each objective, and 20 of the default."""
    root = tmp_path_factory.mktemp("alone")
    for name, options in {
        "in-context": ["--steps", "3"],
        "erm": ["--steps", "3", "--set", "objective=erm"],
        "20": ["--steps", "20"],
    }.items():
        assert run(1, store, root / name, *options).returncode == 0
    return {name: root / name for name in ("in-context", "erm", "20")}


@pytest.mark.parametrize(("ranks", "objective"), [(2, "in-context"), (2, "erm"), (4, "in-context")])
def test_ranks_train_as_one_with_pictures_scores_and_checkpoints(
    store: stores.CueStore, davis: Path, tmp_path: Path, alone: dict[str, Path], ranks: int, objective: str
) -> None:
    out = tmp_path / "run"
    options = [
        "--set",
        f"objective={objective}",
        "--score-data",
        str(davis),
        "--score-every",
        "2",
        "--score-limit",
        "1",
    ]
    result = run(ranks, store, out, "--steps", "3", *options)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("3 steps, loss") == 1
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["step-00000002.png", "step-00000003.png"]
    assert len((out / "scores.jsonl").read_text().splitlines()) == 4
    assert losses(out) == pytest.approx(losses(alone[objective]), rel=1e-6)
    assert largest_difference(out, alone[objective]) < 1e-5


@pytest.mark.gpu
def test_two_ranks_on_one_gpu_train_as_one(store: stores.CueStore, tmp_path: Path) -> None:
    for ranks, backend in ((1, []), (2, ["--backend", "gloo"])):
        result = run(ranks, store, tmp_path / str(ranks), "--steps", "3", "--device", "cuda", *backend)
        assert result.returncode == 0, result.stderr
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-3)


def test_a_run_stopped_on_four_ranks_continues_on_two_and_on_one(
    store: stores.CueStore, tmp_path: Path, alone: dict[str, Path]
) -> None:
    """SIGTERM goes to one of the four."""
    out = tmp_path / "run"
    command = [*launcher(1), "run", "--store", str(store.path), "--out", str(out), *OPTIONS]
    ranks = start_ranks([*command, "--steps", "100000"], world_size=4)
    wait_for(lambda: (out / "log.jsonl").exists() and len(losses(out)) >= 4)
    ranks[2].send_signal(signal.SIGTERM)
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143] * 4
    assert [text.count("the same command continues") for text in outputs] == [1, 0, 0, 0]
    stopped = len(losses(out))
    assert (out / f"checkpoints/step-{stopped:08d}.safetensors").exists()
    for count, steps in ((2, stopped + 2), (1, stopped + 4)):
        result = run(count, store, out, "--steps", str(steps))
        assert result.returncode == 0, result.stderr
        assert f"resuming at step {steps - 2} of {steps}" in result.stdout
    shared = min(20, stopped + 4)
    assert losses(out)[:shared] == pytest.approx(losses(alone["20"])[:shared], rel=1e-3)


def test_an_elastic_restart_continues_from_the_checkpoint(
    store: stores.CueStore, tmp_path: Path, alone: dict[str, Path]
) -> None:
    out = tmp_path / "run"
    command = [*launcher(2, "--max-restarts", "1"), "run", "--store", str(store.path), "--out", str(out), *OPTIONS]
    with subprocess.Popen([*command, "--steps", "20"], stdout=subprocess.PIPE, text=True) as torchrun:
        wait_for(lambda: (out / "checkpoints").exists() and len(losses(out)) >= 4)
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        printed, _ = torchrun.communicate(timeout=200)
    assert torchrun.returncode == 0
    assert "resuming at step" in printed
    assert losses(out) == pytest.approx(losses(alone["20"]), rel=1e-3)


def test_an_error_of_rank_0_ends_the_others_at_once(store: stores.CueStore, tmp_path: Path) -> None:
    began = time.monotonic()
    command = [*launcher(1), "run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS]
    ranks = start_ranks([*command, "--score-data", str(tmp_path / "none")], world_size=2)
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "error: " in errors[0]
    assert "error: " not in errors[1]
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "expected RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT as torchrun sets them"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "expected LOCAL_RANK"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"},
            "expected MASTER_PORT as torchrun sets them, beside WORLD_SIZE=2 RANK=0",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": ""},
            "run `unset WORLD_SIZE RANK LOCAL_RANK MASTER_ADDR MASTER_PORT` first",
        ),
    ],
)
def test_an_incomplete_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LilaError, match=message), distributed.init("cpu"):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_never_comes_ends_the_wait(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    environment = environment_of(rank, world_size=2, port=free_port())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(LilaError, match=r"waited 1 s \(--join-timeout\) for all 2 ranks.*WORLD_SIZE=2.*MASTER_ADDR="),
        distributed.init("cpu", join_timeout=1.0),
    ):
        pass


@pytest.mark.filterwarnings("ignore")  # of wandb
def test_callbacks_communicate_with_no_rank(
    store: stores.CueStore, davis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = find_recipe("demo").config.replace(steps=1, batch_size=2, crop_size=32, channels=4, decoder_width=16)
    run_dir = RunDir.open(tmp_path / "run", config, store)
    trainer = Trainer(store, world.encoder(), config, run_dir, options=RunOptions(pictures_every=1))
    trainer.fit()

    def refuse(*_: object) -> None:
        raise AssertionError("a callback entered a collective")

    for name in ("all_reduce_sum", "barrier", "on_main", "together", "check_agreement"):
        monkeypatch.setattr(Rank, name, refuse)
    for name in ("all_reduce", "broadcast", "barrier", "all_gather"):
        monkeypatch.setattr(torch.distributed, name, refuse)
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = [open_logger(name, run_dir, config, 0) for name in ("tensorboard", "wandb")]
    callbacks = [*loggers, PictureCallback(1, loggers), ScoreCallback((1,), open_tasks(davis, 1), loggers)]
    assert {type(callback) for callback in callbacks} == {
        kind
        for kind in vars(callbacks_module).values()
        if getattr(kind, "__module__", "") == callbacks_module.__name__ and isinstance(kind, type)
    } - {Logger, DecoderSpec}
    for callback in callbacks:
        callback(trainer, StepRecord(0, 1.0, {"l1": 0.5, "edge": 0.5}, 1e-4, 0.1))
    for logger in loggers:
        logger.close()
    assert not any(isinstance(value, Rank) for value in vars(trainer.train_step).values())


def start_ranks(command: Sequence[str], world_size: int) -> list[subprocess.Popen[str]]:
    """Start ranks as a batch system does, without torchrun, so that each one's status is seen."""
    port = free_port()
    return [
        subprocess.Popen(
            command,
            env=os.environ | environment_of(rank, world_size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]


def environment_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(number) for name, number in numbers.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
