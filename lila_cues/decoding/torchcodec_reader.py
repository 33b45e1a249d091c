"""torchcodec in its exact mode, by option."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lila_cues.decoding.reader import FrameReader
from lila_cues.decoding.survey import Survey
from stores.errors import LilaError


class TorchcodecReader(FrameReader):
    """torchcodec's exact mode: right on all formats, where FFmpeg's shared libraries are on the machine."""

    def __init__(self, path: Path, found: Survey):
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:
            raise LilaError(
                "expected torchcodec with FFmpeg's shared libraries, found none that loads; "
                "`pip install torchcodec` in the version that fits torch, or choose --decoder decord"
            ) from error
        self.path, self.times = path, found.times
        self._video = VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1)

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        return self._video.get_frames_at(indices.tolist()).data.numpy()

    def close(self) -> None:
        self._video = None
