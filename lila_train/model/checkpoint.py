"""Checkpoints: the decoder as safetensors, with what is needed to load it again and its provenance in the header.

The header also holds the SHA-256 of the decoder, of the other tensors, and of the provenance; reading checks them.

The encoder and the networks that made the cues are not in the file; the encoder is recorded by name and weight hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lila_cues.networks import WeightSource
from lila_cues.networks.weights import refuse_pointer, tensors_sha256
from lila_train.model.decoder import Decoder, DecoderWidths
from stores.atomic import atomic_write
from stores.errors import LilaError

FORMAT = 2  # 1, of version 0.1, has no digests
_HEADER = "lila"  # key of the provenance in the safetensors metadata
_DIGESTS = "sha256"
_DECODER = "decoder."
_EXTRA = "training."


@dataclass(frozen=True)
class Provenance:
    """Origin of a decoder: its encoder, its run's settings, the cue store and the library versions."""

    encoder: WeightSource
    widths: DecoderWidths
    step: int
    settings: Mapping[str, Any]  # of the training run
    store: Mapping[str, Any]  # path, fingerprint and data set of the cue store
    versions: Mapping[str, str]
    scores: list[dict[str, Any]] = field(default_factory=list)  # lines of scores.jsonl of this step


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory; `extra` is what training needs to resume (empty in the weights of a finished run)."""

    decoder: Mapping[str, Tensor]
    provenance: Provenance
    extra: Mapping[str, Tensor]


def read(path: Path) -> Checkpoint:
    """Read a checkpoint that `write` wrote.

    Raises:
        LilaError: the file is missing, damaged, of another format version, or no LILA checkpoint.
    """
    if not path.is_file():
        raise LilaError(f"no weights at {path}; pass the weights.safetensors of a run (lila-train run writes it)")
    refuse_pointer(path, "--weights")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (safetensors.SafetensorError, OSError) as error:
        raise LilaError(f"{path} is not an intact safetensors file ({error}); was the copy cut short?") from error
    if _HEADER not in metadata:
        raise LilaError(f"expected weights that lila-train wrote, found a safetensors file of something else in {path}")
    checkpoint = under(tensors, _DECODER), under(tensors, _EXTRA)
    try:
        record = json.loads(metadata[_HEADER])
        found = record.pop("format")
        if isinstance(found, int) and found > FORMAT:
            raise LilaError(f"expected a LILA checkpoint of format {FORMAT}, found format {found} in {path}")
        digests = {_DIGESTS: metadata[_DIGESTS]} if found != 1 else {}
        if digests and digests != _digests(metadata[_HEADER], *checkpoint):
            raise ValueError("its contents are not those that were written")
        record["widths"] = DecoderWidths(**record["widths"] | {"levels": tuple(record["widths"]["levels"])})
        record["encoder"] = WeightSource.from_dict(record["encoder"])
        return Checkpoint(checkpoint[0], Provenance(**record), checkpoint[1])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LilaError(f"{path} is damaged ({error}); copy it again, or use another checkpoint of the run") from error


def _digests(header: str, decoder: Mapping[str, Tensor], extra: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the metadata that holds the SHA-256 of provenance, decoder and other tensors."""
    digests = hashlib.sha256(header.encode()).hexdigest(), tensors_sha256(decoder), tensors_sha256(extra)
    return {_DIGESTS: json.dumps(dict(zip(("provenance", "decoder", "extra"), digests, strict=True)))}


def write(path: Path, decoder: Decoder, provenance: Provenance, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint atomically; `extra` are tensors to resume training from."""
    parts = [
        {name: t.detach().cpu().contiguous() for name, t in part.items()}
        for part in (decoder.state_dict(), extra or {})
    ]
    tensors = {
        f"{prefix}{name}": t for prefix, part in zip((_DECODER, _EXTRA), parts, strict=True) for name, t in part.items()
    }
    record = asdict(provenance) | {"format": FORMAT, "encoder": provenance.encoder.to_dict()}
    header = json.dumps(record, sort_keys=True)
    atomic_write(safetensors.torch.save(tensors, metadata={_HEADER: header} | _digests(header, *parts)), path)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that a result depends on."""
    return {name: version(name) for name in ("lila-pixels", "torch", "timm", "numpy")}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return AdamW's state by parameter name: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`."""
    state = optimizer.state_dict()["state"]
    return {f"{names[index]}.{key}": t for index, entry in state.items() for key, t in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned; the optimizer keeps its own learning rate."""
    record, state = optimizer.state_dict(), {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        if entry := under(tensors, f"{name}."):  # in the parameter's memory format, which fused AdamW presumes
            state[index] = {key: torch.empty_like(parameter).copy_(t) if t.ndim else t for key, t in entry.items()}
    record["state"] = state
    optimizer.load_state_dict(record)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without the prefix."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
