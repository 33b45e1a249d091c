"""The data sets that stage one reads clips from, by name.

A new one is a file with a subclass of `Dataset` and a row in `DATASETS` (docs/adding-a-data-set.md).
"""

from __future__ import annotations

from pathlib import Path

from lila_cues.datasets.base import Dataset, DatasetOptions
from lila_cues.datasets.frames import Davis, Frames, YoutubeVos
from lila_cues.datasets.videos import Demo, Kinetics, Videos
from lila_cues.inputs import find_dataset
from stores.errors import LilaError

DATASETS: dict[str, type[Dataset]] = {
    "demo": Demo,
    "videos": Videos,
    "frames": Frames,
    "kinetics": Kinetics,
    "youtube-vos": YoutubeVos,
    "davis": Davis,
}


def open_dataset(name: str, root: Path | None = None, options: DatasetOptions | None = None) -> Dataset:
    """Open the data set `name` in the folder that `locate` returns.

    Raises:
        LilaError: an unknown name, a missing folder, or a folder in another layout.
    """
    folder = locate(name, root)
    return DATASETS[name](folder, options or DatasetOptions())


def locate(name: str, root: Path | None = None) -> Path:
    """Return the folder that `find_dataset` finds; the demo's need not exist, since its clips are rendered there."""
    if name not in DATASETS:
        raise LilaError(
            f"expected a data set among {', '.join(DATASETS)}, found {name!r}; pass one of these as --dataset"
        )
    return find_dataset(name, root, create=name == "demo")
