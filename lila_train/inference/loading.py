"""`load`: from a name or a checkpoint to a model that runs."""

from __future__ import annotations

from pathlib import Path

import torch

from lila_cues.networks import WeightSource, encoder_from_tensors, load_encoder, restore_encoder
from lila_cues.networks.weights import file_sha256
from lila_train import checkpoint
from lila_train.inference.model import Fit, Lila
from lila_train.inference.released import ReleasedCheckpoint, read_released
from lila_train.inference.released_files import ENCODER_OF_WIDTH, RELEASED_FILES, obtain
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
    path, sha256 = obtain(name) if name in RELEASED_FILES else (_existing(name), None)
    provenance = None
    if path.suffix == ".safetensors":
        found = checkpoint.read(path)
        provenance, decoder = found.provenance, found.build_decoder()
        encoder = restore_encoder(provenance.encoder, encoder_weights, device)
    else:
        released = read_released(path)
        decoder, encoder_name = released.build_decoder(), _encoder_name(name, path, released)
        if encoder_weights is None and released.holds_encoder:
            source = WeightSource(encoder_name, "file", str(path.resolve()), None, sha256 or file_sha256(path), LICENCE)
            encoder = encoder_from_tensors(encoder_name, released.encoder, source).to(device)
        else:
            encoder = load_encoder(encoder_name, encoder_weights, device)
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
            f"file, or one of {', '.join(RELEASED_FILES)}"
        )
    return path


def _encoder_name(name: str, path: Path, released: ReleasedCheckpoint) -> str:
    """The encoder of a released file: by the file's own name, else by the width that its decoder reads."""
    if name in RELEASED_FILES:
        return RELEASED_FILES[name].encoder
    width = released.widths.encoder
    if width not in ENCODER_OF_WIDTH:
        raise LilaError(
            f"expected a decoder of an encoder of width {', '.join(map(str, ENCODER_OF_WIDTH))} in {path}, found one "
            f"of width {width}; published files decode DINOv2"
        )
    return ENCODER_OF_WIDTH[width]
