"""From the options of a build to its config: device and profile, store, clips, share of the tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lila_cues.cli import app, build
from lila_cues.config import PROFILES, BuildConfig, RunOptions, parse_shard, spread
from lila_cues.networks import registry
from lila_cues.pipeline import setup
from lila_cues.pipeline.build import tasks_of_shard
from lila_cues.sampling import anchors_and_gaps
from stores.errors import LilaError
from tests.lila_cues import small_networks


def test_the_default_profile_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BuildConfig.resolve({"dataset": "kinetics"}, "cuda:1").profile == "small"
    assert BuildConfig.resolve({"dataset": "kinetics"}, "cpu").profile == "tiny"
    assert BuildConfig.resolve({"dataset": "demo"}, "cuda").profile == "tiny"
    large = BuildConfig.resolve({"dataset": "kinetics", "profile": "large", "flow": "raft_small"}, "cpu")
    assert (large.flow, large.flow_updates, large.encoder) == ("raft_small", None, "dinov2_vitl14")
    assert BuildConfig.resolve({"dataset": "kinetics", "profile": "large", "encoder": None}, "cpu").flow_updates == 20
    with pytest.raises(LilaError, match="expected a profile among tiny, small, base, large, found huge"):
        BuildConfig.resolve({"dataset": "kinetics", "profile": "huge"}, "cpu")


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_name_networks_that_exist_and_sizes_that_fit(profile: str) -> None:
    config = BuildConfig.resolve({"dataset": "videos", "profile": profile}, "cpu")
    assert config.encoder in registry.names(registry.ENCODER)
    assert config.depth in registry.names(registry.DEPTH)
    assert config.flow in registry.names(registry.FLOW)
    assert config.feature_size <= config.cue_size <= config.base_size
    anchors_and_gaps(config.frames, config.pairs)


def test_networks_of_a_profile_can_be_replaced() -> None:
    small = BuildConfig.resolve({"dataset": "videos", "profile": "small"}, "cpu")
    given = {"dataset": "videos", "profile": "small", "encoder": None, "depth": "files:maps", "flow": "dis"}
    assert BuildConfig.resolve(given, "cpu") == replace(small, depth="files:maps", flow="dis", flow_updates=None)


@pytest.mark.parametrize(
    ("given", "device", "noted"),
    [
        ({"dataset": "demo"}, "cpu", False),
        ({"dataset": "demo"}, "cuda", False),
        ({"dataset": "kinetics"}, "cuda:1", False),
        ({"dataset": "kinetics"}, "cpu", True),
        ({"dataset": "kinetics", "depth": "tiny"}, "cpu", False),
    ],
)
def test_the_tiny_profile_is_noted_where_it_is_used_for_want_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], device: str, noted: bool
) -> None:
    monkeypatch.setattr(setup, "load_networks", lambda config, device: small_networks.networks())
    monkeypatch.setattr(setup, "choose_device", lambda name: device)
    notes: list[str] = []
    setup.setup({**given, "decoder": "pyav"}, RunOptions(), notes.append)
    assert [note.startswith("no GPU here: profile tiny") for note in notes] == [True] * noted


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"profile": "tiny"}, []),
        ({"profile": "small"}, []),
        ({"profile": "base"}, ["depth_anything_v2_base is under CC-BY-NC-4.0: neither it nor what is made with it"]),
        ({"profile": "large"}, ["depth_anything_v2_large is under CC-BY-NC-4.0: neither it nor what is made with it"]),
        ({"profile": "large", "depth": "files:maps"}, []),
    ],
)
def test_non_commercial_licences_are_noted(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: list[str]
) -> None:
    monkeypatch.setattr(setup, "load_networks", lambda config, device: small_networks.networks())
    notes: list[str] = []
    setup.setup({"dataset": "videos", "decoder": "pyav", **given}, RunOptions(device="cpu"), notes.append)
    assert [note.split(" may be")[0] for note in notes] == expected


def test_licences_are_noted_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = small_networks.networks()
    monkeypatch.setattr(setup, "load_networks", lambda config, device: loaded if notes else pytest.fail("loaded first"))
    notes: list[str] = []
    given = {"dataset": "kinetics", "profile": "large", "decoder": "pyav"}
    config, options, networks = setup.setup(given, RunOptions(device="cpu"), notes.append)
    assert "CC-BY-NC" in notes[0]
    assert (config, options, networks) == (BuildConfig.resolve(given, "cpu"), RunOptions(device="cpu"), loaded)


GIVEN = {
    "dataset": "videos", "limit": 7, "seed": 3, "decoder": "pyav", "max_gap": 2, "extra_cues": "normals",
    "profile": "base", "encoder": "e", "encoder_weights": "ew", "depth": "d", "depth_weights": "dw", "flow": "f",
    "flow_weights": "fw", "flow_updates": 9, "attention": "xformers", "precision": "bfloat16", "compiled": True,
}  # fmt: skip


def test_every_option_of_a_build_reaches_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[dict[str, object], RunOptions]] = []
    monkeypatch.setattr(build, "run", lambda *arguments: calls.append(arguments) or 0)
    words = [word for name, value in GIVEN.items() if name != "compiled" for word in (_option(name), str(value))]
    run = ["--root", "r", "--store", "s", "--device", "cpu", "--only-failed", "--max-failures", "4", "--workers", "2"]
    run += ["--scheduler", "tcp://x", "--shard", "1/3"]
    for given in (["--dataset", "demo"], [*words, "--compile", *run]):
        app(["build", *given], standalone_mode=False)
    defaults = {"seed": 0, "decoder": "decord", "attention": "sdpa", "precision": "float32", "compiled": False}
    assert calls[0] == ({**dict.fromkeys(GIVEN), "dataset": "demo", **defaults}, RunOptions())
    assert calls[1] == (GIVEN, RunOptions(Path("r"), Path("s"), "cpu", True, 4, 2, "tcp://x", (1, 3)))
    parsed = {**GIVEN, "extra_cues": ("normals",)}
    config = vars(BuildConfig.resolve(parsed, "cpu"))
    assert {name: config[name] for name in GIVEN} == parsed


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_the_default_store_is_named_after_its_dataset() -> None:
    assert build.default_store("kinetics") == Path("cues/kinetics.zarr")


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(("patch_size", "grid"), [(14, {"tiny": 8}), (16, {"tiny": 7}), (8, {"tiny": 14})])
def test_the_encoder_sees_the_cue_grid_to_a_patch(name: str, patch_size: int, grid: dict[str, int]) -> None:
    config = BuildConfig.resolve({"dataset": "videos", "profile": name}, "cpu")
    geometry = config.geometry(patch_size, width=50)
    side = grid.get(name, 224 // patch_size)
    assert (geometry.encoder, config.encoder_input(patch_size)) == ((side, side), (side * patch_size,) * 2)
    assert geometry.channels == min(50, config.channels)


def test_a_limit_is_spread_over_the_list() -> None:
    clips = [str(index) for index in range(101)]
    assert spread(clips, 5) == ["0", "25", "50", "75", "100"]
    assert spread(clips, 1) == ["0"]
    assert spread(clips, 500) == clips
    assert len(set(spread(clips, 37))) == 37


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/4", "1/", "0/0"])
def test_a_share_is_i_of_n(text: str) -> None:
    with pytest.raises(LilaError, match=f"expected --shard i/n with i from 0 to n−1, found {text}"):
        parse_shard(text)
    assert parse_shard("1/4") == (1, 4)
    assert parse_shard(None) == (0, 1)


def test_shares_are_disjoint_and_complete() -> None:
    shares = [list(tasks_of_shard(range(50), (index, 7))) for index in range(7)]
    assert sorted(task for share in shares for task in share) == list(range(50))
