"""Cues computed on a GPU equal those of a CPU, and the device's time is measured per part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lila_cues.pipeline.cues import CueExtractor
from tests.lila_cues.pipeline.test_queueing import CONFIG, clip, networks

pytestmark = pytest.mark.gpu
CUES = ("depth", "flow_forward", "flow_backward", "features", "features_raw")


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.01), ("bfloat16", 0.03)])
def test_cues_of_a_gpu_are_those_of_a_cpu(precision: str, tolerance: float) -> None:
    """ViT-S, RAFT large and Depth Anything small with random weights; the CPU computes in float32."""
    (expected,) = (exact := CueExtractor(networks("cpu", "float32"), CONFIG, "cpu")).predict([clip("b")])
    device = f"cuda:{torch.cuda.device_count() - 1}"
    extractor = CueExtractor(networks(device, precision), CONFIG.replace(precision=precision), device)
    predicted = extractor.predict([clip("a"), clip("b")])[1]
    assert predicted.inverse_depth.device.type == "cuda"
    one, other = exact.on_host(expected), extractor.on_host(predicted)
    seconds = extractor.timer.take()
    assert {"to device", "encoder", "depth", "flow", "pamr"} <= set(seconds)
    assert min(seconds.values()) >= 0
    for name in CUES:
        difference = np.linalg.norm(getattr(one, name) - getattr(other, name))
        assert difference <= tolerance * np.linalg.norm(getattr(one, name)), name
