"""`load`: from a checkpoint to a model that runs."""

from __future__ import annotations

from pathlib import Path

import torch

from lila_cues.networks import restore_encoder
from lila_train import checkpoint
from lila_train.model import Fit, Lila
from stores.errors import LilaError


def load(
    weights: str | Path,
    *,
    device: str | torch.device = "cpu",
    encoder_weights: str | Path | None = None,
    fit: Fit = "pad",
) -> Lila:
    """The model of a checkpoint that `lila-train run` wrote, ready to be called on images.

    The encoder comes from where the run had it: the package, the hub, or a local file. `encoder_weights` names another
    place of the same file; its hash is checked against the recorded one. Raises LilaError where something is missing.
    """
    found = checkpoint.read(Path(weights))
    encoder = restore_encoder(found.provenance.encoder, encoder_weights, device)
    decoder = found.build_decoder()
    if encoder.width != decoder.widths.encoder:
        raise LilaError(
            f"the decoder in {weights} reads {decoder.widths.encoder} channels, the encoder {encoder.name} gives "
            f"{encoder.width}; these weights belong to another backbone"
        )
    return Lila(encoder, decoder, fit).to(device).eval()
