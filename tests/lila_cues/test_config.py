"""A build's config: from options and profiles, as a recipe in JSON, as a fingerprint; the clips and share of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stores
from lila_cues.config import PROFILES, BuildConfig, parse_shard, spread
from lila_cues.networks import registry
from lila_cues.sampling import anchors_and_gaps
from stores.errors import LilaError
from tests.lila_cues import small_networks
from tests.lila_cues.small_networks import CONFIG


def test_the_default_profile_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BuildConfig.resolve({"dataset": "kinetics"}, device="cuda:1").profile == "small"
    assert BuildConfig.resolve({"dataset": "kinetics"}).profile == "tiny"
    assert BuildConfig.resolve({"dataset": "demo"}, device="cuda").profile == "tiny"
    large = BuildConfig.resolve({"dataset": "kinetics", "profile": "large", "flow": "raft_small"})
    assert (large.flow, large.flow_updates, large.encoder) == ("raft_small", None, "dinov2_vitl14")
    assert BuildConfig.resolve({"dataset": "kinetics", "profile": "large", "encoder": None}).flow_updates == 20
    with pytest.raises(LilaError, match="expected a profile among tiny, small, base, large, found huge"):
        BuildConfig.resolve({"dataset": "kinetics", "profile": "huge"})


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_name_networks_that_exist_and_sizes_that_fit(profile: str) -> None:
    config = BuildConfig.resolve({"dataset": "videos", "profile": profile})
    assert config.encoder in registry.names(registry.ENCODER)
    assert config.depth in registry.names(registry.DEPTH)
    assert config.flow in registry.names(registry.FLOW)
    assert config.feature_size <= config.cue_size <= config.base_size
    anchors_and_gaps(config.frames, config.pairs)


@pytest.mark.parametrize(
    ("profile", "device", "precision"),
    [("small", "cpu", "float32"), ("small", "cuda:1", "bfloat16"), ("tiny", "cuda", "float32")],
)
def test_networks_run_in_half_precision_on_a_gpu(profile: str, device: str, precision: str) -> None:
    options = {"dataset": "videos", "profile": profile}
    assert BuildConfig.resolve(options, device=device).precision == precision
    assert BuildConfig.resolve({**options, "precision": "float16"}, device=device).precision == "float16"


def test_networks_of_a_profile_can_be_replaced() -> None:
    small = BuildConfig.resolve({"dataset": "videos", "profile": "small"})
    given = {"dataset": "videos", "profile": "small", "encoder": None, "depth": "files:maps", "flow": "dis"}
    assert BuildConfig.resolve(given) == small.replace(depth="files:maps", flow="dis", flow_updates=None)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(("patch_size", "grid"), [(14, {"tiny": 8}), (16, {"tiny": 7}), (8, {"tiny": 14})])
def test_the_encoder_sees_the_cue_grid_to_a_patch(name: str, patch_size: int, grid: dict[str, int]) -> None:
    config = BuildConfig.resolve({"dataset": "videos", "profile": name})
    geometry = config.geometry(patch_size, width=50)
    side = grid.get(name, 224 // patch_size)
    assert (geometry.encoder, config.encoder_input(patch_size)) == ((side, side), (side * patch_size,) * 2)
    assert geometry.channels == min(50, config.channels)


def test_settings_survive_json() -> None:
    config = CONFIG.replace(extra_cues=("normals",))
    assert BuildConfig.from_dict(json.loads(json.dumps(config.to_dict())), "s.zarr") == config


def test_settings_are_taken_from_a_store_or_a_file(tmp_path: Path) -> None:
    spec = stores.StoreSpec(small_networks.GEOMETRY)
    stores.create(tmp_path / "s.zarr", spec, ["a"], {}, {"settings": CONFIG.to_dict()})
    (tmp_path / "settings.json").write_text(json.dumps(CONFIG.to_dict()))
    for place in ("s.zarr", "settings.json"):
        taken = BuildConfig.resolve({"dataset": "frames"}, ["seed=3"], tmp_path / place)
        assert taken == CONFIG.replace(dataset="frames", seed=3)
    with pytest.raises(LilaError, match="expected a cue store or a JSON file"):
        BuildConfig.resolve({"dataset": "frames"}, (), tmp_path / "absent.zarr")
    with pytest.raises(LilaError, match="--profile or --config, found both"):
        BuildConfig.resolve({"dataset": "frames", "profile": "tiny"}, (), tmp_path / "s.zarr")


def test_the_fingerprint_is_of_what_shapes_the_data_and_not_of_places() -> None:
    weights = small_networks.networks().records()
    same = CONFIG.fingerprint(weights)
    changes = {"seed": 1, "max_gap": 1, "decoder": "decord", "dataset": "frames", "pamr_sigma": 0.1, "cue_size": 64,
               "precision": "bfloat16"}  # fmt: skip
    for name, value in changes.items():
        assert CONFIG.replace(**{name: value}).fingerprint(weights) != same
    for name, value in {"encoder_weights": "e.pth", "limit": 3, "profile": "small", "compile": True}.items():
        assert CONFIG.replace(**{name: value}).fingerprint(weights) == same
    moved = {kind: {**record, "location": "other"} for kind, record in weights.items()}
    assert CONFIG.fingerprint(moved) == same
    assert CONFIG.fingerprint({**weights, "flow": {**weights["flow"], "sha256": "other"}}) != same
    maps, others = (CONFIG.replace(depth=f"files:{place}") for place in ("a", "b"))
    assert maps.fingerprint(weights) == others.fingerprint(weights) != same


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
