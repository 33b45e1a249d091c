"""Models of other authors, to be scored beside LILA: one file each, found by name or by path.

`--baseline anyup` is `anyup.py` in this folder; `--baseline my_model.py` is a file of the user's. Such a file has

    build(encoder) -> nn.Module               the network on top of the frozen encoder
    call(network, encoder, images) -> Tensor  its b×d×y×x map; images are b×3×H×W in [0, 1]

and, where they apply, the constants REPOSITORY, REVISION and MARKER (the code's GitHub repository, a commit, and a file
by which a clone is recognized), WEIGHTS (`https://…` or `hf:OWNER/NAME/FILE`), PREFIXES (names in the weight file →
names in the network), ENCODER (the one that the weights were trained on) and LICENSE; and the functions

    finish(network) -> nn.Module                  the network to call, once its weights are loaded
    estimate(network, encoder, images) -> float   seconds that a call will take, for one that may take minutes

A model that is an encoder itself has `transformer(place)` instead of `build` and `call` (`_video.py`). All the others
stand on the same frozen encoder, so that the rows of a table differ by the network on top alone.

The code of a repository runs with the user's rights. It is fetched and imported only for the baseline that the user
named, and at the revision given here unless the user passes a clone.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from lila_cues.console import duration, err
from lila_cues.networks import FrozenEncoder, hub, load_encoder
from lila_cues.networks.weights import file_sha256, load_strictly, random_seed, read_content, seeded
from lila_train.evaluation.models import ENCODER, EncoderAlone, GridModel, taps_of
from lila_train.model.released import encoder_weights_identity
from lila_train.model.resize import size_of, to_size
from stores.errors import LilaError

FOLDER = Path(__file__).parent
ARCHIVE_URL = "https://github.com/{repository}/archive/{revision}.zip"
HUB = "hf:"
SLOW_SECONDS = 60  # of an image, from which on it is said before
REPOSITORY_OPTION, WEIGHTS_OPTION = "--baseline-repo", "--baseline-weights"
FUNCTIONS = ("build", "call", "transformer", "finish", "estimate")
CONSTANTS = ("REPOSITORY", "REVISION", "MARKER", "WEIGHTS", "PREFIXES", "ENCODER", "LICENSE")

Call = Callable[[nn.Module, FrozenEncoder, Float[Tensor, "b 3 H W"]], Float[Tensor, "b d y x"]]


@dataclass(frozen=True)
class BaselineOptions:
    """The options beside a baseline's name; None is the baseline's own choice.

    Weights are paths, or "random" or "random:SEED" for untrained ones, as encoders take them.
    """

    encoder: str | None = None
    encoder_weights: Path | str | None = None
    baseline_repo: Path | None = None
    baseline_weights: Path | str | None = None

    def weights_identity(self) -> dict[str, Any]:
        """Return what decides the result of the weights given: hashes of the files, or "random:SEED"."""
        if self.baseline_weights is None:
            return {}
        if random_seed(self.baseline_weights) is not None:
            return {"baseline_weights": str(self.baseline_weights)}
        path = Path(self.baseline_weights)
        if path.is_dir():
            return {"baseline_weights_sha256": {file.name: file_sha256(file) for file in sorted(path.glob("[!.]*.*"))}}
        if not path.is_file():
            raise LilaError(
                f"expected the baseline's weights at {path}, found none; give their place with {WEIGHTS_OPTION}"
            )
        return {"baseline_weights_sha256": file_sha256(path)}


@dataclass(frozen=True)
class Baseline:
    """The functions and constants of a baseline's file; see the module docstring."""

    name: str
    build: Callable[[FrozenEncoder], nn.Module] | None = None
    call: Call | None = None
    transformer: Callable[[str], Any] | None = None
    finish: Callable[[nn.Module], nn.Module] | None = None
    estimate: Callable[[nn.Module, FrozenEncoder, Tensor], float] | None = None
    repository: str | None = None
    revision: str | None = None
    marker: str = "README.md"
    weights: str | None = None
    prefixes: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    encoder: str | None = None
    license: str | None = None
    path: Path | None = None  # of a user's file

    @property
    def heads(self) -> tuple[str, ...]:
        """The grid of the encoder, and the map on top of it under the baseline's name."""
        return (ENCODER,) if self.transformer else (ENCODER, self.name)

    def identity(self, options: BaselineOptions) -> dict[str, Any]:
        """Return what decides the result: the file, the code's revision, weights and encoder."""
        chosen: dict[str, Any] = {"baseline": self.name}
        if self.path is not None:
            chosen["baseline_sha256"] = file_sha256(self.path)
        if self.repository is not None:
            revision = self.revision if options.baseline_repo is None else "a local clone"
            chosen |= {"repository": self.repository, "revision": revision}
        chosen |= options.weights_identity() or ({"baseline_weights": self.weights} if self.weights else {})
        if self.transformer is None:
            chosen |= {"encoder": self._encoder(options)} | encoder_weights_identity(options.encoder_weights)
        return chosen

    def load(self, options: BaselineOptions, device: torch.device) -> GridModel:
        """Load the network and, below it, the encoder; LilaError where code, weights or hub are not available."""
        about = {"name": self.name, "licence": self.license, **self.identity(options)}
        place = options.baseline_weights or self.weights
        if self.transformer is not None:
            if options.encoder is not None or (options.baseline_repo is not None and self.repository is None):
                raise LilaError(f"--encoder and {REPOSITORY_OPTION} do not apply to {self.name}, which is an encoder")
            with seeded(random_seed(options.baseline_weights)), self.importable(options.baseline_repo):
                transformer = self.transformer(str(place))
            if self.repository is not None:
                load_weights(transformer, place, self.prefixes)
            transformer.about = about
            return transformer.requires_grad_(False).eval().to(device)
        assert self.call is not None
        encoder = load_encoder(self._encoder(options), options.encoder_weights, device)
        network = self.network(encoder, options.baseline_repo, place)
        return UpsampledModel(encoder, device, network, self.call, self.name, about, self.estimate)

    def network(self, encoder: FrozenEncoder, clone: Path | None, place: Path | str | None) -> nn.Module:
        """Return the network on top of an encoder, on its device and ready to be called."""
        assert self.build is not None
        with seeded(random_seed(place)), self.importable(clone):
            network = self.build(encoder)
        load_weights(network, place, self.prefixes)
        network.requires_grad_(False).eval().to(next(encoder.parameters()).device)
        if self.finish is not None:
            with self.importable(clone):
                network = self.finish(network)
        return network

    @contextmanager
    def importable(self, clone: Path | None) -> Iterator[None]:
        """Make the modules of the repository importable; its errors and warnings get the baseline's name."""
        with importable(self.code(clone), self.name), named_warnings(self.name):
            yield

    def code(self, clone: Path | None) -> Path | None:
        """Return the folder of the repository: the clone, the copy of an earlier run, or a fresh one; None: no code."""
        if self.repository is None:
            return clone and clone.resolve()
        if clone is not None:
            if not (clone / self.marker).is_file():
                raise LilaError(
                    f"expected a clone of {self.repository}, with {self.marker} in it, found none at {clone}; pass its "
                    f"folder with {REPOSITORY_OPTION}"
                )
            return clone.resolve()
        cached = hub.torch_cache().parent / "lila" / f"{self.repository.replace('/', '_')}_{str(self.revision)[:12]}"
        if not (cached / self.marker).is_file():
            url = ARCHIVE_URL.format(repository=self.repository, revision=self.revision)
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
                archive = Path(folder) / f"{cached.name}.zip"
                hub.download(url, archive, f"pass a clone of {self.repository} with {REPOSITORY_OPTION}")
                try:
                    shutil.unpack_archive(archive, Path(folder) / "code")
                except (OSError, shutil.ReadError) as error:
                    raise LilaError(
                        f"expected the code of {self.repository} as a zip file at {url}, but it cannot be unpacked "
                        f"({error}); pass a clone with {REPOSITORY_OPTION}"
                    ) from error
                (top,) = (Path(folder) / "code").iterdir()
                os.replace(top, cached)
        return cached

    def _encoder(self, options: BaselineOptions) -> str:
        name = options.encoder or self.encoder
        if name is None:
            raise LilaError(f"expected an encoder for --baseline {self.name}, found none; name one with --encoder")
        return name


def names() -> list[str]:
    """Return the names of the baselines in this folder."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("[a-z]*.py"))


@functools.cache
def find(name: str) -> Baseline:
    """Return a baseline by its name, or by the path of a file that ends in `.py`."""
    path = None
    if name.endswith(".py"):
        path = Path(name)
        name = path.stem
        if not path.is_file():
            raise LilaError(
                f"expected a Python file with a baseline at {path}, found none; pass its path with --baseline"
            )
        if name == ENCODER:
            raise LilaError(
                f"expected another name than {path}, since {ENCODER} names the grid in results; rename the file"
            )
        module = ModuleType(f"lila_baseline_{name}")
        sys.modules[module.__name__] = module  # dataclasses look their module up
        try:
            SourceFileLoader(module.__name__, str(path)).exec_module(module)
        except Exception as error:  # the user's code may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise LilaError(f"the baseline {path} cannot be imported ({reason}); fix it") from error
    elif name in names():
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    else:
        raise LilaError(f"expected a baseline, one of {', '.join(names())}, or the path of a .py file, found {name}")
    functions = {key: getattr(module, key) for key in FUNCTIONS if hasattr(module, key)}
    if "transformer" not in functions and not {"build", "call"} <= functions.keys():
        raise LilaError(
            f"expected build(encoder) and call(network, encoder, images) in {path}, found "
            f"{' and '.join(functions) or 'neither'}; see docs/adding-a-model.md"
        )
    constants = {key.lower(): getattr(module, key) for key in CONSTANTS if hasattr(module, key)}
    return Baseline(name, **functions, **constants, path=path)


@dataclass(frozen=True)
class UpsampledModel(EncoderAlone):
    """A frozen encoder and a network on top of it."""

    network: nn.Module
    call: Call
    head: str
    about: Mapping[str, Any]
    estimate: Callable[[nn.Module, FrozenEncoder, Tensor], float] | None = None
    announced: set[str] = field(default_factory=set)  # messages that come once

    @torch.no_grad()
    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """Return the network's map, resized bilinearly to the images where it has another size."""
        if self.estimate is not None and "estimate" not in self.announced:
            self.announced.add("estimate")
            if (seconds := self.estimate(self.network, self.encoder, images)) > SLOW_SECONDS:
                height, width = size_of(images)
                err.print(
                    f"{self.head}: about {duration(seconds)} for an image of {width}×{height} px on this device",
                    style="yellow",
                )
        with named_warnings(self.head):
            return to_size(self.call(self.network, self.encoder, images), size_of(images))

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"baseline": dict(self.about)}


@contextmanager
def importable(root: Path | None, name: str = "baseline") -> Iterator[None]:
    """Make the modules in `root` importable; forget them afterwards, since other clones may use the same names.

    Whatever the code raises meanwhile becomes a LilaError of one sentence.
    """
    modules, path = set(sys.modules), list(sys.path)
    if root is not None:
        sys.path.insert(0, str(root))
    try:
        yield
    except LilaError:
        raise
    except Exception as error:
        code = "the baseline's code" if root is None else f"the code in {root}"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, ImportError):
            remedy = "install it" if root is None else f"pip install 'lila-pixels[baselines]', or see {root}/README.md"
            raise LilaError(
                f"{code} needs a package that is not installed or does not work here ({error}); {remedy}"
            ) from error
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise LilaError(
            f"{code} failed for --baseline {name} ({reason}, in {last.filename}, line {last.lineno}); use the revision "
            "that docs/adding-a-model.md names, or correct the file"
        ) from error
    finally:
        sys.path[:] = path
        for module in [module for module in set(sys.modules) - modules if root and _inside(root, sys.modules[module])]:
            del sys.modules[module]


def _inside(root: Path, module: ModuleType) -> bool:
    """Whether a module, or a package without a file, lies in the folder."""
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(str(place).startswith(f"{root}{os.sep}") for place in places)


@contextmanager
def named_warnings(name: str) -> Iterator[None]:
    """Issue the warnings of a baseline's code with its name in front."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        warnings.warn(f"{name}: {warning.message}", warning.category, stacklevel=3)


@contextmanager
def replaced_modules(*names: str, **functions: Callable[..., Any]) -> Iterator[None]:
    """Replace compiled modules by ones with these functions, while code that keeps references to them is imported."""
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    for name in names:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(functions)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


def load_weights(network: nn.Module, place: Path | str | None, prefixes: Mapping[str, str]) -> None:
    """Load all tensors of a network from a file, a URL or the hub; nothing for random weights or None.

    Tensors under a prefix on the left of `prefixes` get the one on the right instead; the others are left out. Those
    that `network.given` names, such as of an encoder inside of the network, need not be in the file.
    """
    if place is None or random_seed(place) is not None:
        return
    path, text = Path(place), str(place)
    if text.startswith(HUB):
        owner, name, file = text.removeprefix(HUB).split("/")
        path = hub.fetch(f"{owner}/{name}", file, None, WEIGHTS_OPTION)[0]
    elif text.startswith(("https://", "file://")):
        path = hub.torch_cache() / "lila" / text.partition("://")[2].replace("/", "_")
        if not path.is_file():
            hub.download(text, path, f"give a local file with {WEIGHTS_OPTION}")
    tensors = {
        ours + name.removeprefix(theirs): tensor
        for name, tensor in read_nested(path).items()
        for theirs, ours in prefixes.items()
        if name.startswith(theirs)
    }
    given = {name: tensor for name, tensor in network.state_dict().items() if name in vars(network).get("given", ())}
    load_strictly(network, given | tensors, str(path), WEIGHTS_OPTION)


def read_nested(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name; those of nested dictionaries have dotted names."""

    def flatten(content: object, name: str) -> Iterator[tuple[str, Tensor]]:
        if isinstance(content, Tensor):
            yield name, content
        elif isinstance(content, Mapping):
            for key, value in content.items():
                yield from flatten(value, f"{name}.{key}" if name else str(key))

    return dict(flatten(read_content(path, WEIGHTS_OPTION), ""))


def grid_of(encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
    """Return `encoder.grid(images)`, computed once for the network and for probes that read the grid too.

    A copy, since the code of others may change it in place.
    """
    return taps_of(encoder, images)[-1].clone()


def normalized(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Return images in [0, 1] with ImageNet's mean and standard deviation removed."""
    return normalize(images, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
