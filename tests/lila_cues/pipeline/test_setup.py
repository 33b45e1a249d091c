"""What the user is told before networks are loaded."""

from __future__ import annotations

import pytest

from lila_cues.config import BuildConfig, RunOptions
from lila_cues.pipeline import setup
from tests.lila_cues import small_networks


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
    monkeypatch.setattr(setup.devices, "choose", lambda name: device)
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
