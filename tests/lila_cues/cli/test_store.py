"""`plan`, `status`, `verify`, `repair`, `inspect`, `merge` as a person runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import stores
from lila_cues.cli import app
from lila_cues.cli import store as store_command
from lila_cues.config import BuildConfig
from lila_cues.networks import load_encoder
from lila_cues.networks.encoder import encoder_sizes
from lila_cues.pipeline.build import store_spec
from stores import StoreError
from stores.cues import ClipCues
from stores.store import CueStore
from stores.verify import Finding
from tests.full_disk import full_disk
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip
from tests.stores import worlds
from tests.stores.http_server import serve

CLIPS, FAILED = 7, 5


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def complete_store(tmp_path_factory: pytest.TempPathFactory) -> CueStore:
    store = worlds.create(tmp_path_factory.mktemp("commands") / "complete.zarr", CLIPS)
    worlds.fill(store, failing=[FAILED])
    store.publish_statuses()
    return store


@pytest.fixture
def store(complete_store: CueStore, tmp_path: Path) -> CueStore:
    shutil.copytree(complete_store.path, tmp_path / "cues.zarr")
    return stores.open(tmp_path / "cues.zarr")


def damage(store: CueStore, name: str, task: int) -> None:
    path = Path(store.path) / store.arrays[name].shard_key(task)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)


def test_status_counts_and_gives_reasons(store: CueStore) -> None:
    result = run("status", store.path)
    assert result.exit_code == 0
    assert "7 clips (6 complete, 1 failed), 4 frames and 3 pairs each" in result.stdout
    assert "failed 1 × clip 5 cannot be decoded" in result.stdout
    assert "--only-failed" in result.stdout


def test_status_reads_a_bounded_number_of_records(store: CueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds.fill(many := worlds.create(Path(store.path).with_name("many.zarr"), 40), failing=range(40))
    read, records = many.ledger.latest(0), list[int]()
    monkeypatch.setattr(store_command, "READ_RECORDS", 3)
    monkeypatch.setattr("stores.ledger.decode", lambda data, key: (records.append(1), read)[1])
    result = run("status", many.path)
    assert "40 clips (40 failed)" in result.stdout
    assert "… these are the reasons in 3 of 10 tasks with failed clips" in result.stdout
    assert len(records) == 6  # three for the bytes, three for the reasons


def test_status_of_a_store_that_is_being_built(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", CLIPS)
    with store.lock_task(1):
        result = run("status", store.path)
    assert re.search(r"active: \S+ on 1 task\n", result.stdout)
    assert "next: run the same `lila-cues build` again to build the absent clips" in result.stdout


def test_verify_of_an_intact_store(store: CueStore) -> None:
    for options in ([], ["--quick"]):
        result = run("verify", store.path, *options)
        assert result.exit_code == 0
        assert "is intact: 6 of 7 clips complete" in result.stdout


def test_verify_repair_build(store: CueStore, tmp_path: Path) -> None:
    damage(store, "depth", 1)
    (Path(store.path) / "rgb" / "zarr.json").write_text("{}")
    result = run("verify", store.path, "--report", tmp_path / "report.json")
    assert result.exit_code == 1
    assert "chunk: depth/c.1.0.0.0: its checksum does not match (clips 4)" in result.stdout
    assert "is damaged: 1 of 6 complete clips have to be built again" in result.stdout
    assert len(json.loads((tmp_path / "report.json").read_text())["findings"]) == 2
    result = run("repair", store.path, "--report", tmp_path / "report.json")
    assert result.exit_code == 0
    assert "repaired: rgb/zarr.json: rewritten" in result.stdout
    assert "1 clip to be built again" in result.stdout
    assert worlds.fill(store) == 1
    assert run("verify", store.path).exit_code == 0


def test_what_is_no_report(store: CueStore, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    result = run("repair", store.path, "--report", tmp_path / "other.json")
    with pytest.raises(StoreError, match="is no report of `lila-cues verify --report`"):
        raise result.exception or AssertionError


def test_a_full_disk_leaves_no_half_report(store: CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("chunk", "x" * 5000, "damaged")
    monkeypatch.setattr(store_command, "_check", lambda *arguments: [finding])
    with full_disk():
        result = run("verify", store.path, "--report", tmp_path / "report.json")
    assert f"no space left in {tmp_path} while writing report.json" in str(result.exception)
    assert not (tmp_path / "report.json").exists()


def test_many_findings_are_cut_short(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 24, replace(worlds.SPEC, shard_clips=1))
    worlds.fill(store)
    store.publish_statuses()
    for task in range(store.n_tasks):
        damage(store, "depth", task)
    assert "and 4 more (--report FILE keeps them all)" in run("verify", store.path).stdout


@pytest.mark.parametrize("wrong", [False, True])
def test_deep_verification_computes_again(store: CueStore, monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    def recompute(clip: int) -> ClipCues:
        """Stands for the recorded networks: the cues as they were, or those of another clip."""
        return worlds.cues(clip + 1 if wrong else clip, store.spec.geometry)

    monkeypatch.setattr("lila_cues.pipeline.task.load_recompute", lambda *arguments: recompute)
    result = run("verify", store.path, "--deep", 2)
    assert result.exit_code == int(wrong)
    assert ("recomputed, 1 % of it deviates by more than" in result.stdout) == wrong


def test_verify_over_http_is_refused(store: CueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stores.ledger.Ledger.keys", lambda ledger: None)
    with pytest.raises(StoreError, match="cannot be listed, so its ledger cannot be checked; verify a copy"):
        raise run("verify", store.path).exception or AssertionError


def test_inspect_shows_tables_and_pictures(store: CueStore, tmp_path: Path) -> None:
    result = run("inspect", store.path, "--out", tmp_path / "look", "--count", 2)
    assert result.exit_code == 0
    assert re.search(r"\nflow_forward +pair 3 flow_axis 2 y 8 x 10 +int16 +", result.stdout)
    picture = np.asarray(Image.open(tmp_path / "look" / "sheet.png"))
    assert picture.shape[0] > 2 * 224
    page = (tmp_path / "look" / "index.html").read_text()
    assert page.count("<img") == 2 * 9
    assert "://" not in page.replace("data:image", "")


def test_inspect_writes_beside_the_store_or_for_a_url_into_the_working_directory(
    store: CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert run("inspect", store.path, "--count", 1).exit_code == 0
    assert (tmp_path / "cues-inspection/sheet.png").is_file()
    with serve(tmp_path) as address:
        assert run("inspect", f"{address}/cues.zarr", "--count", 1).exit_code == 0
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["cues-inspection"]


def test_inspect_of_one_clip_shows_all_its_pairs(store: CueStore, tmp_path: Path) -> None:
    for clip in (store.clip_id(3), "3"):
        assert run("inspect", store.path, "--clip", clip, "--out", tmp_path / "look").exit_code == 0
        assert (tmp_path / "look" / "index.html").read_text().count("<h3>") == 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--clip", "nobody"],
            r"has no clip 'nobody'; give a number from 0 to 6 or a name such as 'class é/clip_00000",
        ),
        (["--pair", "3"], r"pair 3 is not among the 3 that a clip of .* has; take 0 to 2"),
        (["--clip", "5"], r"clip 5 of .* is failed"),
    ],
)
def test_inspect_of_what_is_not_there(store: CueStore, tmp_path: Path, options: list[str], complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint):
        raise run("inspect", store.path, "--out", tmp_path / "look", *options).exception or AssertionError


def test_inspect_of_an_empty_store(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", CLIPS)
    with pytest.raises(StoreError, match=r"no clip of .* is complete yet; run `lila-cues build` first"):
        raise run("inspect", store.path).exception or AssertionError


def test_merge_from_the_command_line(store: CueStore, tmp_path: Path) -> None:
    other = worlds.create(tmp_path / "other.zarr", CLIPS)
    worlds.fill(other, tasks=[1])
    result = run("merge", tmp_path / "all.zarr", store.path, other.path)
    assert result.exit_code == 0
    assert "7 of 7 clips complete" in result.stdout


def test_plan_before_and_within_a_build(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(20):
        (root / f"{number}.mp4").write_bytes(b"")
    barcodes.write(root / "0.mp4", Clip(frames=2, size=(64, 80)))
    options = ["--dataset", "videos", "--root", root, "--store", tmp_path / "cues.zarr", "--profile", "tiny"]
    result = run("plan", *options, "--rate", 10)
    assert result.exit_code == 0, result.exception
    assert "clips        20" in result.stdout
    assert "GPU hours    0.00444 at 10 frames/s" in result.stdout
    saving, _, costing = result.stdout.partition("larger images of a network cost\n")
    levers = [line.split() for line in saving.splitlines() if line.startswith("--")]
    saved = {" ".join(words[:-4]): words[-4:] for words in levers}
    assert list(saved) == [
        "--set frames=4 --set pairs=3", "--base-size 64", "--rgb-codec jpeg", "--feature-size 28", "--set channels=24",
        "--shard-clips 128",
    ]  # fmt: skip
    assert saved["--set frames=4 --set pairs=3"][2:] == ["0", "0.00222"]
    assert saved["--shard-clips 128"][2:] == ["14", "0"]
    assert [line.split("=")[0] for line in costing.splitlines()[:3]] == [
        "--set encoder_size", "--set depth_size", "--set flow_size",
    ]  # fmt: skip
    assert "--set encoder_size=476" in costing
    assert f"{(476 / 112) ** 2:.1f} times the network's pixels" in costing
    assert f"frames of 64 px are enlarged to 240: --base-size 64 saves {' '.join(saved['--base-size 64'][:2])}" in (
        result.stdout
    )
    worlds.fill(worlds.create(tmp_path / "cues.zarr", CLIPS), tasks=[0])
    result = run("plan", *options)
    assert "57% of it done" in result.stdout
    assert "hours" not in result.stdout
    assert "--base-size" not in result.stdout, "the sizes of a store are fixed"
    assert "clips        7" in result.stdout
    result = run("plan", *options, "--rate", 0)
    assert isinstance(result.exception, StoreError)
    assert "the rate is 0.0 frames per second; give one above 0" in str(result.exception)


@pytest.mark.parametrize(
    ("encoder", "sizes"),
    [
        ("dinov2_vits14", (14, 384)),
        ("vit_tiny_patch16_224", (16, 192)),
        ("dinov3_vits16", (16, 384)),
        ("tiny", (8, 96)),
    ],
)
def test_the_sizes_of_an_encoder_need_no_weights(encoder: str, sizes: tuple[int, int]) -> None:
    assert encoder_sizes(encoder) == sizes


def test_the_planned_spec_is_the_built_one() -> None:
    config, encoder = BuildConfig.resolve({"dataset": "videos", "profile": "tiny"}), load_encoder("tiny")
    assert encoder_sizes("tiny") == (encoder.patch_size, encoder.width)
    assert store_spec(config, *encoder_sizes("tiny")).geometry == config.geometry(encoder.patch_size, encoder.width)
