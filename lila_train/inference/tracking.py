"""Objects marked in the first frame of a video, followed through it by label propagation on LILA's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from lila_cues.images import read_image
from lila_cues.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from lila_cues.prefetch import Behind, ahead
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Picture, mask_overlay, write_label_png
from lila_train.model.lila import Lila
from lila_train.model.propagation import Propagation, unit_features
from lila_train.model.resize import Labels
from stores.errors import LilaError

WAITING = 4
_FOLDER_RATE = Fraction(25)


@dataclass(frozen=True)
class FrameStream:
    """Frames in order, their rate per second, and how many there are said to be."""

    frames: Iterable[Picture]
    rate: Fraction
    count: int | None


@dataclass(frozen=True)
class MarkedObjects:
    """Labels 0 (background), 1, 2, … of a frame, and the value that stands for each in the files."""

    labels: Labels
    values: UInt8[np.ndarray, " n"]


@dataclass(frozen=True)
class TrackingSettings:
    """Short side of the frames that the network sees (px; 34 patches for None), frames that vote, window in cells."""

    size: int | None = None
    context: int = 8
    window: int = 25

    @property
    def propagation(self) -> Propagation:
        """That of `davis-knn@lila` with these settings."""
        if self.window % 2 == 0 or self.context < 2:
            raise LilaError(
                f"expected an odd window and at least 2 frames of context, found {self.window} and {self.context}"
            )
        return Propagation(short_side_px=self.size, context_frames=self.context, window=self.window)


def open_film(path: Path) -> FrameStream:
    """A video file, or a folder of images taken in the order of their names."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise LilaError(f"no image in {path}; expected a video, or a folder of its frames")
        return FrameStream((read_image(file) for file in files), _FOLDER_RATE, len(files))
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.exists():
        raise LilaError(f"expected a video, or a folder of its frames, at {path}; found {_what(path)}")
    video = VideoFrames(path)
    return FrameStream(video, video.rate, video.count)


def read_mask(path: Path) -> MarkedObjects:
    """Objects of an indexed PNG by their index; else one per grey level or colour, black being the background."""
    try:
        with Image.open(path) as image:
            array = np.asarray(image if image.mode in ("P", "L", "1", "I;16") else image.convert("RGB"))
            indexed = image.mode == "P"
    except (UnidentifiedImageError, OSError) as error:
        raise LilaError(f"{path} cannot be read as a mask ({error}); expected a PNG of the first frame") from error
    flat = array.reshape(-1, 3) if array.ndim == 3 else array.reshape(-1, 1)
    found, inverse = np.unique(np.vstack([np.zeros_like(flat[:1]), flat]), axis=0, return_inverse=True)
    if not 1 < len(found) <= 255:
        raise LilaError(f"expected 1 to 254 objects on a background of 0 in {path}, found {len(found) - 1}")
    labels = inverse.reshape(-1)[1:].reshape(array.shape[:2]).astype(np.uint8)
    return MarkedObjects(labels, found[:, 0].astype(np.uint8) if indexed else np.arange(len(found), dtype=np.uint8))


@torch.inference_mode()
def follow(
    model: Lila, frames: Iterable[Picture], mask: MarkedObjects, tracking: TrackingSettings
) -> Iterator[tuple[Picture, Labels]]:
    """Every frame with its labels (values as in the mask), the first frame's being the mask's."""
    device = model.device
    ordered = ahead(frames, WAITING)
    first = next(ordered)
    native = (first.shape[0], first.shape[1])
    if mask.labels.shape != native:
        raise LilaError(
            f"expected a mask of the first frame's size, {native[0]}×{native[1]}, found one of "
            f"{mask.labels.shape[0]}×{mask.labels.shape[1]}; make it for the video as it is shown, upright"
        )
    yield first, mask.values[mask.labels]
    propagation = tracking.propagation
    sizes = propagation.sizes(native, model.encoder.patch_size)
    passed: list[Picture] = []

    def cells(frame: Picture) -> torch.Tensor:
        passed[:] = [frame]
        return unit_features(frame, model, sizes, device)

    every = chain([first], ordered)
    for labels in propagation.follow(every, mask.labels, cells, sizes):
        yield passed[0], mask.values[labels]


def track(
    model: Lila,
    stream: FrameStream,
    mask: MarkedObjects,
    out: Path,
    tracking: TrackingSettings,
    on_frame: Callable[[], None],
    limit: int | None,
) -> int:
    """Write OUT/00000.png, … (indexed) and OUT/overlay.mp4; gives the number of frames."""
    if out.exists() and any(out.iterdir()):
        raise LilaError(f"{out} holds files already; pass another --out, or empty it")
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    with VideoWriter(out / "overlay.mp4", stream.rate) as writer, Behind(WAITING) as behind:
        for picture, labels in follow(model, islice(stream.frames, limit), mask, tracking):
            behind.run(lambda n=count, p=picture, values=labels: _write(out, writer, n, p, values))  # type: ignore[misc]
            count += 1
            on_frame()
    return count


def _write(out: Path, writer: VideoWriter, index: int, picture: Picture, labels: Labels) -> None:
    write_label_png(out / f"{index:05d}.png", labels)
    writer.write(mask_overlay(picture, labels))


def _what(path: Path) -> str:
    return f"a {path.suffix or 'nameless'} file" if path.exists() else "nothing"
