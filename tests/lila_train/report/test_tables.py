"""Tables of results: published figures beside ours and marked, what is missing shown as missing."""

from __future__ import annotations

import csv
import io
import json
from html import escape
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lila_cues.networks.weights import file_sha256
from lila_train.cli import app
from lila_train.evaluation import harness, protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.results import read_result
from lila_train.report import tables
from lila_train.report.tables import markdown_table, paper_results
from stores.errors import LilaError
from tests.lila_cues.viz.test_html import check_self_contained
from tests.lila_train.evaluation.small_models import write_checkpoint
from tests.lila_train.evaluation.worlds import write_davis


def result(protocol: str = "davis-knn@lila", **scores: dict[str, float | None]) -> dict:
    counts = {"sequences": 2, "objects": 1}
    return {"protocol": protocol, "scores": scores, "counts": counts, "settings": {}, "model": {"encoder": "vit"}}


def test_measured_rows_stand_first_and_published_ones_are_marked():
    ours = result(encoder={"JF": 0.651, "J": 0.62}, lila={"JF": 0.7385, "J": None})
    (table,) = tables.tables([ours])
    lines = table.lines()
    assert table.head() == ["model", "weights", "protocol", "J&F", "J mean", "measured on", "source"]
    assert lines[0] == ["vit", "–", "davis-knn@lila", "65.1", "62.0", "2 sequences, 1 object", "measured"]
    assert lines[1][0] == "vit + LILA"
    assert lines[1][4] == "–"
    copied = lines[2:]
    assert len(copied) == 9
    assert all(line[6] == "published: LILA, arXiv 2604.26488" for line in copied)
    assert ["DINOv2-S14 + LILA", "–", "davis-knn@lila", "73.9", "–"] in [line[:5] for line in copied]


def test_rows_of_different_weights_can_be_told_apart():
    sources = {"encoder_weights": {"sha256": "e" * 64}}
    runs = [
        {"weights": "runs/a/weights.safetensors", "step": 150, "weights_sha256": "a1" * 32},
        {"weights": "lila_dinov2_vits14"},
        {"baseline": {"revision": "b2" * 20, "baseline_weights": "https://example.org/files/anyup.pth"}},
    ]
    heads = ["lila", "lila", "anyup"]
    results = [
        result(encoder={"JF": 0.5}, **{head: {"JF": 0.6}}) | {"model": {"encoder": "vit", **sources, **model}}
        for model, head in zip(runs, heads, strict=True)
    ]
    (table,) = tables.tables(results)
    assert [line[:2] for line in table.lines()[:4]] == [
        ["vit", "e" * 8],
        ["vit + LILA", "runs/a, step 150, a1a1a1a1"],
        ["vit + LILA", "lila_dinov2_vits14"],
        ["vit + anyup", "b2b2b2b2, anyup.pth"],
    ]


def test_changed_settings_stand_apart_from_the_protocol_and_the_published_scores():
    config = EvalConfig(topk=10, limit=3, clip="a/b", texts=Path("t.npy"))
    changed = config.evaluation_id("davis-knn@lila")
    assert changed == "davis-knn@lila+limit=3+texts=given+clip=a/b+topk=10"
    assert EvalConfig().evaluation_id("davis-knn@lila") == "davis-knn@lila"
    own, other = tables.tables([result(changed, lila={"JF": 0.7}), result(lila={"JF": 0.6})])
    assert (own.name, other.name) == ("davis-knn", "davis-knn-changed")
    assert {line[2] for line in own.lines()} == {"davis-knn@lila"}
    assert [line[2:4] for line in other.lines()] == [[changed, "70.0"]]
    assert other.title == "Video object segmentation, local k-NN: changed settings"


def test_davis_2016_and_the_sizes_of_dino_are_not_compared_with_others():
    names = "davis-knn@lila", "davis-knn@lila+year=2016", "davis-knn@dino960", "davis-knn@lila+limit=2+year=2016"
    own, other, changed = tables.tables([result(name, encoder={"JF": 0.5}) for name in names])
    assert [table.name for table in (own, other, changed)] == ["davis-knn", "davis-knn-2016", "davis-knn-changed"]
    assert other.title == "Video object segmentation, local k-NN, DAVIS-2016"
    assert [row.protocol for row in other.rows] == [names[1]]  # no published row
    assert {row.model for row in own.rows if row.protocol == names[2] and row.source != "measured"} == {"DINOv3-7B"}
    assert "davis-knn@dino" not in [row.protocol for row in own.rows]  # not measured, hence nothing to compare with


def test_each_task_has_a_table_with_the_protocols_in_its_rows():
    results = [
        result("davis-knn@lila", encoder={"JF": 0.5}),
        result("nyuv2-normals@lila", encoder={"rmse_deg": 29.713, "under_11.25": 0.2691}),
        result("davis-knn@dino", encoder={"JF": 0.6}),
    ]
    knn, normals = tables.tables(results)
    assert [line[2:4] for line in knn.lines()[:2]] == [["davis-knn@lila", "50.0"], ["davis-knn@dino", "60.0"]]
    assert normals.lines()[0][3:5] == ["29.71", "26.9"]
    assert normals.head()[3:5] == ["RMSE °", "< 11.25°"]


def test_the_same_result_twice_is_one_row():
    one = result(encoder={"JF": 0.5})
    (table,) = tables.tables([one, one])
    assert sum(row.source == "measured" for row in table.rows) == 1


def test_markdown_and_csv_hold_the_same_cells():
    settings = {"window": 25, "side": None, "seed": 0}
    (table,) = tables.tables([result(lila={"JF": 0.7, "a|b": 0.125}) | {"settings": settings}])
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert [row[:-1] for row in rows] == [table.head(), *table.lines()]
    assert [row[-1] for row in rows[:3]] == ["settings", "window 25, seed 0", ""]
    markdown = table.markdown().splitlines()
    assert markdown[0] == "## Video object segmentation, local k-NN"
    assert len(markdown) == 2 + 2 + len(table.rows) + 2
    assert markdown[-1] == "- `davis-knn@lila`: window 25, seed 0"
    assert "a\\|b" in markdown[2]
    assert "| 0.125 |" in markdown[4]
    assert markdown[5].startswith("| *DINOv2-S14* |")


@pytest.mark.parametrize(
    ("protocol", "model", "name", "figure"),
    [
        ("davis-lp@lila", "DINOv2-S14", "JF", 0.575),
        ("davis-lp@lila", "DINOv2-B14 + LILA", "JF", 0.704),
        ("davis-knn@lila", "DINOv2-S14 + FeatUp", "JF", 0.655),
        ("davis-knn@dino", "DINOv3-7B", "JF", 0.711),
        ("davis-knn@dino960", "DINOv3-7B", "JF", 0.797),
        ("nyuv2-normals@lila", "DINOv2-L14 + LILA (Kinetics)", "rmse_deg", 24.04),
        ("cocostuff27@lila", "DINOv2-S14 + LILA", "pixel_accuracy", 0.798),
    ],
)
def test_published_metrics(protocol, model, name, figure):
    (row,) = [row for row in paper_results(protocol) if row.model == model]
    assert row.metrics[name] == pytest.approx(figure)
    assert row.protocol == protocol


def test_unpublished_metrics_are_missing():
    (row,) = [row for row in paper_results("nyuv2-normals@lila") if row.model == "DINOv2-B14"]
    assert "under_11.25" not in row.metrics


def test_the_command_writes_page_markdown_and_spreadsheets(tmp_path: Path):
    data = write_davis(tmp_path / "davis", ("one",), count=4)
    weights = write_checkpoint(tmp_path / "weights.safetensors")
    for protocol in ("davis-knn@lila", "davis-knn@dino"):
        task = protocols.open_task(protocol, data, EvalConfig(short_side=48))
        harness.evaluate(task, ModelSpec(weights=weights), tmp_path / protocol, torch.device("cpu"))
    small = tmp_path / "davis-knn@lila/result.json"
    small.write_text(small.read_text().replace("davis-knn@lila+short_side=48", "davis-knn@lila"))
    asked = ["report", str(tmp_path / "davis-knn@lila"), str(tmp_path / "davis-knn@dino/result.json")]
    shown = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "report")], catch_exceptions=False)
    assert shown.exit_code == 0
    page = (tmp_path / "report/index.html").read_text()
    check_self_contained(page)
    assert page.count("<h4>one: difference, ") == 2
    assert page.count('<tr class="published">') == 9
    rows = list(csv.reader((tmp_path / "report/davis-knn.csv").read_text().splitlines()[1:]))
    assert all(f">{escape(cell)}</td>" in page for row in rows for cell in row[:-1])
    assert rows[1][1] == f"{tmp_path}, step 0, {file_sha256(weights)[:8]}"
    assert page.count('src="data:image/jpeg') >= 8
    assert "davis-knn@dino+short_side=48" in (tmp_path / "report/davis-knn-changed.csv").read_text()
    assert "*published: LILA" in (tmp_path / "report/tables.md").read_text()


def test_a_table_without_its_data_says_so(tmp_path: Path):
    folder = tmp_path / "old"
    folder.mkdir()
    gone = result(encoder={"JF": 0.5}) | {"data_root": str(tmp_path / "gone"), "parts": {"encoder": {}}}
    (folder / "result.json").write_text(json.dumps(gone))
    CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "The predictions or the data behind" in (tmp_path / "out/index.html").read_text()


def test_other_files_than_results_are_refused(tmp_path: Path):
    with pytest.raises(LilaError, match=r"a result of lila-train eval at .*none, found none; pass the folder"):
        read_result(tmp_path / "none")
    other = tmp_path / "other.json"
    other.write_text('{"protocol": "x", "counts": {}}')
    with pytest.raises(LilaError, match=r"in .*other\.json, found one without scores, settings"):
        read_result(other)
    kept = {"protocol": "x", "counts": {}, "settings": {}, "scores": {"lila": {"JF": None}}}
    for change, message in (
        ({"protocol": 3}, "found other JSON"),
        ({"scores": [1]}, "found other JSON"),
        ({"scores": {"lila": 0.5}}, "found other JSON"),
        ({"scores": {"lila": {"JF": "high"}}}, "expected numbers as scores in .*, found others"),
    ):
        other.write_text(json.dumps(kept | change))
        with pytest.raises(LilaError, match=message):
            read_result(other)


def test_names_are_no_markup_in_markdown():
    assert "| a\\|b &lt;img> |" in markdown_table(["name"], [["a|b <img>"]])
