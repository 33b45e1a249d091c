"""Weight files: find, hash, read and load them, and record where they came from.

A loaded network carries a `WeightSource`. Stores and checkpoints record it, and loading by a record fails where the
file has another hash.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar
from zipfile import is_zipfile

import safetensors.torch
import torch
from torch import Tensor, nn

from lila_cues.networks import hub
from lila_cues.networks.registry import NOT_STATED, PACKAGED, Entry
from stores.errors import LilaError, first_line

WEIGHT_FILE = "model.safetensors"  # its name in a hub repository
Network = TypeVar("Network", bound=nn.Module)
Tensors = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model", "teacher", "model_ema", "module")


@dataclass(frozen=True)
class WeightSource:
    """Where the weights of a loaded network came from."""

    network: str  # the name that loads it again
    origin: str  # "hub", "file", "package", "random", or "code" for a method without weights
    location: str  # hub repository, URL, path, or "random:SEED"
    revision: str | None  # the hub's commit, or the library's version for "code"
    sha256: str | None  # of the weight file; of the tensors where they are random
    licence: str

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, str | None]) -> WeightSource:
        """Return the source of a record; further keys are ignored."""
        return cls(**{field.name: record[field.name] for field in fields(cls)})  # type: ignore[arg-type]


def load_network(
    build: Callable[[], Network],
    entry: Entry,
    weights: Path | str | None,
    option: str,
    revision: str | None = None,
    sha256: str | None = None,
    rename: Callable[[Tensors, Network], Tensors] | None = None,
) -> tuple[Network, WeightSource]:
    """Build a network and load its weights: a local file, "random:SEED", or (None) the published file of its entry.

    Returns the network and the record of its weights. `option` is the command line's option for another file,
    `revision` a commit, tag or branch of the hub, `sha256` the recorded hash that the weights must have; `rename` gives
    a file's tensors the names that the network has. Raises LilaError for a file that is missing, unreadable, of another
    network or of another hash.
    """
    seed = random_seed(weights)
    with seeded(seed):
        network = build()
    if seed is not None:
        digest = tensors_sha256(network.state_dict())
        _check_hash(digest, sha256, f"the weights of random:{seed}", option)
        return network, WeightSource(entry.name, "random", f"random:{seed}", None, digest, "none needed")
    path, source = locate(entry, weights, option, revision, sha256)
    tensors = read_tensors(path, option)
    load_strictly(network, rename(tensors, network) if rename else tensors, str(path), option)
    return network, source


def locate(
    entry: Entry, weights: Path | str | None, option: str, revision: str | None = None, sha256: str | None = None
) -> tuple[Path, WeightSource]:
    """Return a local weight file, or else the published one (downloaded once), and its record; see `load_network`."""
    pinned = entry.pin[1]
    if weights is not None:
        path, pinned = Path(weights), None
        if not path.is_file():
            raise LilaError(
                f"expected the weights of {entry.name} at {path}, found no such file; give its place with {option}"
            )
        origin, location, revision = "file", str(path.resolve()), None
    elif entry.is_packaged:
        path = PACKAGED / entry.place
        origin, location, revision = "package", path.name, None
    elif entry.place:
        origin, location = "hub", entry.place
        if entry.is_url:
            path = hub.torch_cache() / entry.place.rpartition("/")[2]  # NAME-HASH.pth
            revision, _, prefix = path.stem.rpartition("-")
            if not path.is_file():
                hub.download(entry.place, path, f"give a local file with {option}", prefix)
        else:
            pinned = pinned if revision is None else None
            path, revision = hub.fetch(entry.place, WEIGHT_FILE, published_revision(entry, revision), option)
    else:
        raise LilaError(
            f"expected weights for {entry.name}, which has none on the hub; give a local file with {option}"
        )
    digest = file_sha256(path)
    _check_hash(digest, sha256, str(path), option)
    for published in filter(None, (pinned, hub.stated_sha256(path) if origin == "hub" else None)):
        if not digest.startswith(published):
            raise LilaError(
                f"expected the published weights of {entry.name}, SHA-256 {published[:16]}, found {digest[:16]} in "
                f"{path}; delete the file to download it again, or give another one with {option}"
            )
    licence = entry.licence if origin != "file" or entry.one_licence else NOT_STATED
    return path, WeightSource(entry.name, origin, location, revision, digest, licence)


def published_revision(entry: Entry, revision: str | None) -> str | None:
    """Return the given hub revision, or else the pinned one; None for the cached one where that has a file."""
    return revision or (None if hub.cached(entry.place, WEIGHT_FILE) else entry.pin[0])


def random_seed(weights: Path | str | None) -> int | None:
    """Return the seed of "random" (0) or "random:SEED", which choose untrained weights; None for any other choice."""
    name, _, seed = str(weights).partition(":")
    if name != "random":
        return None
    if seed and not seed.isdecimal():
        raise LilaError(f"expected random or random:SEED with an integer SEED for untrained weights, found {weights}")
    return int(seed or 0)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed PyTorch's CPU generator inside the context and restore it afterwards; do nothing for None."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


@contextmanager
def float32_default() -> Iterator[None]:
    """Build tensors without a dtype as float32 inside the context, also where PyTorch's default is another."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 over names and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_hash(found: str, expected: str | None, place: str, option: str) -> None:
    if expected is not None and found != expected:
        raise LilaError(
            f"expected the recorded weights with SHA-256 {expected[:16]}…, found {found[:16]}… in {place}; "
            f"give the recorded file with {option}"
        )


def read_tensors(path: Path, option: str) -> Tensors:
    """Return the tensors by name of a safetensors or PyTorch file, on the CPU.

    They may lie in a dictionary one to three levels down, under `state_dict`, `model`, `teacher`, `model_ema` or
    `module`; entries that are no tensors are left out. Raises LilaError as `read_content`, and where there are none.
    """
    found = content = read_content(path, option)
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    named = content if isinstance(content, Mapping) else {}
    tensors = {str(name): value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        if isinstance(found, Mapping):
            keys = f"only {', '.join(str(name) for name in list(found)[:3]) or 'an empty dictionary'}"
        else:
            keys = f"a {type(found).__name__}"
        raise LilaError(f"expected tensors by name in {path}, found {keys}; give another file with {option}")
    return tensors


def read_content(path: Path, option: str) -> object:
    """Return what a safetensors or PyTorch file holds, on the CPU; pickled code in it is refused and never run.

    Raises LilaError, naming the file and the option for another one, where it is missing or cannot be read.
    """
    if not path.is_file():
        raise LilaError(f"expected a weight file at {path}, found none; give its place with {option}")
    refuse_pointer(path, option)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older formats, which can be read all the same
            mapped = is_zipfile(path)  # as torch.save writes since 1.6: unused tensors are not read into memory
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # foreign bytes, read as a pickle, can raise anything
        message = first_line(error)
        # a pickle's error may be a bare number
        reason = message if " " in message else f"{type(error).__name__} {message}".strip()
        if re.search(r"weights.only", reason, re.IGNORECASE):  # PyTorch advises to run the code that is in the file
            reason = "it holds pickled code, or is no weight file"
        raise LilaError(
            f"expected tensors by name in {path} (.safetensors, or .pth without pickled code), but it cannot be read "
            f"({reason}); give another file with {option}"
        ) from error


def refuse_pointer(path: Path, option: str) -> None:
    """Raise LilaError for a file that Git LFS has not fetched."""
    with path.open("rb") as file:
        if b"git-lfs.github.com/spec" in file.read(80):
            raise LilaError(
                f"expected tensors by name in {path}, found the pointer that Git LFS leaves in place of a file; run "
                f"`git lfs pull` in its repository, or give another file with {option}"
            )


def strip_prefix(tensors: Mapping[str, Tensor], *prefixes: str) -> Tensors:
    """Remove the first of the prefixes that all names share, if there is one."""
    for prefix in prefixes:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], place: str, option: str) -> None:
    """Load the tensors into the network; any missing, unexpected or misshapen one is a LilaError that names them."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    other = [name for name in expected if name in found and found[name] != expected[name]]
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [f"{name} {found[name]} for {expected[name]}" for name in other],
    }
    listed = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in differences.items()
        if names
    ]
    if listed:
        raise LilaError(
            f"expected the {len(expected)} tensors of the chosen network in {place}, found {'; '.join(listed)}; "
            f"choose the network these weights belong to, or other weights with {option}"
        )
    network.load_state_dict(dict(tensors), strict=True)
