"""A checkpoint of an untrained decoder on an untrained tiny encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from lila_cues.networks import load_encoder
from lila_train.model import checkpoint
from lila_train.model.checkpoint import Provenance
from lila_train.model.decoder import Decoder, DecoderWidths

ENCODER = ("tiny", "random:3")


def write_checkpoint(path: Path) -> Path:
    """Write the same weights at every call."""
    torch.manual_seed(0)
    encoder = load_encoder(*ENCODER)
    widths = DecoderWidths.of_encoder(encoder.width, inner=16)
    checkpoint.write(path, Decoder(widths), Provenance(encoder.source, widths, 0, {}, {}, {}))
    return path
