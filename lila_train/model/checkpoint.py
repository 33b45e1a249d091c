"""Checkpoints: the decoder as safetensors, with everything needed to load it again and to know where it came from.

The encoder and the networks that made the cues are never in the file; the encoder is named, with its weights' hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lila_cues.networks import WeightSource
from lila_train.model.decoder import Decoder, DecoderWidths
from stores.atomic import atomic_path
from stores.errors import LilaError

FORMAT = 1
_KEY = "lila"
_DECODER = "decoder."
_EXTRA = "training."


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint says of itself."""

    encoder: WeightSource
    widths: DecoderWidths
    step: int
    settings: Mapping[str, Any]  # of the training run
    store: Mapping[str, Any]  # path and fingerprint of the cue store
    versions: Mapping[str, str]

    def to_json(self) -> str:
        """As a checkpoint's header keeps it."""
        record = asdict(self) | {"format": FORMAT, "encoder": self.encoder.to_dict()}
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Provenance:
        """The inverse of `to_json`; `path` is named when the file is of another version."""
        record = json.loads(text)
        found = record.pop("format", None)
        if found != FORMAT:
            raise LilaError(f"expected a LILA checkpoint of format {FORMAT}, found format {found} in {path}")
        widths = record["widths"]
        record["widths"] = DecoderWidths(widths["encoder"], tuple(widths["levels"]), widths["inner"], widths["out"])
        record["encoder"] = WeightSource.from_dict(record["encoder"])
        return cls(**record)


@dataclass(frozen=True)
class Checkpoint:
    """A file read back: the decoder's tensors, its provenance and, to resume from, what else training keeps."""

    decoder: Mapping[str, Tensor]
    provenance: Provenance
    extra: Mapping[str, Tensor]

    def build_decoder(self) -> Decoder:
        """The decoder that this checkpoint holds."""
        decoder = Decoder(self.provenance.widths)
        decoder.load_state_dict(dict(self.decoder), strict=True)
        return decoder


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("lila-pixels", "torch", "timm", "numpy")}


def write(path: Path, decoder: Decoder, provenance: Provenance, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write atomically: a reader sees the whole file or none."""
    tensors = {f"{_DECODER}{name}": t for name, t in decoder.state_dict().items()}
    tensors |= {f"{_EXTRA}{name}": t for name, t in (extra or {}).items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={_KEY: provenance.to_json()}))
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> Checkpoint:
    """Read a checkpoint of ours; anything else is refused with the reason."""
    if not path.is_file():
        raise LilaError(f"no weights at {path}; pass the weights.safetensors of a run (lila-train run writes it)")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except safetensors.SafetensorError as error:
        raise LilaError(f"{path} is not a whole safetensors file ({error}); was the copy cut short?") from error
    if _KEY not in metadata:
        raise LilaError(f"expected weights that lila-train wrote, found a safetensors file of something else in {path}")
    return Checkpoint(
        decoder=under(tensors, _DECODER),
        provenance=Provenance.from_json(metadata[_KEY], path),
        extra=under(tensors, _EXTRA),
    )


def fingerprint(path: Path) -> str:
    """Hex SHA-256 of the decoder's tensors, the same for a checkpoint to resume from and the weights made of it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read(path).decoder.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """AdamW's state by the names of what it moves: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.step`."""
    state = optimizer.state_dict()["state"]
    return {f"{names[index]}.{key}": t for index, entry in state.items() for key, t in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; the learning rate stays as the optimiser has it."""
    record = optimizer.state_dict()
    record["state"] = {index: entry for index, name in enumerate(names) if (entry := under(tensors, f"{name}."))}
    optimizer.load_state_dict(record)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
