"""The interface of a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.video.reader import DecodedClip, Keep, Select


@dataclass(frozen=True)
class DatasetOptions:
    """Settings beside the folder: the video decoder, and the seed of the demo's scenes."""

    decoder: str = "pyav"
    seed: int = 0


class Dataset(ABC):
    """Clips by id. `clips` runs once, in the process that plans; workers only call `read`."""

    def __init__(self, root: Path, options: DatasetOptions):
        self.root, self.options = root, options

    @abstractmethod
    def clips(self) -> Sequence[str]:
        """Return all clip ids in an order that depends on the files alone; LilaError if there are none."""

    @abstractmethod
    def read(self, clip_id: str, select: Select, keep: Keep) -> DecodedClip:
        """Read the frames that `select(n_frames)` names, each through `keep`; LilaError where a clip cannot be read."""

    def path(self, clip_id: str) -> Path:
        """Return the file or folder of a clip whose id is its path below `root`; LilaError if it leaves `root`."""
        relative = PurePosixPath(clip_id)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise LilaError(
                f"expected a clip id within {self.root}, found {clip_id!r}; ids are paths below that folder"
            )
        return self.root / relative
