"""What a user asks, settled: the device and profile at hand, the store, the clips, the share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lila_cues.cli import app, build
from lila_cues.config import Order, parse_shard, spread
from lila_cues.pipeline import setup
from lila_cues.pipeline.build import share_of
from stores.errors import LilaError


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(LilaError, match="expected a GPU for --device cuda, found none"):
        setup.choose_device("cuda")
    assert setup.choose_device("auto") == "cpu"


def test_the_profile_is_that_of_the_device_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert setup.choose(Order("kinetics")).profile.name == "small"
    assert setup.choose(Order("demo")).profile.name == "tiny"
    large = setup.choose(Order("kinetics", profile="large", flow="raft_small"))
    assert large.profile.flow == "raft_small"
    assert any("CC-BY-NC" in note for note in large.notes), "told before anything is loaded"


def test_a_gpu_of_a_number_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert setup.choose_device("cuda:1") == "cuda:1"
    with pytest.raises(LilaError, match="expected a GPU among cuda:0 to cuda:1 for --device cuda:2, found none"):
        setup.choose_device("cuda:2")


@pytest.mark.parametrize("name", ["tpu9", "meta", "mps", "cuda:x", "cuda:-1", ""])
def test_no_other_device_is_taken(name: str) -> None:
    with pytest.raises(LilaError, match=f"expected --device auto, cpu or cuda, found {name}; pass one of these"):
        setup.choose_device(name)


GIVEN = {
    "dataset": "videos", "root": "r", "store": "s", "profile": "base", "limit": 7, "seed": 3, "device": "cpu",
    "decoder": "pyav", "encoder": "e", "encoder_weights": "ew", "depth": "d", "depth_weights": "dw", "flow": "f",
    "flow_weights": "fw", "flow_updates": 9, "attention": "xformers", "precision": "bfloat16", "compiled": True,
    "max_gap": 2,
    "extra_cues": "normals",
}  # fmt: skip


def test_every_option_of_a_build_reaches_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[tuple[Order, build.Conduct]] = []
    monkeypatch.setattr(build, "conduct", lambda *asked: ordered.append(asked) or 0)
    words = [word for name, value in GIVEN.items() if name != "compiled" for word in (_option(name), str(value))]
    run = ["--only-failed", "--max-failures", "4", "--workers", "2", "--scheduler", "tcp://x", "--shard", "1/3"]
    for given in (["--dataset", "demo"], [*words, "--compile", *run]):
        app(["build", *given], standalone_mode=False)
    assert ordered[0] == (Order("demo"), build.Conduct())
    assert ordered[1] == (Order(**GIVEN), build.Conduct(True, 4, 2, "tcp://x", (1, 3)))  # type: ignore[arg-type]
    assert Order(**GIVEN).to_dict() == GIVEN  # type: ignore[arg-type]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_an_order_names_its_store() -> None:
    assert Order("kinetics").path == Path("cues/kinetics.zarr")
    assert Order("kinetics", store="elsewhere").path == Path("elsewhere")


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


def test_shares_are_disjoint_and_whole() -> None:
    shares = [list(share_of(range(50), (index, 7))) for index in range(7)]
    assert sorted(task for share in shares for task in share) == list(range(50))
