"""A model with random weights, small enough for tests, its checkpoint, and a video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lila_cues.networks import load_encoder
from lila_cues.video.writer import VideoWriter
from lila_train.model import checkpoint
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.model.lila import Lila


def small_model(seed: int = 0) -> Lila:
    """The packaged tiny encoder (patch 8) and an untrained decoder of 8 channels per pixel."""
    encoder = load_encoder("tiny")
    torch.manual_seed(seed)
    return Lila(encoder, Decoder(DecoderWidths.of_encoder(encoder.width, inner=16))).eval()


def write_weights(path: Path, model: Lila | None = None) -> Path:
    """A checkpoint of it, as a run writes it."""
    model = model or small_model()
    provenance = checkpoint.Provenance(model.encoder.source, model.decoder.widths, 0, {}, {}, checkpoint.versions())
    checkpoint.write(path, model.decoder, provenance)
    return path


def write_test_video(path: Path, frames: int = 7, size: tuple[int, int] = (36, 50), seed: int = 0) -> Path:
    """A video of blobs that drift to the right."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 6, size[1] // 6, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, Fraction(25)) as writer:
        for index in range(frames):
            writer.write(np.roll(picture, 2 * index, axis=1))
    return path
