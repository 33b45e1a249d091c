"""The --device option."""

from __future__ import annotations

import pytest
import torch

from lila_cues.devices import choose_device
from stores.errors import LilaError


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        assert choose_device("auto") == torch.device(kind)


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(LilaError, match="expected a GPU for --device cuda, found none that PyTorch can use; pass"):
        choose_device("cuda")


def test_a_gpu_of_a_missing_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(LilaError, match="expected a GPU among cuda:0 to cuda:1 for --device cuda:2, found none"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["tpu9", "meta", "mps", "cuda:x", "cuda:-1", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(LilaError, match=f"expected --device auto, cpu or cuda, found {name}; pass one of these"):
        choose_device(name)
