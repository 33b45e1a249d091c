"""Checkpoints as the published reference writes them, and ours in their naming (docs/method.md, "Network").

`lila_train.model.released` says which of them there are, and where.

A file holds the decoder under `latent_head.`, the final LayerNorm under `fnorm.`, the encoder under `pretrained.`, and
sometimes the networks that made the cues. The latter are ignored by name; any other name is an error.

The weight files that the paper's authors have released: their names here, where they lie, the encoder of each.

Their hashes are not published. The hash of a download is kept beside the file, and a file that no longer has it is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lila_cues.networks.hub import download, torch_cache
from lila_cues.networks.weights import file_sha256, read_tensors
from lila_train.model.decoder import Decoder, DecoderWidths
from stores.atomic import atomic_path
from stores.errors import LilaError

TEACHER_PREFIXES = ("depth_net.", "flow.", "pamr.")
ENCODER_PREFIX = "pretrained."
_UNUSED = "latent_head.scratch.refinenet4.resConfUnit1."  # the coarsest fusion has no skip to put through it
_NAMES = (
    (r"project\.(\d)\.", r"latent_head.projects.\1."),
    (r"rescale\.(\d)\.", r"latent_head.resize_layers.\1."),
    (r"reduce\.(\d)\.", lambda m: f"latent_head.scratch.layer{int(m[1]) + 1}_rn."),
    (r"fuse\.(\d)\.out\.", lambda m: f"latent_head.scratch.refinenet{int(m[1]) + 1}.out_conv."),
    (r"fuse\.(\d)\.skip_unit\.", lambda m: f"latent_head.scratch.refinenet{int(m[1]) + 1}.resConfUnit1."),
    (r"fuse\.(\d)\.unit\.", lambda m: f"latent_head.scratch.refinenet{int(m[1]) + 1}.resConfUnit2."),
    (r"head\.", "latent_head.scratch.output_conv1."),
    (r"pixel\.", "latent_head.scratch.output_conv2."),
    (r"norm\.", "fnorm."),
)


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """What a published file holds for us: a decoder, and the encoder's tensors in DINOv2's own names (may be empty)."""

    widths: DecoderWidths
    decoder: Mapping[str, Tensor]
    encoder: Mapping[str, Tensor]

    @property
    def holds_encoder(self) -> bool:
        """Whether an encoder can be taken from it; the reference sometimes leaves its position embedding out."""
        positions = self.encoder.get("pos_embed")
        return positions is not None and positions.shape == (1, 37 * 37 + 1, self.widths.encoder)

    def build_decoder(self) -> Decoder:
        """The decoder that this checkpoint holds."""
        decoder = Decoder(self.widths)
        decoder.load_state_dict(dict(self.decoder), strict=True)
        return decoder


def released_name(name: str) -> str:
    """The published name of a tensor of `Decoder`; KeyError for one that it does not have."""
    for pattern, replacement in _NAMES:
        renamed, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return renamed
    raise KeyError(name)


def read_released(path: Path) -> ReleasedCheckpoint:
    """Read a published checkpoint, its tensors at top level or under `state_dict`; strict in their names and shapes.

    Raises LilaError, naming the file, where it cannot be read or a tensor is missing, unknown or of another shape.
    """
    tensors = read_tensors(path, "--weights")
    projection = tensors.get("latent_head.projects.0.weight")
    smooth = tensors.get("latent_head.scratch.output_conv1.weight")
    if projection is None or smooth is None:
        raise LilaError(f"expected a LILA checkpoint with tensors named latent_head.*, found none in {path}")
    widths = DecoderWidths.of_encoder(projection.shape[1], inner=smooth.shape[1])
    decoder = Decoder(widths).state_dict()
    expected = {released_name(name): name for name in decoder}
    own = {name: t for name, t in tensors.items() if not name.startswith((*TEACHER_PREFIXES, ENCODER_PREFIX, _UNUSED))}
    _refuse_difference(set(expected), set(own), path)
    for name, tensor in own.items():
        if tensor.shape != (wanted := decoder[expected[name]].shape):
            raise LilaError(f"expected {name} of shape {tuple(wanted)} in {path}, found {tuple(tensor.shape)}")
    encoder = {n.removeprefix(ENCODER_PREFIX): t for n, t in tensors.items() if n.startswith(ENCODER_PREFIX)}
    return ReleasedCheckpoint(widths, {expected[name]: tensor for name, tensor in own.items()}, encoder)


def in_released_naming(decoder: Decoder) -> dict[str, Tensor]:
    """The decoder's tensors under their published names, the reference's unused unit filled with zeros."""
    named = {released_name(name): tensor for name, tensor in decoder.state_dict().items()}
    inner = decoder.widths.inner
    for conv in ("conv1", "conv2"):
        named[f"{_UNUSED}{conv}.weight"] = torch.zeros(inner, inner, 3, 3)
        named[f"{_UNUSED}{conv}.bias"] = torch.zeros(inner)
    return named


def write_released(path: Path, decoder: Decoder) -> None:
    """Write a decoder of ours as a published file is: a .pt of named tensors, without an encoder. Atomic."""
    with atomic_path(path) as temporary:
        torch.save({name: tensor.detach().cpu() for name, tensor in in_released_naming(decoder).items()}, temporary)


def _refuse_difference(expected: set[str], found: set[str], path: Path) -> None:
    problems = [
        f"{what} {', '.join(sorted(names)[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (("missing", expected - found), ("unknown", found - expected))
        if names
    ]
    if problems:
        raise LilaError(f"{path} is not a checkpoint of this decoder: {'; '.join(problems)}")


PLACE = "https://storage.googleapis.com/gresearch/lila-ckpts"


@dataclass(frozen=True)
class ReleasedFile:
    """The name of a released file, and of the encoder that it decodes."""

    file: str
    encoder: str

    @property
    def url(self) -> str:
        """Where its authors keep it."""
        return f"{PLACE}/{self.file}"


RELEASED_FILES = {
    "lila_dinov2_vits14": ReleasedFile("lila_dino2_s14_ytvos.pt", "dinov2_vits14"),
    "lila_dinov2_vitb14": ReleasedFile("lila_dino2_b14_ytvos.pt", "dinov2_vitb14"),
    "lila_dinov2_vitl14": ReleasedFile("lila_dino2_l14_ytvos.pt", "dinov2_vitl14"),
    "lila_dinov2_vitl14_kts": ReleasedFile("lila_dino2_l14_kts.pt", "dinov2_vitl14"),
}
ENCODER_OF_WIDTH = {384: "dinov2_vits14", 768: "dinov2_vitb14", 1024: "dinov2_vitl14", 1536: "dinov2_vitg14"}
"""By embedding width: the encoder of a file of that naming which comes without a name."""


def obtain(name: str) -> tuple[Path, str]:
    """The released file of that name in PyTorch's cache, downloaded if it is not there yet, and its hex SHA-256.

    Raises LilaError where it cannot be downloaded, or is not any more what it was when it came.
    """
    found = RELEASED_FILES[name]
    path = torch_cache() / found.file
    if not path.is_file():
        download(found.url, path, "put the file there", progress=True)
        _record(path).unlink(missing_ok=True)
    return path, _checked(path)


def _checked(path: Path) -> str:
    """The file's hash, compared with that of the download; a file put there by hand is taken as it is, once."""
    found, record = file_sha256(path), _record(path)
    if not record.is_file():
        record.write_text(f"{found}\n")
        return found
    recorded = record.read_text().strip()
    if found != recorded:
        raise LilaError(
            f"expected {path} to be as it was downloaded, SHA-256 {recorded[:16]}…, found {found[:16]}…; delete "
            f"both it and {record.name} to download it again"
        )
    return found


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
