"""Where a network's weights come from, and what remains known of them: place, revision, hash, licence.

A loaded network carries a `WeightSource`; stores and checkpoints record it, and loading again by it is refused
when the file at hand is another one.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from stores.errors import LilaError

RANDOM = "random"
NOT_STATED = "not stated"


@dataclass(frozen=True)
class WeightSource:
    """The weights of one loaded network."""

    network: str  # the name that loads it again
    origin: str  # "hub", "file", "package", "random", or "code" for a method without weights
    location: str  # hub id, path, or "random:SEED"
    revision: str | None  # the hub's commit, or the library's version for "code"
    sha256: str | None  # of the weight file; of the tensors themselves where they are random
    licence: str

    def to_dict(self) -> dict[str, str | None]:
        """As a store's provenance and a checkpoint keep it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, str | None]) -> WeightSource:
        """The inverse of `to_dict`."""
        return cls(
            network=str(record["network"]),
            origin=str(record["origin"]),
            location=str(record["location"]),
            revision=record["revision"],
            sha256=record["sha256"],
            licence=str(record["licence"]),
        )


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def random_seed(weights: Path | str | None) -> int | None:
    """The seed in "random" (0) or "random:SEED", the choice of untrained weights; None for any other choice."""
    name, _, seed = str(weights).partition(":")
    if name != RANDOM:
        return None
    if seed and not seed.isdecimal():
        raise LilaError(f"random weights are asked for as random or random:SEED with a whole number, not {weights}")
    return int(seed or 0)


def read_tensors(path: Path, option: str) -> dict[str, Tensor]:
    """The tensors by name of a safetensors or PyTorch file.

    A dictionary of them may lie one level down, under `state_dict`, `model`, `teacher`, `model_ema` or `module`; what
    is beside them and no tensor is left out. Raises LilaError as `read_content` does, and where there are none.
    """
    content = read_content(path, option)
    tensors = _unwrap(content)
    if not tensors:
        raise LilaError(f"expected tensors by name in {path}, found {_found(content)}; give another file with {option}")
    return tensors


def read_content(path: Path, option: str) -> object:
    """All that a safetensors or PyTorch file holds, on the CPU; pickled code in it is refused, never run.

    Raises LilaError, naming the file and the option that gives another one, where it is missing or cannot be read.
    """
    if not path.is_file():
        raise LilaError(f"expected a weight file at {path}, found none; give its place with {option}")
    try:
        return _read(path)
    except Exception as error:  # anything at all: these are bytes of somebody else's, read as a pickle
        said = str(error).split("\n", maxsplit=1)[0]
        reason = said if " " in said else f"{type(error).__name__} {said}".strip()  # a pickle's error may be a number
        raise LilaError(
            f"expected tensors by name in {path} (.safetensors, or .pth without pickled code), but it cannot be read "
            f"({reason}); give another file with {option}"
        ) from error


def strip_prefix(tensors: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """The tensors without the first of the prefixes that all names share; as they are if none is shared by all."""
    for prefix in prefixes:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], place: str, option: str) -> None:
    """Load all of the tensors into all of the network; any difference is one sentence naming what differs."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    shapes = [
        f"{name} {given[name]} for {wanted[name]}" for name in wanted if name in given and given[name] != wanted[name]
    ]
    differences = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", [name for name in wanted if name not in given]),
            ("unexpected", [name for name in given if name not in wanted]),
            ("of another shape", shapes),
        )
        if names
    ]
    if differences:
        raise LilaError(
            f"expected the {len(wanted)} tensors of the chosen network in {place}, found {'; '.join(differences)}; "
            f"choose the network these weights belong to, or other weights with {option}"
        )
    network.load_state_dict(dict(tensors), strict=True)


def check_hash(found: str, recorded: str | None, place: str, option: str) -> None:
    """Refuse weights other than the recorded ones; without a record anything goes."""
    if recorded is not None and found != recorded:
        raise LilaError(
            f"expected the recorded weights with SHA-256 {recorded[:16]}…, found {found[:16]}… in {place}; "
            f"give the recorded file with {option}"
        )


def local_file(
    network: str, weights: Path | str, licence: str, option: str, sha256: str | None = None
) -> tuple[Path, WeightSource]:
    """A weight file of the user's, hashed and recorded; `sha256` is what it must hash to, where that is known."""
    path = Path(weights)
    if not path.is_file():
        raise LilaError(
            f"expected the weights of {network} at {path}, found no such file; give its place with {option}"
        )
    return path, recorded(WeightSource(network, "file", str(path.resolve()), None, None, licence), path, option, sha256)


def recorded(source: WeightSource, path: Path, option: str, sha256: str | None) -> WeightSource:
    """The source with the hash of its file filled in, after the hash has been compared to the recorded one."""
    found = file_sha256(path)
    check_hash(found, sha256, str(path), option)
    return replace(source, sha256=found)


@contextmanager
def drawn(seed: int | None) -> Iterator[None]:
    """Networks built inside have the weights of that seed, whatever was drawn before; of no seed for None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def untrained(network: str, module: nn.Module, seed: int, option: str, sha256: str | None = None) -> WeightSource:
    """The record of weights drawn from a seed: for tests, and for measuring speed where no file is to be had."""
    digest = tensors_sha256(module.state_dict())
    check_hash(digest, sha256, f"the draw of {RANDOM}:{seed}", option)
    return WeightSource(network, RANDOM, f"{RANDOM}:{seed}", None, digest, "none needed")


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of older formats, which are read all the same
        return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: object) -> dict[str, Tensor]:
    for _ in range(3):
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    assert isinstance(content, Mapping)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


_WRAPPERS = ("state_dict", "model", "teacher", "model_ema", "module")


def _found(content: object) -> str:
    if isinstance(content, Mapping):
        return f"only {', '.join(str(name) for name in list(content)[:3]) or 'an empty dictionary'}"
    return f"a {type(content).__name__}"
