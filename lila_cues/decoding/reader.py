"""What stage one asks of anything that has frames, and the simplest case: one image file per frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float64, UInt8

from stores.errors import LilaError


class FrameReader(ABC):
    """Frames of one clip by position in presentation order.

    Open it in the process that uses it: a decoder's handle does not survive a fork. Reading in ascending order,
    a few frames at a time, costs one pass over the file.
    """

    times: Float64[np.ndarray, " n"]
    """Seconds from the start of the video, per frame."""

    def __len__(self) -> int:
        return len(self.times)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "n y x 3"]:
        """The frames at `indices`, in that order, RGB, upright; any order, repeats allowed."""
        wanted = np.asarray(indices, np.int64)
        if wanted.size == 0 or wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"frames {wanted.tolist()} asked of a clip that has frames 0 to {len(self) - 1}")
        ascending, position = np.unique(wanted, return_inverse=True)
        return self._ascending(ascending)[position]

    def frame_name(self, index: int) -> str:
        """What files beside the clip call that frame, without a suffix."""
        return f"{index:05d}"

    @abstractmethod
    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        """The frames at strictly ascending `indices`."""

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Release the file."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ImageReader(FrameReader):
    """One image file per frame, in the order given, at `rate` frames per second."""

    def __init__(self, paths: Sequence[Path], rate: float = 24.0):
        self.paths = tuple(paths)
        self.times = np.arange(len(self.paths)) / rate

    def frame_name(self, index: int) -> str:
        """The image file's name without its suffix."""
        return self.paths[index].stem

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        images = [read_image(self.paths[i]) for i in indices]
        for position, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise LilaError(
                    f"{self.paths[position]}: expected {_size(images[0])} like the frames before it, found "
                    f"{_size(image)}; the frames of a clip must have one size"
                )
        return np.stack(images)


def read_image(path: Path) -> UInt8[np.ndarray, "y x 3"]:
    """An image file as RGB; one sentence if it is none."""
    import cv2

    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        found = "a file that no image format fits" if data.size else "an empty file"
        raise LilaError(f"{path}: expected an image, found {found}; copy it again or take it out of the clip")
    return np.ascontiguousarray(image[..., ::-1])


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"
