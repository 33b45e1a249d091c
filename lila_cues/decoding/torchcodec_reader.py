"""torchcodec in its exact mode, by option."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from lila_cues.decoding.reader import FrameReader
from lila_cues.decoding.survey import Survey
from stores.errors import LilaError

INDEXED_CONTAINERS = ("mov,mp4", "matroska", "avi")


class TorchcodecReader(FrameReader):
    """torchcodec's exact mode, upright, one thread; it scans the file once more when it opens it."""

    def __init__(self, path: Path, found: Survey):
        decoders = require_torchcodec()
        self.path, self.times = path, found.times
        try:
            self._video = decoders.VideoDecoder(
                str(path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1
            )
        except (RuntimeError, ValueError):
            self._video = None

    @property
    def agrees(self) -> bool:
        """Whether torchcodec counts the frames that decoding in order has counted."""
        return self._video is not None and len(self._video) == len(self)

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        return self._video.get_frames_at(indices.tolist()).data.numpy()

    def close(self) -> None:
        """Let torchcodec free the file."""
        self._video = None


def require_torchcodec() -> ModuleType:
    """torchcodec's decoders; one sentence where they do not load."""
    try:
        from torchcodec import decoders
    except (ImportError, RuntimeError, OSError) as error:
        raise LilaError(
            "expected torchcodec with FFmpeg's shared libraries for --decoder torchcodec, found none that loads; "
            "`pip install 'lila-pixels[torchcodec]'` and install FFmpeg of the system (apt install ffmpeg), or choose "
            "--decoder decord"
        ) from error
    return decoders
