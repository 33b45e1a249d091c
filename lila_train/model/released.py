"""Where the weights of a model are: in a run, in this package, or among those that the paper's authors published.

A published file holds the decoder under `latent_head.`, the final LayerNorm under `fnorm.`, the encoder under
`pretrained.` and sometimes the networks that made the cues, which are ignored by name; any other name is an error
(docs/method.md, "Network"). Hashes are not published: that of the download is kept beside the file and checked from
then on.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lila_cues.networks import FrozenEncoder, WeightSource
from lila_cues.networks.hub import download, torch_cache
from lila_cues.networks.weights import file_sha256, random_seed, read_tensors, tensors_sha256
from lila_train.model.decoder import Decoder, DecoderWidths
from stores.atomic import atomic_write
from stores.errors import LilaError, StoreError, did_you_mean

BASE_URL = "https://storage.googleapis.com/gresearch/lila-ckpts"

WEIGHTS_FILE = "weights.safetensors"  # of a run folder
MODEL_FILE = "model.safetensors"  # of a shared model

RELEASED_FILES = {  # published name: file below BASE_URL
    "lila_dinov2_vits14": "lila_dino2_s14_ytvos.pt",
    "lila_dinov2_vitb14": "lila_dino2_b14_ytvos.pt",
    "lila_dinov2_vitl14": "lila_dino2_l14_ytvos.pt",
    "lila_dinov2_vitl14_kts": "lila_dino2_l14_kts.pt",
}
PACKAGED = Path(__file__).resolve().parent.parent / "weights"
PACKAGED_MODELS = {  # name of a file in this package: SHA-256 of the tensors of its encoder, which the hub has
    "lila_vit_tiny": "abcf8fc070c7a6304c150492157c7021dbbd366abd6cac2b4899ec3874039aa9",
}
NAMES = (*RELEASED_FILES, *PACKAGED_MODELS)
ENCODER_OF_WIDTH = {384: "dinov2_vits14", 768: "dinov2_vitb14", 1024: "dinov2_vitl14", 1536: "dinov2_vitg14"}
_UNPUBLISHED = re.compile(r"^(?:lila_)?dinov2reg_(vit[sblg]14)$")  # the published code's names of register encoders

_TEACHERS = ("depth_net.", "flow.", "pamr.")
_ENCODER = "pretrained."
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


def find(weights: str | Path) -> tuple[Path, str | None]:
    """Return the weight file that is meant by a file, a run folder or a name, and its SHA-256 where known.

    Raises:
        LilaError: there is none, or it cannot be downloaded.
    """
    if str(weights) in RELEASED_FILES:
        return _fetch(str(weights))
    if str(weights) in PACKAGED_MODELS:
        return PACKAGED / f"{weights}.safetensors", None
    path = Path(weights)
    if path.is_dir():
        path /= MODEL_FILE if (path / MODEL_FILE).is_file() else WEIGHTS_FILE
    if _UNPUBLISHED.match(str(weights)) and not path.is_file():
        raise LilaError(
            f"expected weights on this machine for {weights}, of which no file is published; pass the path of its .pt "
            "file, whose encoder is recognized"
        )
    if not path.is_file():
        raise LilaError(
            f"no weights at {path}{did_you_mean(str(weights), NAMES)}; pass the folder of a run or its "
            f"{WEIGHTS_FILE} (lila-train run writes it), a published .pt file, or one of {', '.join(NAMES)}"
        )
    return path, None


def identity(weights: str | Path, encoder_weights: str | Path | None, encoder: str | None = None) -> dict[str, str]:
    """Return what determines the features of a model that is not loaded: hashes of its files, or a published name."""
    named = {"encoder": encoder} if encoder else {}
    if str(weights) in RELEASED_FILES:
        return {"weights": str(weights)} | named | encoder_weights_identity(encoder_weights)
    path, _ = find(weights)
    its_encoder = None if path.suffix == ".safetensors" else encoder_weights  # a run's file records the hash of its own
    return {"weights_sha256": file_sha256(path)} | named | encoder_weights_identity(its_encoder)


def check_encoder(weights: str | Path, recorded: WeightSource, encoder: FrozenEncoder) -> None:
    """Raise LilaError where a packaged model would run on an encoder that it was not trained on."""
    expected = PACKAGED_MODELS.get(str(weights))
    if expected and (found := tensors_sha256(encoder.vit.state_dict())) != expected:
        raise LilaError(
            f"expected the encoder that {weights} was trained on, whose tensors have SHA-256 {expected[:16]}…, found "
            f"{found[:16]}… in {encoder.source.location}; pass a weight file of {recorded.location} by "
            "encoder_weights= (--encoder-weights)"
        )


def encoder_weights_identity(weights: str | Path | None) -> dict[str, str]:
    """Return the hash of an encoder's weight file, or `random:SEED`; nothing for weights from a hub."""
    if weights is None:
        return {}
    if random_seed(weights) is not None:
        return {"encoder_weights": str(weights)}
    return {"encoder_weights_sha256": file_sha256(Path(weights))}


def _fetch(name: str) -> tuple[Path, str]:
    """Return a published file in PyTorch's cache, downloaded if it is missing there, and its hex SHA-256.

    Raises:
        LilaError: it cannot be downloaded, or has changed since its download.
    """
    path = torch_cache() / RELEASED_FILES[name]
    record = path.with_name(f"{path.name}.sha256")
    if absent := not path.is_file():
        download(f"{BASE_URL}/{path.name}", path, "put the file there", progress=True)
    found = file_sha256(path)
    if absent or not record.is_file():  # just downloaded, or put there by hand
        with suppress(StoreError):  # a cache that others fill cannot be written
            atomic_write(f"{found}\n", record)
    recorded = record.read_text().strip() if record.is_file() else found
    if found != recorded:
        raise LilaError(
            f"expected {path} to be as it was downloaded, SHA-256 {recorded[:16]}…, found {found[:16]}…; delete "
            f"both it and {record.name} to download it again"
        )
    return path, found


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """Content of a published file: a decoder, and the encoder's tensors in DINOv2's names (empty if incomplete).

    network: name of the encoder whose tensors are in the file, complete or not; None where there are none.
    """

    path: Path
    widths: DecoderWidths
    decoder: Mapping[str, Tensor]
    encoder: Mapping[str, Tensor]
    network: str | None


def read(path: Path) -> ReleasedCheckpoint:
    """Read a published checkpoint, its tensors at top level or under `state_dict`.

    Raises:
        LilaError: it cannot be read, or a tensor is missing, unknown or of another shape.
    """
    tensors = read_tensors(path, "--weights")
    projection = tensors.get("latent_head.projects.0.weight")
    smooth = tensors.get("latent_head.scratch.output_conv1.weight")
    if projection is None or smooth is None:
        raise LilaError(f"expected a LILA checkpoint with tensors named latent_head.*, found none in {path}")
    widths = DecoderWidths.of_encoder(projection.shape[1], inner=smooth.shape[1])
    expected = {released_name(name): (name, tensor.shape) for name, tensor in Decoder(widths).state_dict().items()}
    found = {name: t for name, t in tensors.items() if not name.startswith((*_TEACHERS, _ENCODER, _UNUSED))}
    problems = [
        f"{problem} {', '.join(sorted(names)[:3])}{' …' if len(names) > 3 else ''}"
        for problem, names in (("missing", expected.keys() - found), ("unknown", found.keys() - expected))
        if names
    ]
    if problems:
        raise LilaError(f"{path} is not a checkpoint of this decoder: {'; '.join(problems)}")
    for name, tensor in found.items():
        if tensor.shape != (shape := expected[name][1]):
            raise LilaError(f"expected {name} of shape {tuple(shape)} in {path}, found {tuple(tensor.shape)}")
    encoder = {n.removeprefix(_ENCODER): t for n, t in tensors.items() if n.startswith(_ENCODER)}
    network = ENCODER_OF_WIDTH.get(widths.encoder) if encoder else None
    if network and "register_tokens" in encoder:
        network += "_reg"
    positions = encoder.get("pos_embed")  # which the reference sometimes leaves out
    if positions is None or positions.shape != (1, 37 * 37 + 1, widths.encoder):
        encoder = {}
    decoder = {expected[name][0]: tensor for name, tensor in found.items()}
    return ReleasedCheckpoint(path, widths, decoder, encoder, network)


def encoder_of_name(name: str) -> str:
    """Return the encoder's name, as `load_encoder` takes it, in a published name or one of the published code."""
    return _UNPUBLISHED.sub(r"dinov2_\1_reg", name.removeprefix("lila_").removesuffix("_kts"))


def encoder_name(given: str | None, weights: str | Path, published: ReleasedCheckpoint) -> str:
    """Return the name of a published file's encoder: the given one, that in the file, or that of a published name.

    LilaError where there is none of them: a width is no name, since encoders with registers have the same.
    """
    if given:
        return encoder_of_name(given)
    if published.network:
        return published.network
    names = {str(weights), *(name for name, file in RELEASED_FILES.items() if file == published.path.name)}
    if known := names & RELEASED_FILES.keys():
        return encoder_of_name(known.pop())
    likely = ENCODER_OF_WIDTH.get(published.widths.encoder)
    example = f"{likely} or {likely}_reg" if likely else "dinov2_vits14"
    raise LilaError(
        f"expected the encoder in {published.path}, or its name, found a decoder alone, of an encoder of width "
        f"{published.widths.encoder}; name it by encoder= (--encoder), {example} for example"
    )


def write(path: Path, decoder: Decoder) -> None:
    """Write a decoder like a published file: a .pt of named tensors, without an encoder. Atomic."""
    buffer = io.BytesIO()  # torch.save reports a full disk as an internal error
    torch.save({name: tensor.detach().cpu() for name, tensor in in_released_naming(decoder).items()}, buffer)
    atomic_write(buffer.getvalue(), path)


def in_released_naming(decoder: Decoder) -> dict[str, Tensor]:
    """Return the decoder's tensors under their published names, the reference's unused unit filled with zeros."""
    named = {released_name(name): tensor for name, tensor in decoder.state_dict().items()}
    inner = decoder.widths.inner
    for conv in ("conv1", "conv2"):
        named[f"{_UNUSED}{conv}.weight"] = torch.zeros(inner, inner, 3, 3)
        named[f"{_UNUSED}{conv}.bias"] = torch.zeros(inner)
    return named


def released_name(name: str) -> str:
    """Return the published name of a tensor of `Decoder`; KeyError for a name that it does not have."""
    for pattern, replacement in _NAMES:
        renamed, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return renamed
    raise KeyError(name)
