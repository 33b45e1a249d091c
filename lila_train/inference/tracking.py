"""Tracking of objects that are marked in the first frame of a video, by label propagation on LILA's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import ImageOps

from lila_cues.images import decode, read_image
from lila_cues.inputs import VIDEO_SUFFIXES, list_frames
from lila_cues.prefetch import map_ordered, prefetch
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Picture, mask_overlay, write_label_png
from lila_train.model.lila import Lila
from lila_train.model.prepared import require_finite
from lila_train.model.propagation import Propagation
from lila_train.model.resize import Labels
from lila_train.outputs import Json, name_kept, open_folder
from stores.errors import LilaError

RECORD = "track.json"
PENDING = 4  # frames read ahead, and frames waiting to be written


@dataclass(frozen=True)
class FrameStream:
    """Frames in order, their rate per second, their number, which a video does not tell, and height and width."""

    frames: Iterable[Picture]
    rate: Fraction
    count: int | None
    size: tuple[int, int]


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
    require_size(mask, native)
    yield first, mask.values[mask.labels]
    sizes = propagation.sizes(native, model.encoder.patch_size)
    current = first

    def features_of(frame: Picture) -> torch.Tensor:
        nonlocal current
        current = frame
        return require_finite(propagation.unit_features(frame, model, sizes, model.device), "the model")

    for labels in propagation.follow(chain([first], ordered), mask.labels, features_of, sizes):
        yield current, mask.values[labels]


def open_frames(path: Path) -> FrameStream:
    """Open a video file, or a folder of images in natural order of their names, 25 per second."""
    if path.is_dir():
        files = list_frames(path)
        if not files:
            raise LilaError(f"no image in {path}; expected a video, or a folder of its frames")
        return FrameStream(_of_one_size(files), Fraction(25), len(files), read_image(files[0]).shape[:2])
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.exists():
        found = f"a {path.suffix or 'nameless'} file" if path.exists() else "nothing"
        raise LilaError(f"expected a video, or a folder of its frames, at {path}; found {found}")
    video = VideoFrames(path)
    return FrameStream(video, video.rate, None, next(iter(video)).shape[:2])


def _of_one_size(files: Sequence[Path]) -> Iterator[Picture]:
    size = None
    for file in files:
        picture = read_image(file)
        size, found = size or picture.shape[:2], picture.shape[:2]
        if found != size:
            raise LilaError(
                f"{file}: expected {size[0]}×{size[1]} like the frames before, found {found[0]}×{found[1]}; resize it"
            )
        yield picture


def read_mask(path: Path) -> MarkedObjects:
    """Read the objects of an indexed PNG by index; of other images by value or color, black is background.

    Transparent pixels are background, and index 255 is void, as in evaluation. LilaError for a mask whose values are no
    labels: negative ones, those of a JPEG, or of soft edges, each of which has no square of 3×3 pixels anywhere.
    """
    stored = decode(path)
    image, is_jpeg = ImageOps.exif_transpose(stored), stored.format == "JPEG"
    alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else None
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        image = image.convert({"L": "L", "P": "P"}.get(image.mode[0], "RGB"))
    array = np.asarray(image if image.mode[0] in "PL1IF" and image.mode != "LAB" else image.convert("RGB"))
    if not (np.isfinite(array) & (array >= 0)).all():
        wrong = "a negative value" if np.isfinite(array).all() else "NaN or infinity"
        raise LilaError(f"expected labels in {path}, found {wrong}; save whole numbers as an indexed PNG")
    flat = array.reshape(-1, 3) if array.ndim == 3 else array.reshape(-1, 1)
    void = np.zeros(len(flat), bool) if alpha is None else alpha.reshape(-1) < 128
    if image.mode == "P":
        void |= flat[:, 0] == 255
    flat = np.where(void[:, None], 0, flat)
    found, inverse = np.unique(np.vstack([np.zeros_like(flat[:1]), flat]), axis=0, return_inverse=True)
    labels = inverse.reshape(-1)[1:].reshape(array.shape[:2])
    squares = sliding_window_view(labels, (3, 3)) if min(labels.shape) >= 3 else labels[:0, :0, None, None]
    solid = len(np.setdiff1d(squares[(squares == squares[..., :1, :1]).all((-2, -1)), 0, 0], [0]))
    slivers = len(found) - 1 - solid
    if is_jpeg or slivers > max(solid, 11 if image.mode == "P" else 1):
        raise LilaError(
            f"expected a value or color per object in {path}, found {len(found) - 1}, {slivers} of them slivers, as a "
            "JPEG or soft edges make them; save the mask as an indexed PNG, without smoothing"
        )
    if not 1 < len(found) <= 255:
        raise LilaError(f"expected 1 to 254 objects on a background of 0 in {path}, found {len(found) - 1}")
    values = found[:, 0].astype(np.uint8) if image.mode == "P" else np.arange(len(found), dtype=np.uint8)
    return MarkedObjects(labels.astype(np.uint8), values)


def require_size(mask: MarkedObjects, frame: tuple[int, int]) -> None:
    """Raise LilaError for a mask of another size than the first frame's, height and width."""
    if (found := mask.labels.shape) != frame:
        turned = "the frame is turned by its metadata: make it for the video as it is shown, upright"
        raise LilaError(
            f"expected a mask of the first frame's size, {frame[0]}×{frame[1]}, found one of {found[0]}×{found[1]}; "
            + (turned if found == frame[::-1] else "make it for that frame, at its size")
        )
