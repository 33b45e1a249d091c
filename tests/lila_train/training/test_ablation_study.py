"""`lila-train ablate`: rows trained, scored and kept; its tables hold what was found and what was published."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import stores
from lila_cues import networks
from lila_cues.networks import FrozenEncoder
from lila_train.cli import app
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.protocols import open_task
from lila_train.model import lila
from lila_train.report import ablations
from lila_train.report.ablations import table_rows, write_ablations
from lila_train.training import trainer
from lila_train.training.ablation_study import Finding, RowScores, Score, Study
from lila_train.training.ablations import FULL, ROWS
from lila_train.training.ablations import rows as rows_named
from lila_train.training.config import RunOptions, TrainConfig
from lila_train.training.distributed import Rank
from stores.errors import LilaError
from tests.lila_cues.viz.test_html import check_self_contained
from tests.lila_train.evaluation import worlds
from tests.lila_train.training import world

SMALL = ["batch_size=2", "decoder_width=16", "crop_size=32", "channels=4", "cells=8"]


def finding(erm: Mapping[int, float], protocol: str = "davis-knn@lila") -> Finding:
    rows = [
        RowScores(FULL, {0: 80.0, 1: 82.0, 2: 84.0}, by_sequence={"cows": 84.0, "dog": 80.0}),
        RowScores(ROWS["erm"], erm, by_sequence={"cows": 50.5, "dog": 70.0}),
    ]
    return Finding(protocol, Score(70.0, {"cows": 75.0, "dog": 65.0}), rows)


def test_a_table_compares_the_seeds_that_both_rows_have() -> None:
    encoder, full, erm = table_rows(finding({0: 79.0, 1: 79.0}))
    assert encoder == ["frozen encoder", "70.0", "–", "–", "−12.0", "–", "–", "–"]
    assert full == ["LILA", "82.0", "2.0", "3", "–", "+12.0", "73.9", "–"]
    assert erm == ["A: ERM distillation", "79.0", "0.0", "2", "−2.0", "+9.0", "61.1", "−12.8"]
    by_probe = table_rows(finding({}, "davis-lp@lila"))
    assert by_probe[2] == ["A: ERM distillation", "–", "–", "0", "–", "–", "63.2", "−5.4"]


def test_the_files_hold_every_protocol(tmp_path: Path) -> None:
    findings = [finding({0: 79.0}), finding({0: 60.0}, "davis-lp@lila")]
    losses = {"LILA": [[0.3, 0.2, 0.1], [0.3, 0.1]], "A: ERM distillation": [[0.9] * 3]}
    write_ablations(tmp_path, findings, "On what, and how.", losses)
    rows = list(csv.reader((tmp_path / "ablations.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["protocol", *["davis-knn@lila"] * 3, *["davis-lp@lila"] * 3]
    assert rows[6][1:3] == ["A: ERM distillation", "60.0"]
    for name in ("ablations.md", "ablations.html"):
        text = (tmp_path / name).read_text()
        assert "On what, and how." in text
        assert "davis-knn@lila" in text
        assert "davis-lp@lila" in text
        assert "objective=erm" in text  # what the row changes
        assert "28.53" in text  # the paper's normals of the full model
        assert "50.5" in text  # a sequence of one row
    check_self_contained((tmp_path / "ablations.html").read_text())
    assert (tmp_path / "ablations.html").read_text().count("data:image/svg+xml;") == 3
    assert "<svg" in (tmp_path / "ablations-davis-lp@lila.svg").read_text()


def test_the_chart_over_steps_shows_what_was_scored_on_the_way() -> None:
    full = RowScores(FULL, {0: 80.0, 1: 82.0}, {0: {1: 71.0, 2: 80.0}, 1: {1: 75.0, 2: 82.0}})
    erm = RowScores(ROWS["erm"], {0: 60.0})  # at its end alone
    scored, bare = Finding("davis-knn@lila", Score(70.0), [full, erm]), Finding("davis-lp@lila", Score(70.0), [erm])
    losses = {"LILA": [[0.3, 0.1], [0.5, 0.3, 0.2]], "A: ERM distillation": [[]]}
    assert b"davis-knn@lila" in ablations.steps_chart([scored, bare], losses)
    assert b"davis-lp@lila" not in ablations.steps_chart([scored, bare], losses)
    np.testing.assert_allclose(ablations.mean_loss(losses["LILA"]), [0.4, 0.2])
    step = ablations.mean_loss([[1.0] * 60 + [3.0] * 60])  # rises over 51 steps, as much before it as after it
    np.testing.assert_allclose(step[[0, 34, 59, 60, 85, 119]], [1, 1, 2 - 1 / 51, 2 + 1 / 51, 3, 3])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


def test_a_study_trains_and_scores_and_resumes(
    store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[object] = []

    def restore(*arguments: object) -> FrozenEncoder:
        restored.append(arguments)
        return networks.restore_encoder(*arguments)  # type: ignore[arg-type]

    for module in (lila, trainer):
        monkeypatch.setattr(module, "restore_encoder", restore)
    worlds.write_davis(tmp_path / "davis")
    arguments = ["ablate", "--store", str(store.path), "--data", str(tmp_path / "davis"), "--rows", "erm"]
    arguments += ["--out", str(tmp_path / "out"), "--steps", "2", "--limit", "1"]
    arguments += [word for name in SMALL for word in ("--set", name)]
    first = CliRunner().invoke(app, [*arguments, "--seeds", "1", "--score-at", "1,2"])
    assert first.exit_code == 0, first.output
    assert len(restored) == 1, "one encoder for all rows, seeds and protocols"
    line = r"^2 of 2, seed 0: A: ERM distillation: J&F \d+\.\d by davis-knn@lila \([\d.]+ \w+\)$"
    assert re.search(line, first.output, re.MULTILINE)
    scored = [json.loads(line) for line in (tmp_path / "out/full/seed-0/scores.jsonl").read_text().splitlines()]
    assert [(line["step"], line["counts"]["sequences"]) for line in scored] == [(1, 1)]
    assert "davis-knn@lila+limit=1" in (tmp_path / "out/ablations-steps.svg").read_text()
    by_sequence = [
        line for line in (tmp_path / "out/ablations.md").read_text().splitlines() if "frozen encoder" in line
    ]
    assert by_sequence[1] == "| sequence | frozen encoder | LILA | A: ERM distillation |"
    wrong = CliRunner().invoke(app, [*arguments, "--score-at", "1,soon"])
    assert "expected --score-at to be numbers of steps such as 500,1000, found 1,soon" in str(wrong.exception)
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("weights.safetensors")}
    assert {str(path.relative_to(tmp_path / "out").parent) for path in weights} == {"full/seed-0", "erm/seed-0"}
    second = CliRunner().invoke(app, [*arguments, "--seeds", "2", "--vary", "lr=0.01"])
    assert second.exit_code == 0, second.output
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    table = list(csv.reader((tmp_path / "out/ablations.csv").read_text().splitlines()))
    assert [row[1] for row in table[1:]] == ["frozen encoder", "LILA", "A: ERM distillation", "lr=0.01"]
    assert [row[4] for row in table[2:]] == ["2", "2", "2"]
    assert table[4][7:] == ["–", "–"], "nothing is published for a variation"
    restored.clear()
    for changed, named in ((["--set", "ridge=1"], "training.ridge: 0.1, not 1"), (["--limit", "2"], "limit: 1, not 2")):
        other = CliRunner().invoke(app, [*arguments, "--seeds", "1", *changed])
        assert isinstance(other.exception, LilaError)
        assert f"{named}); pass those, start again with --overwrite" in str(other.exception)
    assert restored == [], "refused before a network is loaded"
    (tmp_path / "out/thesis.tex").touch()
    own = tmp_path / "out/mine/seed-0/run.json"
    own.parent.mkdir(parents=True)
    own.touch()
    again = CliRunner().invoke(app, [*arguments, "--seeds", "1", "--set", "ridge=1", "--overwrite"])
    assert again.exit_code == 0, again.output
    found = {str(path.relative_to(tmp_path / "out").parent) for path in (tmp_path / "out").rglob("weights.safetensors")}
    assert found == {"full/seed-0", "erm/seed-0"}
    assert (tmp_path / "out/thesis.tex").exists()
    assert own.exists()


def test_jobs_give_the_same_scores_and_are_resumed(store: stores.CueStore, tmp_path: Path) -> None:
    device, rows = torch.device("cpu"), rows_named("erm")
    task = open_task(
        "davis-knn@lila", worlds.write_davis(tmp_path / "davis", ("one",), 4), EvalConfig(short_side=48, window=3)
    )
    config = TrainConfig(steps=2, **TrainConfig.parse_assignments(SMALL))
    encoder, found = trainer.encoder_of_store(store, None, device), {}
    steps, lines, times = list[int](), list[tuple[str, dict[str, float]]](), list[dict[Path, int]]()
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        study = Study(store, encoder, config, [task], out, Rank(device=device), RunOptions(num_workers=0))
        steps.clear()
        lines.clear()
        for at_once in (jobs, 1):
            (finding,) = study.run(
                rows,
                [0],
                lambda name, new, loss: steps.append(new),
                lambda name, scores, seconds: lines.append((name, scores)),
                at_once,
            )
            times.append({path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")})
        found[jobs] = {scores.row.label: scores.by_seed for scores in finding.scores}
        assert sum(steps) == 2 * 2 * config.steps, "of two rows, in two calls"
        assert len(times[-1]) == 2
        assert times[-1] == times[-2], "finished rows are kept"
        assert len(lines) == 4
    assert found[2] == found[1]
    assert {name.partition(", ")[0] for name, _ in lines} == {"1 of 2", "2 of 2"}
    by_label = {name.partition("seed 0: ")[2]: scores["davis-knn@lila"].total for name, scores in lines}
    assert by_label == {label: by_seed[0] for label, by_seed in found[1].items()}


def test_a_protocol_without_published_ablations_is_refused(store: stores.CueStore, tmp_path: Path) -> None:
    arguments = ["ablate", "--store", str(store.path), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--set", "channels=4", "--protocol", "davis-knn@dino"])
    assert "expected --protocol to be one of davis-knn@lila, davis-lp@lila" in str(result.exception)
