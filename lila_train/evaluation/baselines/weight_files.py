"""Weight files of baselines: local, or from where their authors put them; only tensors are ever read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lila_cues.networks import hub
from lila_cues.networks.weights import load_strictly, random_seed, read_content
from lila_train.evaluation.baselines.asked import WEIGHTS_OPTION

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
