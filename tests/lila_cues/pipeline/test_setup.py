"""What the user is told before networks are loaded."""

from __future__ import annotations

import pytest

from lila_cues.config import BuildConfig
from lila_cues.pipeline import setup


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
def test_non_commercial_licences_are_noted(given: dict[str, str], expected: list[str]) -> None:
    notes: list[str] = []
    setup.check_settings(BuildConfig.resolve({"dataset": "videos", **given}), notes.append)
    assert [note.split(" may be")[0] for note in notes] == expected


def test_all_networks_run_in_the_precision_of_the_build() -> None:
    weights = {"encoder_weights": "random:1", "depth_weights": "random:1", "flow_weights": "random:1"}
    config = BuildConfig.resolve({"dataset": "videos", "profile": "tiny", "flow": "raft_small", **weights})
    records = setup.load_networks(config.replace(precision="bfloat16"), "cpu").records()
    assert [record["settings"]["precision"] for record in records.values()] == ["bfloat16"] * 3
