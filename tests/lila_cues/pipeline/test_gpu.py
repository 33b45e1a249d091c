"""Cues computed on a GPU equal those of a CPU, and the device's time is measured per part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lila_cues.datasets import open_dataset
from lila_cues.pipeline.cues import CueExtractor
from lila_cues.pipeline.frames import load_clip
from tests.lila_cues import barcodes, small_networks
from tests.lila_cues.barcodes import Clip

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_cues_of_a_gpu_are_those_of_a_cpu(tmp_path: Path) -> None:
    barcodes.write(tmp_path / "a.mp4", Clip(frames=20, size=(72, 96)))
    config = small_networks.CONFIG
    frames = load_clip(open_dataset("videos", tmp_path), "a.mp4", config, config.encoder_input(8), None)
    cues = {}
    for device in ("cpu", f"cuda:{torch.cuda.device_count() - 1}"):
        extractor = CueExtractor(small_networks.networks(), config, device)
        (predictions,) = extractor.predict([frames])
        assert predictions.inverse_depth.device.type == torch.device(device).type
        cues[device[:4]] = extractor.on_host(predictions)
        seconds = extractor.timer.take()
        assert {"to device", "encoder", "depth", "flow", "pamr"} == set(seconds)
        assert min(seconds.values()) >= 0
    for name in ("depth", "flow_forward", "flow_backward", "features", "features_raw"):
        one, other = getattr(cues["cpu"], name), getattr(cues["cuda"], name)
        np.testing.assert_allclose(one, other, atol=1e-3 * np.abs(one).max(), err_msg=name)
