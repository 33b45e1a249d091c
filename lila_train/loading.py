"""`load`: from a name or a checkpoint to a model that runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lila_cues.networks import FrozenEncoder, WeightSource, encoder_from_tensors, load_encoder, restore_encoder
from lila_cues.networks.weights import file_sha256
from lila_train import checkpoint, published
from lila_train.decoder import Decoder
from lila_train.model import Fit, Lila
from lila_train.published import PUBLISHED
from lila_train.released import ReleasedCheckpoint, read_released
from stores.errors import LilaError

LICENCE = "apache-2.0"  # of DINOv2's weights, which published files hold


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    encoder_weights: str | Path | None = None,
    fit: Fit = "pad",
) -> Lila:
    """A model ready to be called on images: of `lila-train run`, or one that the paper's authors have published.

    `name_or_path`: the weights.safetensors of a run, a published .pt file, or the name of a published one
    (lila_dinov2_vits14, …vitb14, …vitl14, …vitl14_kts), which is downloaded when it is first needed. `dtype`:
    torch.bfloat16 or torch.float16 for a model of half the size; float32 if None.

    The encoder comes from inside a published file, or from where the run had it: the package, the hub, or a local
    file. `encoder_weights` names another place of it; its hash is checked where one is recorded. Raises LilaError where
    something is missing or of another backbone.
    """
    name = str(name_or_path)
    path = published.obtain(name) if name in PUBLISHED else _existing(name)
    named = PUBLISHED[name].encoder if name in PUBLISHED else None
    provenance = None
    if path.suffix == ".safetensors":
        found = checkpoint.read(path)
        provenance, decoder = found.provenance, found.build_decoder()
        encoder = restore_encoder(provenance.encoder, encoder_weights, device)
    else:
        encoder, decoder = _published(path, named, encoder_weights, device)
    if encoder.width != decoder.widths.encoder:
        raise LilaError(
            f"the decoder in {path} reads {decoder.widths.encoder} channels, the encoder {encoder.name} gives "
            f"{encoder.width}; these weights belong to another backbone"
        )
    model = Lila(encoder, decoder, fit).to(device=device, dtype=dtype).eval()
    model.provenance = provenance
    return model


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise LilaError(
            f"no weights at {name}; pass the weights.safetensors of a run (lila-train run writes it), a published .pt "
            f"file, or one of {', '.join(PUBLISHED)}"
        )
    return path


def _published(
    path: Path, named: str | None, encoder_weights: str | Path | None, device: str | torch.device
) -> tuple[FrozenEncoder, Decoder]:
    found = read_released(path)
    name = named or published.ENCODERS.get(found.widths.encoder)
    if name is None:
        raise LilaError(
            f"expected a decoder of an encoder of width {', '.join(map(str, published.ENCODERS))} in {path}, found one "
            f"of width {found.widths.encoder}; published files decode DINOv2"
        )
    decoder = Decoder(found.widths)
    decoder.load_state_dict(dict(found.decoder), strict=True)
    if encoder_weights is None and _is_whole(found):
        source = WeightSource(name, "file", str(path.resolve()), None, file_sha256(path), LICENCE)
        return encoder_from_tensors(name, found.encoder, source).to(device), decoder
    return load_encoder(name, encoder_weights, device), decoder


def _is_whole(found: ReleasedCheckpoint) -> bool:
    """Whether the file holds an encoder that can be taken; the reference leaves its position embedding unread."""
    positions: Tensor | None = found.encoder.get("pos_embed")
    return positions is not None and positions.shape == (1, 37 * 37 + 1, found.widths.encoder)
