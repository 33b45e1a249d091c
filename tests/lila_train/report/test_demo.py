"""The demo's page on a small run: its content, when it is kept, and what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lila_cues.viz.pictures import confidence
from lila_train.cli import app
from lila_train.evaluation import harness, protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.report import demo, sections, tables
from lila_train.report.demo import DemoInputs
from lila_train.training.run_dir import RunDir
from stores import Geometry, StoreSpec
from stores.errors import LilaError
from tests.lila_cues.viz.test_html import check_self_contained
from tests.lila_train.evaluation.small_models import write_checkpoint
from tests.lila_train.evaluation.worlds import write_davis
from tests.stores import worlds as stored

CPU = torch.device("cpu")
GEOMETRY = Geometry(frames=3, pairs=2, base=(24, 32), cue=(12, 16), features=(6, 8), encoder=(3, 4), channels=5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run as `make demo` leaves it, of untrained networks."""
    base = tmp_path_factory.mktemp("demo")
    root = base / "run"
    store = stored.create(root / "cues.zarr", 3, StoreSpec(GEOMETRY, shard_clips=2))
    stored.fill(store, failing=[0])
    log = [{"wall": 2.0, "seconds": {"flow": 1.5}}, {"wall": 1.0, "seconds": {"flow": 0.5, "depth": 0.25}}]
    (root / "cues.zarr/build.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    run = RunDir(root / "train")
    run.root.mkdir(parents=True)
    write_checkpoint(run.weights)
    rows = [{"step": n, "loss": 2 / (n + 1), "l1": 1 / (n + 1), "edge": 1 / (n + 1)} for n in range(30)]
    run.log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.record.write_text(json.dumps({"settings": {"crop_size": 112}, "seconds": {"steps": 7.0}}))
    data = write_davis(base / "heldout", ("one", "two", "three"), count=4)
    task = protocols.open_task("davis-knn@lila", data, EvalConfig(short_side=48))
    harness.evaluate(task, ModelSpec(weights=run.weights), root / "eval", CPU)
    return root


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return demo.write_demo_report(finished, CPU)[0].read_text()


def test_the_page_is_one_file_with_everything_in_it(page: str):
    check_self_contained(page)
    assert page.count("<h1>") == 1
    assert "Demonstration on rendered scenes" in page
    for title in ("Video object segmentation", "Masks", "Features on held-out frames", "The cues", "Training"):
        assert f"<h2>{title}" in page
    assert page.count('src="data:image/') == 3 * 4 + 6 * 3 + 2 * 9 + 2  # masks, features, cues, color wheel, losses
    assert page.count("data:image/svg+xml;") == 1  # the losses
    assert page.count('<td class="bar">') == 3


def test_the_summary_has_the_scores_of_the_result(finished: Path, page: str):
    summary = json.loads((finished / "report/summary.json").read_text())
    result = json.loads((finished / "eval/result.json").read_text())
    assert set(summary["davis-knn"]) == {"encoder", "lila"}
    for head, figures in summary["davis-knn"].items():
        assert figures == {name: result["scores"][head][name] for name in ("J", "F", "JF")}
        assert f"{100 * figures['JF']:.1f}" in page
    expected = {"cues": 3.0, "cues: flow": 2.0, "cues: depth": 0.25, "training": 7.0}
    assert {name: summary["seconds"][name] for name in expected} == expected
    assert {"evaluation", "report"} <= set(summary["seconds"])
    assert summary["settings"]["training"] == {"crop_size": 112}
    assert "do not compare with published" in summary["note"]


def test_a_page_for_the_same_inputs_is_kept(finished: Path, page: str):
    shown = CliRunner().invoke(app, ["report", "--demo", str(finished)])
    assert shown.exit_code == 0
    assert "index.html (up to date)" in shown.output.replace("\n", "")


def test_a_page_for_other_inputs_is_written_again(finished: Path, page: str, tmp_path: Path):
    root = shutil.copytree(finished, tmp_path / "run")
    record = json.loads((root / "train/run.json").read_text())
    (root / "train/run.json").write_text(json.dumps(record | {"seconds": {"steps": 9.0}}))
    assert demo.write_demo_report(root, CPU)[1]
    assert json.loads((root / "report/summary.json").read_text())["seconds"]["training"] == 9.0
    assert not demo.write_demo_report(root, CPU)[1]


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("cues.zarr", r"the cue store at .*cues\.zarr, found nothing there; make it with `lila-cues build`"),
        ("train/run.json", r"the record of the training run at .*run\.json.*`lila-train run`"),
        ("train/weights.safetensors", r"the trained weights at .*weights\.safetensors"),
        ("eval/result.json", r"the evaluation's result at .*`lila-train eval davis-knn@lila`"),
    ],
)
def test_what_is_missing_is_named(finished: Path, tmp_path: Path, lost: str, named: str):
    root = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    path = root / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(LilaError, match=named):
        demo.write_demo_report(root, CPU)


def test_a_store_without_a_complete_clip_is_refused(tmp_path: Path):
    store = stored.create(tmp_path / "cues.zarr", 2, StoreSpec(GEOMETRY))
    with pytest.raises(LilaError, match=r"a complete clip in .*cues\.zarr, found none"):
        sections.cue_section(store)


def test_results_or_a_demo_must_be_given():
    shown = CliRunner().invoke(app, ["report"])
    assert isinstance(shown.exception, LilaError)
    assert "pass RESULTS or --demo DIR" in str(shown.exception)


def test_the_pair_with_the_most_motion_is_shown(finished: Path):
    store = DemoInputs(finished).store
    lengths = [np.nanmean(np.hypot(*store.pair(1, n).flow_forward)) for n in range(2)]
    assert sections.pair_with_most_motion(store, 1) == int(np.argmax(lengths))


def test_confidence_is_one_where_flows_cancel_and_falls_with_the_error():
    still, back = np.zeros((2, 8, 10), np.float32), np.zeros((2, 8, 10), np.float32)
    back[0] = 0.25  # of a frame 10 wide: 0.05 half-image units
    np.testing.assert_allclose(confidence(still, still), 1)
    np.testing.assert_allclose(confidence(still, back), np.exp(-1), rtol=1e-5)


def test_largest_median_and_smallest_gain_are_shown(finished: Path):
    result = DemoInputs(finished).davis
    gains = {}
    for name in ("one", "two", "three"):
        encoder, lila = (result.metrics(head, name)["JF"] for head in ("encoder", "lila"))
        gains[name] = lila - encoder
    found = result.examples()
    ranks = [word.partition(",")[0] for _, word in found]
    assert ranks == ["largest difference", "median difference", "smallest difference"]
    assert [gains[name] for name, _ in found] == sorted(gains.values(), reverse=True)


def test_differences_are_colored_by_improvement():
    assert demo.points(0.5, 0.521) == ("+2.1", "gain")
    assert demo.points(0.5, 0.521, lower_is_better=True) == ("+2.1", "loss")
    assert demo.points(0.521, 0.5) == ("−2.1", "loss")
    assert demo.points(0.521, 0.5, lower_is_better=True) == ("−2.1", "gain")
    assert demo.points(None, 0.5) == demo.points(0.5, None) == (tables.percent(None), "") == ("–", "")
