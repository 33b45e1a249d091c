"""What the user asked of a baseline, and what every baseline must offer.

Other people's code: a clone on this machine, or one revision of a public repository; imported only when asked for.

The code of a clone runs with the user's rights. It is therefore never fetched or imported but for a baseline that the
user has named, and always at the revision in the catalog unless a clone is given.

Networks that turn an encoder's grid into a map of the pixels, from clones of their authors' repositories.

All stand on the same frozen encoder of ours, so that what differs between rows of a table is the upsampler alone.

Weight files of baselines: local, or from where their authors put them; only tensors are ever read.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder, hub, load_encoder
from lila_cues.networks.weights import file_sha256, load_strictly, random_seed, read_content, seeded
from lila_train.evaluation.models import ENCODER, EncoderAlone, GridModel, OnEncoder, encoder_identity
from lila_train.model.resize import size_of, to_size
from stores.errors import LilaError

WEIGHTS_OPTION = "--baseline-weights"


@dataclass(frozen=True)
class BaselineOptions:
    """The options beside a baseline's name; what is None is the baseline's own choice.

    Weights are paths, or "random" or "random:SEED" for untrained ones, as encoders take them.
    """

    encoder: str | None = None
    encoder_weights: Path | str | None = None
    repository: Path | None = None
    weights: Path | str | None = None

    def weights_identity(self) -> dict[str, Any]:
        """What decides the figures of the weights given: the file's hash, else the words."""
        if self.weights is None:
            return {}
        if random_seed(self.weights) is not None:
            return {"baseline_weights": str(self.weights)}
        path = Path(self.weights)
        if path.is_dir():
            return {"baseline_weights_sha256": {file.name: file_sha256(file) for file in sorted(path.glob("*.*"))}}
        if not path.is_file():
            raise LilaError(
                f"expected the baseline's weights at {path}, found none; give their place with {WEIGHTS_OPTION}"
            )
        return {"baseline_weights_sha256": file_sha256(path)}


@runtime_checkable
class Baseline(Protocol):
    """A model of somebody else's, by name."""

    @property
    def heads(self) -> tuple[str, ...]:
        """What is scored: the encoder alone, and the map by the baseline's name where it has one."""
        ...

    def identity(self, asked: BaselineOptions) -> dict[str, Any]:
        """What decides the figures, without loading anything."""
        ...

    def load(self, asked: BaselineOptions, device: torch.device) -> GridModel:
        """The model on the device; LilaError where code or weights are missing or do not fit."""
        ...


REPOSITORY_OPTION = "--baseline-repo"
ARCHIVES = "https://github.com/{repository}/archive/{revision}.zip"


@dataclass(frozen=True)
class Code:
    """A repository at one revision, and a file by which a clone of it is known."""

    repository: str
    revision: str
    marker: str

    def root(self, clone: Path | None) -> Path:
        """The folder of the code: the clone given, the copy of an earlier run, or a fresh one."""
        if clone is not None:
            if not (clone / self.marker).is_file():
                raise LilaError(
                    f"expected a clone of {self.repository}, with {self.marker} in it, found none at {clone}; pass its "
                    f"folder with {REPOSITORY_OPTION}"
                )
            return clone.resolve()
        kept = hub.torch_cache().parent / "lila" / f"{self.repository.replace('/', '_')}_{self.revision[:12]}"
        if not (kept / self.marker).is_file():
            self._download(kept)
        return kept

    def _download(self, kept: Path) -> None:
        url = ARCHIVES.format(repository=self.repository, revision=self.revision)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            archive = Path(folder) / f"{kept.name}.zip"
            hub.download(url, archive, f"pass a clone of {self.repository} with {REPOSITORY_OPTION}")
            try:
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(Path(folder) / "code")
            except (OSError, zipfile.BadZipFile) as error:
                raise LilaError(
                    f"expected the code of {self.repository} as a zip file at {url}, but it cannot be unpacked "
                    f"({error}); pass a clone with {REPOSITORY_OPTION}"
                ) from error
            (top,) = (Path(folder) / "code").iterdir()
            os.replace(top, kept)


@contextmanager
def imported(root: Path, module: str) -> Iterator[ModuleType]:
    """A module of a clone; afterwards its modules are forgotten, so that those of the next may have the same names."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(root))
    try:
        yield importlib.import_module(module)
    except ImportError as error:
        raise LilaError(
            f"the code in {root} needs a package that is not installed or does not work here ({error}); install it, "
            f"see {root / 'README.md'}"
        ) from error
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{root}{os.sep}"):
                del sys.modules[name]


HUB = "hf:"  # hf:OWNER/NAME/FILE


def load_weights(network: nn.Module, place: str, given: Path | str | None, prefixes: Mapping[str, str]) -> None:
    """All of the network's tensors from the file given, else from `place`; as drawn where random ones are asked for.

    `prefixes` says under which prefix of the file each part of the network lies; names under no prefix are left out.
    """
    if random_seed(given) is not None:
        return
    path = Path(given) if given is not None else _fetched(place)
    load_strictly(network, renamed(read_nested(path), prefixes), str(path), WEIGHTS_OPTION)


def renamed(tensors: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under the prefixes on the left, with those on the right instead."""
    return {
        ours + name.removeprefix(theirs): tensor
        for name, tensor in tensors.items()
        for theirs, ours in prefixes.items()
        if name.startswith(theirs)
    }


def read_nested(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name; those of a dictionary in it have its name and a dot in front."""
    return dict(_flattened(read_content(path, WEIGHTS_OPTION), ""))


def _flattened(content: object, name: str) -> list[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        return [(name, content)]
    if not isinstance(content, Mapping):
        return []
    start = f"{name}." if name else ""
    return [found for key, value in content.items() for found in _flattened(value, f"{start}{key}")]


def _fetched(place: str) -> Path:
    if place.startswith(HUB):
        owner, name, file = place.removeprefix(HUB).split("/")
        return hub.fetch(f"{owner}/{name}", file, None, WEIGHTS_OPTION)[0]
    path = hub.torch_cache() / "lila" / place.partition("://")[2].replace("/", "_")
    if not path.is_file():
        hub.download(place, path, f"give a local file with {WEIGHTS_OPTION}")
    return path


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: every one of them was trained so

Call = Callable[[nn.Module, FrozenEncoder, Float[Tensor, "b 3 H W"]], Float[Tensor, "b d y x"]]


@dataclass(frozen=True)
class UpsampledModel(OnEncoder):
    """An encoder and a network on top of it."""

    network: nn.Module
    call: Call
    head: str
    about: Mapping[str, Any]

    @torch.no_grad()
    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """The network's map; one of another size than the image is brought to it bilinearly."""
        return to_size(self.call(self.network, self.below.encoder, images), size_of(images))

    def describe(self) -> dict[str, Any]:
        """Provenance of the encoder, and of the code on top."""
        return self.below.describe() | {"baseline": dict(self.about)}


@dataclass(frozen=True)
class Upsampler:
    """A row of the catalog. `build` makes the network from the code's folder; `weights` says where its file is."""

    name: str
    code: Code
    licence: str
    encoder: str
    weights: str
    build: Callable[[Path, FrozenEncoder], nn.Module]  # of the code's folder
    call: Call
    prefixes: Mapping[str, str] = field(default_factory=lambda: {"": ""})

    @property
    def heads(self) -> tuple[str, ...]:
        """The encoder alone, and the map on top of it by the name of this row."""
        return (ENCODER, self.name)

    def identity(self, asked: BaselineOptions) -> dict[str, Any]:
        """The code's revision (or that it is a clone of the user's), the weights and the encoder."""
        revision = self.code.revision if asked.repository is None else "a local clone"
        chosen = {"baseline": self.name, "repository": self.code.repository, "revision": revision}
        weights = asked.weights_identity() or {"baseline_weights": self.weights}
        return chosen | weights | encoder_identity(asked.encoder or self.encoder, asked.encoder_weights)

    def load(self, asked: BaselineOptions, device: torch.device) -> UpsampledModel:
        """The encoder asked for (or the one that the published weights were trained on) and the network on it."""
        encoder = load_encoder(asked.encoder or self.encoder, asked.encoder_weights, device)
        root = self.code.root(asked.repository)
        with seeded(random_seed(asked.weights)):
            network = self.build(root, encoder)
        load_weights(network, self.weights, asked.weights, self.prefixes)
        network.requires_grad_(False).eval().to(device)
        about = {"name": self.name, "licence": self.licence, **self.identity(asked)}
        return UpsampledModel(EncoderAlone(encoder, device), network, self.call, self.name, about)


def normalized(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Images in [0, 1] as ImageNet's networks take them."""
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std
