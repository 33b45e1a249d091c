"""Tracking of objects that are marked in the first frame of a video, by label propagation on LILA's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from lila_cues.images import decode, read_image
from lila_cues.inputs import VIDEO_SUFFIXES, list_frames
from lila_cues.prefetch import map_ordered, prefetch
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Picture, mask_overlay, write_label_png
from lila_train.model.lila import Lila, require_finite
from lila_train.model.propagation import Propagation, unit_features
from lila_train.model.resize import Labels
from lila_train.outputs import Json, name_kept, open_folder
from stores.errors import LilaError

RECORD = "track.json"
PENDING = 4  # frames read ahead, and frames waiting to be written


@dataclass(frozen=True)
class FrameStream:
    """Frames in order, their rate per second, and their number, which a video does not tell before its end."""

    frames: Iterable[Picture]
    rate: Fraction
    count: int | None


@dataclass(frozen=True)
class MarkedObjects:
    """Labels 0 (background), 1, 2, … of a frame, and the value in the mask file of each."""

    labels: Labels
    values: UInt8[np.ndarray, " n"]


def open_output(out: Path, wanted: Json, overwrite: bool) -> None:
    """Create the folder of the masks, or open one of the same settings, to replace its masks; else LilaError."""
    overlay = out / "overlay.mp4"
    ours = overlay.exists() or (out / RECORD).exists()  # numbered PNGs alone may be annotations
    open_folder(out, RECORD, wanted, [overlay, *out.glob(f"{'[0-9]' * 5}*.png")] if ours else [], overwrite)


def track(
    model: Lila,
    stream: FrameStream,
    mask: MarkedObjects,
    out: Path,
    propagation: Propagation,
    on_frame: Callable[[], None],
    limit: int | None,
) -> int:
    """Write OUT/00000.png, … (indexed) and OUT/overlay.mp4 of the first `limit` frames; return how many there are."""
    count = 0
    with name_kept(out, lambda: count), VideoWriter(out / "overlay.mp4", stream.rate) as writer:

        def write(item: tuple[int, tuple[Picture, Labels]]) -> None:
            index, (picture, labels) = item
            write_label_png(out / f"{index:05d}.png", labels)
            writer.write(mask_overlay(picture, labels))

        tracked = follow(model, islice(stream.frames, limit), mask, propagation)
        for _ in map_ordered(write, enumerate(tracked), PENDING):
            count += 1
            on_frame()
    return count


@torch.inference_mode()
def follow(
    model: Lila, frames: Iterable[Picture], mask: MarkedObjects, propagation: Propagation
) -> Iterator[tuple[Picture, Labels]]:
    """Yield every frame with its labels (values of the mask file); those of the first frame are the mask."""
    ordered = prefetch(frames, PENDING)
    first = next(ordered)
    native = (first.shape[0], first.shape[1])
    if mask.labels.shape != native:
        raise LilaError(
            f"expected a mask of the first frame's size, {native[0]}×{native[1]}, found one of "
            f"{mask.labels.shape[0]}×{mask.labels.shape[1]}; make it for the video as it is shown, upright"
        )
    yield first, mask.values[mask.labels]
    sizes = propagation.sizes(native, model.encoder.patch_size)
    current = first

    def features_of(frame: Picture) -> torch.Tensor:
        nonlocal current
        current = frame
        return require_finite(unit_features(frame, model, sizes, model.device), "the model")

    for labels in propagation.follow(chain([first], ordered), mask.labels, features_of, sizes):
        yield current, mask.values[labels]


def open_frames(path: Path) -> FrameStream:
    """Open a video file, or a folder of images in natural order of their names, 25 per second."""
    if path.is_dir():
        files = list_frames(path)
        if not files:
            raise LilaError(f"no image in {path}; expected a video, or a folder of its frames")
        return FrameStream((read_image(file) for file in files), Fraction(25), len(files))
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.exists():
        found = f"a {path.suffix or 'nameless'} file" if path.exists() else "nothing"
        raise LilaError(f"expected a video, or a folder of its frames, at {path}; found {found}")
    video = VideoFrames(path)
    return FrameStream(video, video.rate, None)


def read_mask(path: Path) -> MarkedObjects:
    """Read the objects of an indexed PNG by index; of other images by gray level or color, black is background."""
    image = decode(path)
    array = np.asarray(image if image.mode in ("P", "L", "1", "I;16") else image.convert("RGB"))
    flat = array.reshape(-1, 3) if array.ndim == 3 else array.reshape(-1, 1)
    found, inverse = np.unique(np.vstack([np.zeros_like(flat[:1]), flat]), axis=0, return_inverse=True)
    if not 1 < len(found) <= 255:
        raise LilaError(f"expected 1 to 254 objects on a background of 0 in {path}, found {len(found) - 1}")
    labels = inverse.reshape(-1)[1:].reshape(array.shape[:2]).astype(np.uint8)
    return MarkedObjects(
        labels, found[:, 0].astype(np.uint8) if image.mode == "P" else np.arange(len(found), dtype=np.uint8)
    )
