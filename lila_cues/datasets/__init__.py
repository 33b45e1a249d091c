"""The data sets that stage one reads clips from, by name.

A new one is a file with a subclass of `Dataset` and a row in `DATASETS` (docs/adding-a-data-set.md).
"""

from __future__ import annotations

import os
from pathlib import Path

from lila_cues.datasets.base import Dataset, DatasetOptions
from lila_cues.datasets.frames import Davis, Frames, YoutubeVos
from lila_cues.datasets.videos import Demo, Kinetics, Videos
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
    """Return the absolute path of a data set: `root`, else `$LILA_DATA/NAME`, else `data/NAME`.

    The folder has to exist, except for the demo, which renders its clips there.
    """
    if name not in DATASETS:
        raise LilaError(
            f"expected a data set among {', '.join(DATASETS)}, found {name!r}; pass one of these as --dataset"
        )
    lila_data = os.environ.get("LILA_DATA")
    if root is not None:
        places = [Path(root)]
    else:
        places = [*([Path(lila_data) / name] if lila_data else []), Path("data") / name]
    folder = next((place for place in places if place.is_dir()), places[0] if name == "demo" else None)
    if folder is None:
        searched = " and ".join(str(place) for place in places)
        hint = "" if root is not None or lila_data else " (LILA_DATA is not set)"
        raise LilaError(
            f"expected the data set {name}, found no folder at {searched}{hint}; "
            f"pass --root with the folder that holds it, or set LILA_DATA to the folder above {name}/"
        )
    return folder.absolute()
