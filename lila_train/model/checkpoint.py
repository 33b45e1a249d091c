"""Checkpoints: the decoder as safetensors, with what is needed to load it again and its provenance in the header.

The encoder and the networks that made the cues are not in the file; the encoder is recorded by name and weight hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lila_cues.networks import WeightSource
from lila_train.model.decoder import Decoder, DecoderWidths
from stores.atomic import atomic_write
from stores.errors import LilaError

FORMAT = 1
_HEADER = "lila"  # key of the provenance in the safetensors metadata
_DECODER = "decoder."
_EXTRA = "training."


@dataclass(frozen=True)
class Provenance:
    """Origin of a decoder: its encoder, its run's settings, the cue store and the library versions."""

    encoder: WeightSource
    widths: DecoderWidths
    step: int
    settings: Mapping[str, Any]  # of the training run
    store: Mapping[str, Any]  # path and fingerprint of the cue store
    versions: Mapping[str, str]


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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except safetensors.SafetensorError as error:
        raise LilaError(f"{path} is not an intact safetensors file ({error}); was the copy cut short?") from error
    if _HEADER not in metadata:
        raise LilaError(f"expected weights that lila-train wrote, found a safetensors file of something else in {path}")
    record = json.loads(metadata[_HEADER])
    found = record.pop("format", None)
    if found != FORMAT:
        raise LilaError(f"expected a LILA checkpoint of format {FORMAT}, found format {found} in {path}")
    record["widths"] = DecoderWidths(**record["widths"] | {"levels": tuple(record["widths"]["levels"])})
    record["encoder"] = WeightSource.from_dict(record["encoder"])
    return Checkpoint(under(tensors, _DECODER), Provenance(**record), under(tensors, _EXTRA))


def write(path: Path, decoder: Decoder, provenance: Provenance, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint atomically; `extra` are tensors to resume training from."""
    tensors = {f"{_DECODER}{name}": t for name, t in decoder.state_dict().items()}
    tensors |= {f"{_EXTRA}{name}": t for name, t in (extra or {}).items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    record = asdict(provenance) | {"format": FORMAT, "encoder": provenance.encoder.to_dict()}
    atomic_write(safetensors.torch.save(tensors, metadata={_HEADER: json.dumps(record, sort_keys=True)}), path)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that a result depends on."""
    return {name: version(name) for name in ("lila-pixels", "torch", "timm", "numpy")}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return AdamW's state by parameter name: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`."""
    state = optimizer.state_dict()["state"]
    return {f"{names[index]}.{key}": t for index, entry in state.items() for key, t in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned; the optimizer keeps its own learning rate."""
    record = optimizer.state_dict()
    record["state"] = {index: entry for index, name in enumerate(names) if (entry := under(tensors, f"{name}."))}
    optimizer.load_state_dict(record)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without the prefix."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
