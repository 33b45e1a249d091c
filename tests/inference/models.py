"""A model with random weights, small enough for tests, and its checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from lila_cues.networks import load_encoder
from lila_train import checkpoint
from lila_train.decoder import Decoder, DecoderWidths
from lila_train.model import Lila


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
