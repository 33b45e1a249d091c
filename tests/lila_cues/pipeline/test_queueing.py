"""On a GPU, predicting a clip only queues work: counted on fake CUDA tensors, and by PyTorch's own check on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lila_cues import pamr
from lila_cues.config import BuildConfig
from lila_cues.networks import Execution, load_depth, load_encoder, load_flow
from lila_cues.pipeline.cues import CueExtractor
from lila_cues.pipeline.frames import ClipFrames
from lila_cues.pipeline.setup import Networks
from lila_cues.sampling import select_frames
from stores.spec import StoreSpec, arrays

CONFIG = BuildConfig.resolve({"dataset": "videos", "profile": "small"}).replace(
    base_size=140, cue_size=140, feature_size=70, frames=4, pairs=3, extra_cues=("normals",)
)
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Waits(TorchDispatchMode):
    """Lists what makes the host wait for a GPU: blocking copies from and to it, and values read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        queued = (kwargs or {}).get("non_blocking") or (len(args) > 2 and args[2])
        if func in READS and args[0].is_cuda:
            self.found.append(str(func))
        result = func(*args, **(kwargs or {}))
        kinds = {each.device.type for each in (*args, result) if isinstance(each, Tensor)}
        if func in COPIES and kinds == {"cpu", "cuda"} and not queued:
            self.found.append(str(func))
        return result


def networks(device: str = "cpu", precision: str = "bfloat16") -> Networks:
    how = Execution(precision)
    encoder = load_encoder("dinov2_vits14", "random:1", device, execution=how)
    flow = load_flow("raft_large", "random:1", device, updates=2, execution=how)
    return Networks(encoder, flow, load_depth("depth_anything_v2_small", "random:1", device, execution=how))


def clip(name: str = "a") -> ClipFrames:
    selection = select_frames(0, name, 60, CONFIG.frames, CONFIG.pairs, CONFIG.max_gap)
    images = np.random.default_rng(0).integers(0, 256, (CONFIG.frames, 140, 140, 3), np.uint8)
    return ClipFrames(name, selection, np.zeros(CONFIG.frames), images, {images.shape[1:3]: images}, None)


def move(network: nn.Module) -> None:
    """Replace all tensors of a network by fake ones on a GPU."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cuda"), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(buffer, device="cuda"))


class Stub:
    """Stands for streams, events and the current device, which need a driver."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Stub]:
        return Stub

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class Kernels:
    """Stands for the kernels, which take no fake tensors."""

    @staticmethod
    def affinity(guide: Tensor, *settings: object) -> Tensor:
        return torch.empty_like(guide)

    @staticmethod
    def iterate(maps: Tensor, *settings: object) -> Tensor:
        return torch.empty_like(maps)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    for name in ("Stream", "Event", "device", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Stub)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)  # its grid sampler takes no fake tensors
    return FakeTensorMode(allow_non_fake_inputs=True)


def test_a_pass_of_clips_makes_the_host_wait_for_nothing(fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pamr, "_gpu_kernels", lambda device: Kernels)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # which the extractor sets
    loaded = networks()
    extractor = CueExtractor(loaded, CONFIG, "cuda")
    with fake:
        for network in (loaded.encoder, loaded.flow, loaded.depth):
            move(network)  # type: ignore[arg-type]
        specs = arrays(StoreSpec(extractor.geometry, extra=()))
        with Waits() as waits:
            values = [extractor.quantize(each, specs) for each in extractor.predict([clip("a"), clip("b")])]
    assert waits.found == []
    for value in values[0].stored.values():
        assert isinstance(value, np.ndarray) or value.device.type == "cpu"


@pytest.mark.parametrize(
    "work",
    [
        lambda maps: maps.new_tensor([1.0, 2.0]),
        lambda maps: torch.arange(3).to(maps.device),
        lambda maps: maps.cpu(),
        lambda maps: torch.empty(3).copy_(maps),
        lambda maps: maps.nonzero(),
        lambda maps: float(maps[0]),
    ],
)
def test_what_makes_the_host_wait_is_found(fake: FakeTensorMode, work: Callable[[Tensor], object]) -> None:
    with fake, Waits() as waits:
        maps = torch.empty(3, device="cuda")
        with suppress(RuntimeError):  # a result that depends on values
            work(maps)
    assert len(waits.found) == 1


@pytest.mark.gpu
def test_a_gpu_waits_for_nothing() -> None:
    extractor = CueExtractor(networks("cuda"), CONFIG, "cuda")
    specs = arrays(StoreSpec(extractor.geometry, extra=()))
    for _ in range(2):  # the first one compiles kernels and allocates
        values = [extractor.quantize(each, specs) for each in extractor.predict([clip("a"), clip("b")])]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")
    assert values[0].failure() is None
