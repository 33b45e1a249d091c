"""The device of each rank. Runs on several ranks are in test_step.py."""

from __future__ import annotations

import pytest
import torch

from lila_train.training.distributed import rank_device
from stores.errors import LilaError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize("local_rank", [0, 1])
def test_each_rank_has_the_gpu_of_its_number(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, name: str, local_rank: int
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert rank_device(name) == torch.device("cuda", local_rank)
    assert rank_device("cpu") == torch.device("cpu")


def test_a_rank_without_a_gpu_is_refused(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(LilaError, match=r"found 2 for rank 2 .*--nproc-per-node 2 at most"):
        rank_device("auto")


def test_one_gpu_for_all_ranks_is_refused(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(LilaError, match="expected --device cuda with several ranks, a GPU each, found cuda:1"):
        rank_device("cuda:1")
