"""What a user asks, settled: the device and profile at hand, the store, the clips, the share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lila_cues.order import Order, parse_shard, spread
from lila_cues.pipeline import build, prepare
from stores.errors import LilaError


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(LilaError, match="expected a GPU for --device cuda, found none"):
        prepare.choose_device("cuda")
    assert prepare.choose_device("auto") == "cpu"


def test_the_profile_is_that_of_the_device_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert prepare.choose(Order("kinetics")).profile.name == "small"
    assert prepare.choose(Order("demo")).profile.name == "tiny"
    large = prepare.choose(Order("kinetics", profile="large", flow="raft_small"))
    assert large.profile.flow == "raft_small"
    assert any("CC-BY-NC" in note for note in large.notes), "told before anything is loaded"


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
    shares = [list(build.share_of(range(50), (index, 7))) for index in range(7)]
    assert sorted(task for share in shares for task in share) == list(range(50))
