"""The harness: parts are kept, runs resumed, finished results returned, other folders refused; counted by calls."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lila_train.cli import app
from lila_train.evaluation import harness, protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.knn import KnnTask, knn_task
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.model.propagation import Propagation
from stores.config import differences
from stores.errors import LilaError
from tests.lila_train.evaluation.worlds import ColorModel, moving_squares, write_davis

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StandIn:
    """A model spec without a file; raises KeyboardInterrupt at the given call of the pixel map."""

    breaks_at: int | None = None
    name: str = "colours"
    calls: list[str] = field(default_factory=list)

    def heads(self):
        return ("encoder", "lila")

    def identity(self):
        return {"name": self.name}

    def load(self, device):
        return Counting(self)


@dataclass(frozen=True)
class Counting(ColorModel):
    """Counts calls of the pixel map."""

    spec: StandIn = field(default_factory=StandIn)

    def pixel_map(self, images):
        self.spec.calls.append("pixel_map")
        if len(self.spec.calls) == self.spec.breaks_at:
            raise KeyboardInterrupt
        return super().pixel_map(images)

    def __init__(self, spec):
        super().__init__()
        object.__setattr__(self, "spec", spec)


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    return write_davis(tmp_path / "davis")


def task_of(davis: Path, **changed) -> KnnTask:
    """davis-knn@lila on a coarse grid."""
    config = EvalConfig(**{"short_side": 48, **changed})
    return knn_task("davis-knn@lila", Propagation(grid_short_side=24, window=9), davis, config)


def run(davis: Path, out: Path, spec=None, overwrite=False, **changed):
    return harness.evaluate(task_of(davis, **changed), spec or StandIn(), out, CPU, overwrite=overwrite)


def test_a_result_records_protocol_counts_settings_and_scores(davis: Path, tmp_path: Path):
    result = run(davis, tmp_path / "out")
    assert result == json.loads((tmp_path / "out/result.json").read_text())
    assert result["protocol"] == "davis-knn@lila+short_side=48"
    assert result["counts"] == {"sequences": 2, "objects": 4, "frames": 10}
    assert result["settings"]["window"] == 9
    assert result["derived"]["grid_cells"] == [24, 32]
    assert result["derived"]["radius_native_px"] == 8.0
    assert list(result["scores"]) == ["encoder", "lila"]
    assert 0.9 < result["scores"]["lila"]["JF"] <= 1
    objects = [entry for part in result["parts"]["lila"].values() for entry in part["objects"]]
    assert result["scores"]["lila"]["J"] == pytest.approx(np.mean([np.mean(entry["region"]) for entry in objects]))


def test_predictions_are_indexed_pngs_of_the_native_size(davis: Path, tmp_path: Path):
    run(davis, tmp_path / "out")
    for head in ("encoder", "lila"):
        for name in ("one", "two"):
            files = sorted((tmp_path / "out/predictions" / head / name).iterdir())
            assert [path.name for path in files] == [f"{n:05d}.png" for n in range(5)]
            with Image.open(files[4]) as picture:
                assert (picture.mode, picture.size) == ("P", (64, 48))
                assert picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
                assert (np.asarray(picture) == moving_squares(5)[4]).mean() > 0.9


def test_a_model_is_identified_once(davis: Path, tmp_path: Path):
    asked = []

    class BaselineOptions(StandIn):
        def identity(self):
            asked.append(self.name)
            return super().identity()

    run(davis, tmp_path / "out", BaselineOptions())
    assert asked == ["colours"]  # weight files are hashed for it, which takes as long as reading them


def test_a_finished_evaluation_is_shown_without_computing(davis: Path, tmp_path: Path):
    first = run(davis, tmp_path / "out")
    again = StandIn()
    assert run(davis, tmp_path / "out", again) == first
    assert again.calls == []


def test_an_interrupted_run_resumes_with_the_unfinished_part(davis: Path, tmp_path: Path):
    whole = StandIn()
    expected = run(davis, tmp_path / "whole", whole)["scores"]
    with pytest.raises(KeyboardInterrupt):
        run(davis, tmp_path / "out", StandIn(breaks_at=8))
    rest = StandIn()
    resumed = run(davis, tmp_path / "out", rest)
    assert (resumed["scores"], resumed["earlier_parts"]) == (expected, 1)
    assert (len(whole.calls), len(rest.calls)) == (20, 15)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"spec": StandIn(name="other")}, r"model\.name: colours, not other"),
        ({"short_side": 40}, r"config\.short_side: 48, not 40; settings\.short_side_px: 48, not 40"),
        ({"limit": 1}, r"config\.limit: none, not 1; data\.sequences: one,two, not one; data\.files_sha256: "),
    ],
)
def test_a_folder_of_another_evaluation_is_refused(davis: Path, tmp_path: Path, change, named):
    run(davis, tmp_path / "out")
    with pytest.raises(
        LilaError, match=rf"out holds results of other settings \({named}.*with --overwrite, or pass an"
    ):
        run(davis, tmp_path / "out", **change)


def test_memory_changes_neither_identity_nor_scores(davis: Path, tmp_path: Path):
    first = run(davis, tmp_path / "out")
    small = replace(task_of(davis), memory=1)
    assert harness.evaluate(small, StandIn(), tmp_path / "small", CPU)["scores"] == first["scores"]
    assert harness.evaluate(small, StandIn(), tmp_path / "out", CPU) == first


def test_a_run_that_ended_before_it_computed_anything_leaves_the_folder_free(davis: Path, tmp_path: Path):
    class Unloadable(StandIn):
        def load(self, device):
            raise LilaError("no such weights")

    with pytest.raises(LilaError, match="no such weights"):
        run(davis, tmp_path / "out", Unloadable(name="other"))
    assert run(davis, tmp_path / "out")["counts"]["sequences"] == 2


def test_a_folder_with_other_files_is_refused(davis: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(LilaError, match=r"an empty folder or results of this command in .*out, found neither"):
        run(davis, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/thesis.tex").exists()


def test_overwrite_deletes_the_evaluation_alone_and_starts_again(davis: Path, tmp_path: Path):
    run(davis, tmp_path / "out")
    (tmp_path / "out/predictions/lila/two/00009.png").touch()
    (tmp_path / "out/thesis.tex").touch()
    again = StandIn(name="other")
    run(davis, tmp_path / "out", again, overwrite=True)
    assert json.loads((tmp_path / "out/identity.json").read_text())["model"] == {"name": "other"}
    assert len(again.calls) == 20
    assert not (tmp_path / "out/predictions/lila/two/00009.png").exists()
    assert (tmp_path / "out/thesis.tex").exists()


def test_an_evaluation_of_version_0_1_is_named(davis: Path, tmp_path: Path):
    run(davis, tmp_path / "out")
    identity = tmp_path / "out/identity.json"
    record = json.loads(identity.read_text())
    del record["config"]
    identity.write_text(json.dumps(record))
    with pytest.raises(LilaError, match=r"out holds .* written by 0\.1; start again with --overwrite"):
        run(davis, tmp_path / "out")
    assert run(davis, tmp_path / "out", overwrite=True)["config"]["short_side"] == 48


def test_the_place_of_text_embeddings_is_no_setting(davis: Path, tmp_path: Path):
    first = run(davis, tmp_path / "out", texts=tmp_path / "a.npy")
    assert first["config"]["texts"] == str(tmp_path / "a.npy")
    assert run(davis, tmp_path / "out", texts=tmp_path / "b.npy") == first


def test_a_file_in_place_of_the_folder_is_refused(davis: Path, tmp_path: Path):
    (tmp_path / "out").touch()
    with pytest.raises(LilaError, match=r"a folder for --out, found a file at .*out"):
        run(davis, tmp_path / "out")


@pytest.mark.parametrize("content", [b'{"frames": ', b"[1]", b"", b"\xff"])
def test_damaged_records_are_computed_again_and_a_damaged_identity_is_named(
    davis: Path, tmp_path: Path, content: bytes
):
    out = tmp_path / "out"
    expected = run(davis, out)
    for name in ("parts/encoder/one.json", "result.json"):
        (out / name).write_bytes(content)
    assert run(davis, out)["scores"] == expected["scores"]
    (out / "identity.json").write_text((out / "identity.json").read_text(), "utf-8-sig")
    assert run(davis, out)["scores"] == expected["scores"]
    (out / "identity.json").write_bytes(content)
    with pytest.raises(LilaError, match="the record of these results, is damaged; start again with --overwrite"):
        run(davis, out)
    assert run(davis, out, overwrite=True)["scores"] == expected["scores"]


def test_the_time_of_a_result_is_wall_time(davis: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Counting, "pixel_map", lambda self, images: time.sleep(0.1) or images - 0.4)
    result = harness.evaluate(task_of(davis), StandIn(), tmp_path / "out", CPU, workers=4)
    computed = [part["seconds"] for parts in result["parts"].values() for part in parts.values()]
    assert max(computed) < result["wall_seconds"] < sum(computed)


def test_parts_in_parallel_give_the_same_scores(davis: Path, tmp_path: Path):
    task = task_of(davis)
    one, other = (harness.evaluate(task, StandIn(), tmp_path / f"by{n}", CPU, workers=n) for n in (1, 3))
    assert one["scores"] == other["scores"]
    assert list(other["parts"]["lila"]) == ["one", "two"]


def test_the_cause_is_raised_when_one_of_several_parts_fails(davis: Path, tmp_path: Path, monkeypatch):
    def fail(self, images):
        raise LilaError("features that are not finite")

    monkeypatch.setattr(Counting, "pixel_map", fail)
    with pytest.raises(LilaError, match="features that are not finite"):
        harness.evaluate(task_of(davis), StandIn(), tmp_path / "out", CPU, workers=4)


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(harness, "usable_cores", lambda: 8)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert harness.default_workers(CPU) == 2
    assert harness.default_workers(torch.device("cuda")) == 1


def test_changed_data_are_noticed(davis: Path, tmp_path: Path):
    run(davis, tmp_path / "out")
    frame = davis / "JPEGImages/480p/two/00003.jpg"
    frame.write_bytes(frame.read_bytes() + b" ")
    with pytest.raises(LilaError, match=r"other settings \(data\.files_sha256: "):
        run(davis, tmp_path / "out")


def test_a_frame_of_another_size_is_named(davis: Path, tmp_path: Path):
    Image.new("RGB", (32, 32)).save(davis / "JPEGImages/480p/one/00002.jpg")
    with pytest.raises(LilaError, match=r"first mask, 64×48, found 32×32 in .*one/00002\.jpg"):
        run(davis, tmp_path / "out")


def test_unknown_protocols_and_missing_data_are_named(davis: Path, tmp_path: Path, monkeypatch):
    with pytest.raises(LilaError, match=r"one of davis-lp@lila, .*found davis-knn@"):
        protocols.open_task("davis-knn@", davis, EvalConfig())
    with pytest.raises(LilaError, match=r"--limit must be a whole number above 0 or none, found 0"):
        EvalConfig(limit=0)
    monkeypatch.setenv("LILA_DATA", str(tmp_path / "here"))
    with pytest.raises(
        LilaError, match=r"data set davis, found no folder at .*here/davis and data/davis; pass --data with the folder"
    ):
        protocols.open_task("davis-knn@lila", None, EvalConfig())
    (tmp_path / "here").mkdir()
    (tmp_path / "davis").rename(tmp_path / "here/davis")
    assert protocols.open_task("davis-knn@lila", None, EvalConfig()).counts()["sequences"] == 2


def test_differences_name_the_leaves():
    there, now = {"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"c": 1, "d": 3}, "e": 4}
    assert differences(there, now) == ["a: 1, not none", "b.d: 2, not 3", "e: none, not 4"]


def test_exactly_one_model_is_required(tmp_path: Path):
    with pytest.raises(LilaError, match=r"one model to score, found none; pass --weights"):
        ModelSpec()
    with pytest.raises(LilaError, match=r"found two"):
        ModelSpec(weights=tmp_path / "w", encoder="tiny")
    (tmp_path / "decoder.pt").touch()
    assert ModelSpec(weights=tmp_path / "decoder.pt", encoder="tiny").identity()["encoder"] == "tiny"
    with pytest.raises(
        LilaError, match=r"weight file at .*none\.pth, found none; give its place with --encoder-weights"
    ):
        ModelSpec(encoder="tiny", encoder_weights=tmp_path / "none.pth")
    with pytest.raises(LilaError, match=r"no weights at .*w; pass the folder of a run or its weights\.safetensors"):
        ModelSpec(weights=tmp_path / "w")


def test_the_list_names_every_protocol_with_its_metrics_and_settings(davis: Path):
    shown = CliRunner().invoke(app, ["eval", "--list"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in protocols.PROTOCOLS)
    assert "metrics   J&F, J mean, J recall, J decay, F mean, F recall, F decay\n" in shown.stdout
    assert "topk 5" in shown.stdout
    for name in ("davis-lp@lila", "davis-knn@lila", "davis-knn@dino"):
        entry, task = protocols.PROTOCOLS[name], protocols.open_task(name, davis, EvalConfig())
        assert (entry.settings, set(entry.metrics)) == (task.settings, set(task.metrics([])))


def test_settings_of_a_protocol_are_changed_by_name_and_refused_elsewhere(davis: Path):
    config = EvalConfig(topk=10, window=25, context_frames=4)
    task = protocols.open_task("davis-knn@lila", davis, config)
    assert (task.rule.topk, task.rule.window, task.rule.context_frames) == (10, 25, 4)
    named = task.config.evaluation_id(task.protocol)
    assert named == "davis-knn@lila+topk=10+context_frames=4"  # a window of 25 is the protocol's
    with pytest.raises(LilaError, match=r"--set topk, --set window, --set context_frames does not apply to davis-lp@"):
        protocols.open_task("davis-lp@lila", davis, config)
    with pytest.raises(LilaError, match="--texts does not apply to davis-knn@lila"):
        protocols.open_task("davis-knn@lila", davis, EvalConfig(texts="texts.npy"))
