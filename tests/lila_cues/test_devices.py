"""The --device option, and the number of usable cores."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lila_cues import devices
from stores.errors import LilaError


def hardware(monkeypatch: pytest.MonkeyPatch, gpus: int, apple: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: apple)


@pytest.mark.parametrize(
    ("gpus", "apple", "mps", "kind"),
    [
        (1, False, False, "cuda"),
        (1, True, True, "cuda"),
        (0, False, True, "cpu"),
        (0, True, True, "mps"),
        (0, True, False, "cpu"),
    ],
)
def test_auto_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpus: int, apple: bool, mps: bool, kind: str
) -> None:
    hardware(monkeypatch, gpus, apple)
    assert devices.choose("auto", mps=mps) == torch.device(kind)


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware(monkeypatch, 0, False)
    with pytest.raises(LilaError, match="expected a GPU for --device cuda, found none that PyTorch can use; pass"):
        devices.choose("cuda")
    with pytest.raises(LilaError, match="expected a GPU for --device mps, found none that PyTorch can use; pass"):
        devices.choose("mps", mps=True)


def test_a_gpu_of_a_missing_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware(monkeypatch, 2, False)
    assert devices.choose("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(LilaError, match="expected a GPU among cuda:0 to cuda:1 for --device cuda:2, found none"):
        devices.choose("cuda:2")


@pytest.mark.parametrize("name", ["tpu9", "meta", "mps:0", "cpu:1", "cuda:x", "cuda:-1", "cuda ", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(LilaError, match=f"expected --device auto, cpu or cuda, found {name}; pass one of these"):
        devices.choose(name)
    with pytest.raises(LilaError, match=f"expected --device auto, cpu, cuda or mps, found {name}; pass one of these"):
        devices.choose(name, mps=True)


def test_apple_gpus_are_for_inference_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware(monkeypatch, 0, True)
    assert devices.choose("mps", mps=True) == torch.device("mps")
    with pytest.raises(LilaError, match="found mps, which has no float64 for this command; pass one of these"):
        devices.choose("mps")


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/a/job\n", {"a/job/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "cpu.max": "max 100000"}, 2),
        ("0::/elsewhere\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "9000000 100000"}, 8),
        ("4:memory:/\n3:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "9"}, 8),
        ("3:cpu,cpuacct:/x\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_usable_cores_are_those_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(devices, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(devices, "_CGROUPS", tmp_path)
    (tmp_path / "membership").write_text(membership)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert devices.usable_cores() == cores


def test_cores_are_counted_on_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(devices, "_MEMBERSHIP", tmp_path / "none")
    assert devices.usable_cores() == 5


@pytest.mark.parametrize(("cxx", "found"), [(None, "no g++"), ("", "no name in $CXX"), ("icpx", "no icpx")])
def test_compilation_without_a_compiler_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cxx: str | None, found: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CXX", raising=False) if cxx is None else monkeypatch.setenv("CXX", cxx)
    devices.require_compiler("cuda")
    with pytest.raises(LilaError, match=rf"for --compile on a CPU, found {re.escape(found)}; install g\+\+"):
        devices.require_compiler("cpu")


def test_counting_cores_does_not_import_torch() -> None:
    code = "import sys; from lila_cues import devices; devices.usable_cores(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
