"""Weight files of baselines: local, or from where their authors put them; only tensors are ever read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lila_cues.networks import hub
from lila_cues.networks.weights import load_strictly, random_seed
from lila_train.evaluation.baselines.asked import WEIGHTS_OPTION
from stores.errors import LilaError

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
    """The tensors of a PyTorch file by name; those of a dictionary in it have its name and a dot in front."""
    if not path.is_file():
        raise LilaError(f"expected weights at {path}, found none; give their place with {WEIGHTS_OPTION}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of older formats, which are read all the same
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # anything at all: these are bytes of somebody else's, read as a pickle
        reason = str(error).split("\n", maxsplit=1)[0]
        raise LilaError(
            f"expected tensors without pickled code in {path}, but it cannot be read ({reason}); give another file "
            f"with {WEIGHTS_OPTION}"
        ) from error
    return dict(_flattened(content, ""))


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
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(place, str(path), progress=False)
        except OSError as error:
            raise LilaError(
                f"expected weights at {place}, but they cannot be had ({error}); go online once, or give a local file "
                f"with {WEIGHTS_OPTION}"
            ) from error
    return path
