"""`lila-train run` end to end: files, resume, signals, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import stores
from lila_train import load
from lila_train.cli import app
from lila_train.model.sharing import model_card
from lila_train.training.config import RECIPES, TrainConfig, find_recipe
from lila_train.training.distributed import Rank
from lila_train.training.step import TrainStep
from lila_train.training.trainer import oom_hint
from stores.errors import LilaError
from tests.lila_train.evaluation import worlds
from tests.lila_train.training import world
from tests.stores.http_server import serve

OPTIONS = ["--recipe", "demo", "--batch-size", "2", "--crop-size", "32"]
OPTIONS += ["--set", "decoder_width=16", "--set", "channels=4"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, LilaError), result.output
    return str(result.exception)


def test_a_run_writes_its_files_and_a_finished_one_is_left_alone(store: stores.CueStore, tmp_path: Path) -> None:
    arguments = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), "--steps", "3", *OPTIONS]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    header = "".join(result.output.split())  # paths are folded at the terminal's width
    assert re.search(r"Training.*/runstore.*cues\.zarr,\d+clipsencoder\S+,frozen,license:\w+", header)
    assert re.search(r"trained[\d,]+parameters;8featuresapixel.*cuesflow,depth,features", header)
    assert f"next: lila-train features VIDEO --weights {tmp_path}/run" in result.output
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "weights.safetensors",
        "log.jsonl",
        "loss.png",
        "run.json",
        "tensorboard",
        "pictures",
        "checkpoints",
        ".lock",
    }
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["steps"] == 3
    assert record["settings"]["crop_size"] == 32
    assert "lr: 0.001, not 0.01" in refusal(*arguments, "--lr", "1e-2")
    written = (tmp_path / "run/weights.safetensors").stat().st_mtime_ns
    again = CliRunner().invoke(app, [*arguments])
    assert "this run is finished" in again.output
    assert (tmp_path / "run/weights.safetensors").stat().st_mtime_ns == written


@pytest.mark.filterwarnings("ignore")  # of wandb
def test_a_run_logs_to_wandb_offline_and_continues_the_same_wandb_run(
    store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS, "--logger"]
    for steps in ("11", "12"):
        done = CliRunner().invoke(app, [*arguments, "wandb", "--steps", steps])
        assert done.exit_code == 0, done.output
        assert (" left, at " in done.output) == (steps == "11")
    run_id = json.loads((tmp_path / "run/run.json").read_text())["wandb"]
    logs = sorted((tmp_path / "run/wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert b"train/loss" in logs[0].read_bytes()
    assert b"train/loss" in logs[-1].read_bytes()
    assert "expected --logger to be wandb" in refusal(*arguments, "mlflow", "--steps", "13")
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install 'lila-pixels[wandb]'" in refusal(*arguments, "wandb", "--steps", "13")


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_resume_finishes_the_run(
    store: stores.CueStore, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "lila_train", "run", "--store", str(store.path), "--out", str(out)]
    command += ["--steps", "100000", *OPTIONS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        wait_for(lambda: (out / "log.jsonl").exists() and len((out / "log.jsonl").read_text().splitlines()) > 2)
        process.send_signal(sent)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert "the same command continues" in printed
    (checkpoint,) = (out / "checkpoints").iterdir()
    steps = int(checkpoint.stem.removeprefix("step-"))
    assert steps == len((out / "log.jsonl").read_text().splitlines())
    command[command.index("100000")] = "1"
    fewer = subprocess.run([*command], capture_output=True, text=True)
    assert (fewer.returncode, f"expected --steps of {steps} at least" in fewer.stderr) == (2, True), fewer.stderr
    command[command.index("1")] = str(steps + 2)
    done = subprocess.run([*command], capture_output=True, text=True, check=True)
    assert f"resuming at step {steps} of {steps + 2}" in done.stdout
    assert len((out / "log.jsonl").read_text().splitlines()) == steps + 2


def test_a_signal_to_the_process_group_writes_a_checkpoint_and_leaves_no_process(
    store: stores.CueStore, tmp_path: Path
) -> None:
    """SLURM and systemd send SIGTERM to the loader processes as well."""
    log = tmp_path / "run/log.jsonl"
    command = [sys.executable, "-m", "lila_train", "run", "--store", str(store.path), "--out", str(log.parent)]
    command += ["--steps", "100000", "--num-workers", "2", *OPTIONS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as run:
        wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 2)
        os.killpg(run.pid, signal.SIGTERM)
        printed, errors = run.communicate(timeout=60)
    assert run.returncode == 143, errors
    assert "the same command continues" in printed
    (written,) = (log.parent / "checkpoints").iterdir()
    assert int(written.stem.removeprefix("step-")) == len(log.read_text().splitlines())
    wait_for(lambda: not is_alive(run.pid), seconds=30)  # multiprocessing's resource tracker ends last


def test_a_first_step_that_diverges_leaves_no_weights(store: stores.CueStore, tmp_path: Path) -> None:
    run = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS, "--steps", "1", "--lr", "1e30"]
    expected = r"stopped after step 1: weights or features are not finite: .* lower --lr \(now 1e\+30\)"
    assert re.match(expected, refusal(*run))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("bad_step", "message"),
    [
        (2, r"stopped at step 3: the loss is NaN for clip-\d, clip-\d, .* diverged; lower --lr \(now 0.001\)"),
        (3, r"stopped after step 4: weights or features are not finite: training diverged; lower --lr"),
    ],
)
def test_divergence_names_the_step_and_keeps_the_last_checkpoint(
    store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_step: int, message: str
) -> None:
    monkeypatch.setattr(TrainConfig, "learning_rate", lambda self, step: 1e30 if step == bad_step else 1e-3)
    run = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS, "--steps", "6"]
    assert re.match(message, refusal(*run, "--checkpoint-every", "2"))
    assert [path.name for path in (tmp_path / "run").rglob("*.safetensors")] == ["step-00000002.safetensors"]


def test_a_store_is_trained_on_by_its_url(store: stores.CueStore, tmp_path: Path) -> None:
    store.publish_statuses()  # as a build does at its end; a web server lists no folders
    with serve(Path(store.path).parent) as address:
        url = f"{address}/cues.zarr"
        arguments = ["run", "--store", url, "--out", str(tmp_path / "run"), "--steps", "1", *OPTIONS]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        study = ["ablate", "--store", url, "--data", str(tmp_path), "--out", str(tmp_path / "study")]
        opened = refusal(*study, "--set", "channels=4", "--protocol", "davis")
    assert json.loads((tmp_path / "run/run.json").read_text())["store"] == url
    assert opened.startswith("expected --protocol to be one of")  # which is checked after the store


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_invalid_options_are_refused(store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "")
    on = ["run", "--store", str(store.path), "--out", str(tmp_path / "run")]
    assert "--set channels asks for 32" in refusal(*on, "--recipe", "demo", "--crop-size", "32")
    assert "one of s14-youtube-vos" in refusal(*on, "--recipe", "nothing")
    assert "--precision must be float32 or bfloat16" in refusal(*on, *OPTIONS, "--precision", "int3")
    assert "--set schedule must be constant, cosine or step" in refusal(*on, *OPTIONS, "--set", "schedule=up")
    assert "--steps must be a whole number above 0" in refusal(*on, *OPTIONS, "--steps", "0")
    assert "--seed must be from 0" in refusal(*on, *OPTIONS, "--seed", "-1")
    assert "--set clip_norm must be a number above 0" in refusal(*on, *OPTIONS, "--set", "clip_norm=0")
    assert "expected a GPU for --device cuda, found none" in refusal(*on, *OPTIONS, "--device", "cuda") or _has_gpu()
    assert "expected --device" in refusal(*on, *OPTIONS, "--device", "abacus")
    assert "expected a C++ compiler for --compile" in refusal(*on, *OPTIONS, "--device", "cpu", "--compile")
    assert not (tmp_path / "run").exists()


def test_any_setting_can_be_set_by_name(store: stores.CueStore, tmp_path: Path) -> None:
    arguments = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), "--steps", "1", *OPTIONS]
    words = [
        "--set",
        "objective=erm",
        "--set",
        "cues=flow,depth",
        "--set",
        "query_area=0.5,0.9",
        "--set",
        "roles=mirrored",
    ]
    result = CliRunner().invoke(app, [*arguments, *words])
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert (settings["objective"], settings["cues"], settings["roles"]) == ("erm", ["flow", "depth"], "mirrored")
    assert settings["query_area"] == [0.5, 0.9]
    for word, message in {
        "ridge": "expected --set NAME=VALUE, found ridge",
        "rigde=1": r"expected --set to name one of steps, .*ridge, .*; found rigde, did you mean ridge\?",
        "width=1": r"found width, did you mean decoder_width\?",
        "ridge=soft": "--set ridge must be a number",
        "ridge=-1": "ridge must be a number above 0, found -1",
        "roles=both": "--set roles must be forward or mirrored, found both",
        "detach=1": "--set detach must be true or false, found 1",
        "query_area=0.5": "--set query_area must be 2 numbers with a comma between, found 0.5",
        "query_area=0.5,1.5": "query_area must be two area fractions",
        "base_hflip=2": "base_hflip must be from 0 to 1, found 2",
        "cues=flow,sound": "cues must be some of flow, depth, normals, features, found sound",
    }.items():
        assert re.search(message, refusal(*arguments[:-2], *OPTIONS, "--set", word)), word


def test_recipes_are_listed_with_settings_that_can_be_set() -> None:
    listed = CliRunner().invoke(app, ["recipes"]).output
    assert all(name in listed for name in RECIPES)
    assert "published: DAVIS J&F 68.6" in listed
    shown = CliRunner().invoke(app, ["recipes", "demo"]).output
    assignments = [line.strip() for line in shown.splitlines() if "=" in line]
    base = find_recipe("s14-youtube-vos").config
    assert base.replace(**TrainConfig.parse_assignments(assignments)) == find_recipe("demo").config
    assert "one of s14-youtube-vos" in refusal("recipes", "nothing")


def test_scores_and_pictures_are_written_during_a_run(store: stores.CueStore, tmp_path: Path) -> None:
    worlds.write_davis(tmp_path / "davis")
    arguments = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS, "--pictures-every", "2"]
    arguments += ["--score-data", str(tmp_path / "davis"), "--score-every", "2"]
    result = CliRunner().invoke(app, [*arguments, "--steps", "3"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "run/scores.jsonl").read_text().splitlines()]
    protocols = ["davis-knn@lila", "davis-lp@lila"]
    assert [(line["step"], line["protocol"]) for line in lines] == [(s, p) for s in (2, 3) for p in protocols]
    assert all(0 <= line["figures"]["JF"] <= 1 for line in lines)
    model = load(tmp_path / "run")
    assert model.provenance is not None
    assert model.provenance.scores == lines[2:], "of the last step, for the model card"
    results = model_card(model, "me/lila").data.eval_results
    assert ("davis-lp@lila", "JF", lines[3]["figures"]["JF"]) in [
        (each.dataset_type, each.metric_type, each.metric_value) for each in results
    ]
    assert sorted(p.name for p in (tmp_path / "run/pictures").iterdir()) == ["step-00000002.png", "step-00000003.png"]
    written = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [event.step for event in written.Scalars("train/loss")] == [0, 1, 2]
    assert [event.step for event in written.Scalars("score/davis-knn@lila/JF")] == [2, 3]
    assert [event.step for event in written.Images("cues")] == [2, 3]


def test_a_missing_score_folder_is_refused_before_anything_is_written(store: stores.CueStore, tmp_path: Path) -> None:
    arguments = ["run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS]
    assert str(tmp_path / "none") in refusal(*arguments, "--score-data", str(tmp_path / "none"))
    assert not (tmp_path / "run").exists()


def test_a_store_without_a_cue_is_refused_before_anything_is_written(store: stores.CueStore, tmp_path: Path) -> None:
    empty = world.build(tmp_path / "empty.zarr", tasks=0)
    without = refusal("run", "--store", str(empty.path), "--out", str(tmp_path / "run"), *OPTIONS)
    assert "expected complete clips to train on" in without
    part = tmp_path / "part.zarr"
    shutil.copytree(store.path, part, ignore=shutil.ignore_patterns("depth", "features_raw"))
    arguments = ["run", "--store", str(part), "--out", str(tmp_path / "run"), *OPTIONS, "--steps", "1"]
    assert "this run learns from depth, but" in refusal(*arguments)
    raw = refusal(*arguments, "--set", "distilled=raw", "--set", "cues=flow,features")
    assert "has no features_raw; copy the whole store, or leave the cue out with --set cues=flow" in raw
    never = refusal(*arguments, "--set", "cues=flow,normals")
    assert "has no normals or depth; build one with --extra-cues normals, or leave the cue out" in never
    assert not (tmp_path / "run").exists()
    result = CliRunner().invoke(app, [*arguments, "--set", "cues=flow,features"])
    assert result.exit_code == 0, result.output


def test_out_of_memory_names_the_options_that_save_memory(
    store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainStep, "backward", lambda *_: torch.empty(10**15))
    message = refusal("run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS)
    assert "out of memory on cpu in a step of 2 pairs, 2 at once, at 32 px" in message
    assert "--device-batch-size 1 computes the same step in smaller parts" in message
    monkeypatch.setattr(TrainStep, "backward", lambda *_: torch.empty(2, 3) @ torch.empty(2, 3))
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        oom_hint(find_recipe("demo").config, Rank(), None),
    ):
        TrainStep.backward(None)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def test_a_missing_default_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal("run")
    assert "no cue store at cues/kinetics.zarr" in message
    assert "--store" in message
    assert "lila-cues build --dataset kinetics" in message


def test_a_max_gap_without_pairs_is_refused(tmp_path: Path) -> None:
    store = world.build(tmp_path / "cues.zarr", clips=1, gap=4)
    message = refusal("run", "--store", str(store.path), "--out", str(tmp_path / "run"), *OPTIONS, "--set", "max_gap=2")
    assert "expected pairs at most 2 frames apart" in message
