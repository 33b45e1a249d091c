"""Tracking through a video by LILA's features: objects by label propagation from masks, points by similarity."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lila_cues.images import read_image
from lila_cues.inputs import VIDEO_SUFFIXES, list_frames
from lila_cues.prefetch import map_ordered, prefetch
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Picture, mask_overlay, trails_overlay, write_label_png
from lila_train.inference.masks import Masks, require_size
from lila_train.inference.points import Points, from_network, to_network
from lila_train.model.lila import Lila
from lila_train.model.prepared import require_finite
from lila_train.model.propagation import Propagation, without
from lila_train.model.resize import Labels, Size, as_input, sample_at, size_of
from lila_train.outputs import Json, name_kept, open_folder, scratch_array
from stores.atomic import atomic_write
from stores.errors import LilaError

RECORD = "track.json"
PENDING = 4  # frames read ahead, and frames waiting to be written
REFINED = 2  # pixels of the network's input around the most similar one, whose soft-argmax is a point's place
TEMPERATURE = 0.02  # of that soft-argmax
TRAIL = 12  # frames of a point's path in the overlay

OnFrame = Callable[[], None]


@dataclass(frozen=True)
class FrameStream:
    """Frames in order, which may be read again, their rate per second, their number if known, height and width."""

    frames: Iterable[Picture]
    rate: Fraction
    count: int | None
    size: Size


def open_output(out: Path, wanted: Json, overwrite: bool) -> None:
    """Create the folder of the results, or open one of the same settings, to replace them; else LilaError."""
    single = [out / "overlay.mp4", out / "tracks.csv"]
    ours = any(path.exists() for path in (*single, out / RECORD))  # numbered PNGs alone may be annotations
    open_folder(out, RECORD, wanted, [*single, *out.glob(f"{'[0-9]' * 5}*.png")] if ours else [], overwrite)


def track(
    model: Lila,
    stream: FrameStream,
    masks: Masks,
    out: Path,
    propagation: Propagation,
    on_frame: OnFrame,
    limit: int | None,
) -> int:
    """Write OUT/00000.png, … (indexed) and OUT/overlay.mp4 of the first `limit` frames; return how many there are."""

    def draw(index: int, picture: Picture, labels: Labels) -> Picture:
        write_label_png(out / f"{index:05d}.png", labels)
        return mask_overlay(picture, labels)

    tracked = islice(follow(model, stream.frames, masks, propagation, out), limit)
    return _write_overlay(out, stream.rate, tracked, draw, on_frame)


def _write_overlay(
    out: Path,
    rate: Fraction,
    tracked: Iterable[tuple[Any, ...]],
    draw: Callable[..., Picture],
    on_frame: OnFrame,
) -> int:
    """Write OUT/overlay.mp4 of what `draw` makes of the number of a frame and what was tracked; return the count."""
    count = 0
    with name_kept(out, lambda: count), VideoWriter(out / "overlay.mp4", rate) as writer:
        for _ in map_ordered(lambda item: writer.write(draw(item[0], *item[1])), enumerate(tracked), PENDING):
            count += 1
            on_frame()
    return count


@torch.inference_mode()
def follow(
    model: Lila, frames: Iterable[Picture], masks: Masks, propagation: Propagation, folder: Path | None = None
) -> Iterator[tuple[Picture, Labels]]:
    """Yield every frame with its labels (values of the mask files).

    An object is carried forward from its marked frames, and backward from the first of them. For the latter, the
    features of the frames up to the last first mark are computed before, and lie in an unnamed file in `folder`.
    """
    first, native = masks.first(), size_of(next(iter(masks.frames.values())))
    sizes, objects = propagation.sizes(native, model.encoder.patch_size), len(masks.values) - 1

    def features_of(frame: Picture) -> Tensor:
        require_size(native, (frame.shape[0], frame.shape[1]))
        return require_finite(propagation.unit_features(frame, model, sizes, model.device), "the model")

    count = max(first.values()) and max(first.values()) + 1
    early = map(features_of, prefetch(islice(frames, count), PENDING))
    cached = _kept((features.cpu().numpy() for features in early), count, folder)
    before = scratch_array((count, objects + 1, *sizes.grid), np.float32, folder)  # of objects not yet marked
    for start in sorted(set(first.values()) - {0}):
        own = [label for label in first if first[label] == start]
        mask = np.where(np.isin(masks.frames[start], own), masks.frames[start], 0).astype(np.uint8)
        backward = (torch.from_numpy(cached[index]).to(model.device) for index in range(start, -1, -1))
        for index, soft in zip(
            range(start, -1, -1), propagation.carry(backward, {0: mask}, objects, sizes), strict=True
        ):
            before[index, own] = soft[own].cpu()
    current: deque[Picture] = deque()

    def features() -> Iterator[Tensor]:
        with closing(prefetch(frames, PENDING)) as ordered:
            for index, frame in enumerate(ordered):
                current.append(frame)
                yield torch.from_numpy(cached[index]).to(model.device) if index < count else features_of(frame)

    def with_later(index: int, soft: Tensor) -> Tensor:
        """Add the objects that are marked later."""
        if later := [label for label in first if first[label] > index]:
            soft = soft.clone()
            soft[later] = torch.from_numpy(before[index, later]).to(soft)
            soft[0] *= (1 - soft[later].sum(0)).clamp(min=0)
        return soft

    for index, soft in enumerate(propagation.carry(features(), masks.frames, objects, sizes, adjust=with_later)):
        mask = masks.frames.get(index, np.zeros(native, np.uint8))
        labels = propagation.hard_labels(without(soft, mask), sizes).byte().cpu().numpy()
        yield current.popleft(), masks.values[np.where(mask > 0, mask, labels)]


def _kept(maps: Iterable[np.ndarray], count: int, folder: Path | None) -> np.ndarray:
    """Return `count` maps of frames from the first on, in an unnamed file; LilaError where there are fewer."""
    kept, found = np.empty(0), 0
    for found, each in enumerate(maps, start=1):
        kept = scratch_array((count, *each.shape), each.dtype, folder) if found == 1 else kept
        kept[found - 1] = each
    if found < count:
        raise LilaError(f"expected frame {count - 1}, for which there is a mask or a point, found {found} frames")
    return kept


def track_points(
    model: Lila,
    stream: FrameStream,
    points: Points,
    out: Path,
    propagation: Propagation,
    on_frame: OnFrame,
    limit: int | None,
) -> int:
    """Write OUT/tracks.csv and OUT/overlay.mp4 of points tracked through the first `limit` frames; return the count.

    A row per frame and point: x and y in pixels of the frame, and the cosine of the features there and at the point.
    """
    table = ["point,frame,x,y,similarity\n"]
    trails: list[deque[tuple[float, float]]] = [deque(maxlen=TRAIL) for _ in points.xy]

    def draw(index: int, picture: Picture, xy: np.ndarray, similarity: np.ndarray) -> Picture:
        for point, ((x, y), cosine) in enumerate(zip(xy.tolist(), similarity.tolist(), strict=True)):
            table.append(f"{point},{index},{x:.2f},{y:.2f},{cosine:.4f}\n")
            trails[point].append((x, y))
        return trails_overlay(picture, trails)

    tracked = islice(follow_points(model, stream.frames, points, propagation, stream.size, out), limit)
    try:
        return _write_overlay(out, stream.rate, tracked, draw, on_frame)
    finally:
        if len(table) > 1:
            atomic_write("".join(table), out / "tracks.csv")


@torch.inference_mode()
def follow_points(
    model: Lila,
    frames: Iterable[Picture],
    points: Points,
    propagation: Propagation,
    native: Size,
    folder: Path | None = None,
) -> Iterator[tuple[Picture, Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]]:
    """Yield every frame with the place of each point, x and y in its pixels, and the similarity there.

    A point is carried forward and backward from its own frame, as `PointTracker` does.
    """
    starts, sizes, rows = points.starts, propagation.sizes(native, model.encoder.patch_size), np.arange(len(points.xy))
    last, places = int(starts.max()), to_network(points.xy, native, sizes.frame)
    radius = round(propagation.window // 2 * min(sizes.frame) / 60)
    for frame in np.unique(starts):
        points.require_inside(rows[starts == frame], native, Path("the video"), int(frame))

    def move(tracker: PointTracker, picture: Picture, index: int) -> None:
        features = require_finite(
            model(as_input(picture, sizes.frame, model.device, propagation.antialias)), "the model"
        )
        unit = F.normalize(features[0].float(), dim=0)
        tracker.step(unit)
        tracker.start(unit, rows[starts == index], places)

    before = np.empty((last + 1, len(rows), 3))  # x, y and similarity, of points carried backward
    if last:
        tracker, earlier = PointTracker(len(rows), radius), _kept(islice(frames, last + 1), last + 1, folder)
        for index in range(last, -1, -1):
            move(tracker, earlier[index], index)
            before[index] = np.column_stack([tracker.xy, tracker.similarity])
    tracker = PointTracker(len(rows), radius)
    with closing(prefetch(frames, PENDING)) as ordered:
        for index, picture in enumerate(ordered):
            if index >= starts.min():
                move(tracker, picture, index)
            later = (starts > index)[:, None]
            found = np.where(later, before[min(index, last)], np.column_stack([tracker.xy, tracker.similarity]))
            yield picture, from_network(found[:, :2], native, sizes.frame), found[:, 2]


class PointTracker:
    """Follows points from frame to frame by the similarity of their features to those of all pixels within a window.

    A point's template is the mean of two unit vectors: the features at its start, and at its latest place. The most
    similar pixel is refined by a soft-argmax over the pixels around it.
    """

    def __init__(self, count: int, radius_px: int) -> None:
        self.radius = radius_px
        self.xy = np.zeros((count, 2))  # in pixels of the network's input
        self.similarity = np.zeros(count)
        self._templates: dict[int, tuple[Tensor, Tensor]] = {}  # at the start and at the latest place, by row

    def step(self, features: Float[Tensor, "d h w"]) -> None:
        """Move the points that have started to their places in the next frame, given its unit features."""
        for row, (start, latest) in self._templates.items():
            x, y = (round(place) for place in self.xy[row].tolist())
            window = _around(features, x, y, self.radius)
            cosines = torch.einsum("d,dyx->yx", F.normalize(start + latest, dim=0), features[:, *window])
            dy, dx = divmod(int(cosines.argmax()), cosines.shape[1])
            rows, columns = _around(cosines, dx, dy, REFINED)
            weights = torch.softmax(cosines[rows, columns].flatten() / TEMPERATURE, 0).view_as(cosines[rows, columns])
            by_row, by_column = weights.sum(1).cpu().numpy(), weights.sum(0).cpu().numpy()
            found_y = window[0].start + rows.start + float(by_row @ np.arange(len(by_row)))
            found_x = window[1].start + columns.start + float(by_column @ np.arange(len(by_column)))
            self._place(row, found_x, found_y, features, start)

    def start(self, features: Float[Tensor, "d h w"], rows: Int[np.ndarray, " m"], places: np.ndarray) -> None:
        """Add points by their rows; `places` are those of all."""
        for row in rows.tolist():
            x, y = places[row].tolist()
            self._place(row, x, y, features, None)

    def _place(self, row: int, x: float, y: float, features: Tensor, start: Tensor | None) -> None:
        place = features.new_tensor([[(x + 0.5) / features.shape[2], (y + 0.5) / features.shape[1]]])
        found = F.normalize(sample_at(features, place)[0], dim=0)
        start = found if start is None else start
        self.xy[row], self.similarity[row], self._templates[row] = (x, y), float(start @ found), (start, found)


def _around(maps: Tensor, x: int, y: int, radius: int) -> tuple[slice, slice]:
    """Return the rows and columns of a window around a pixel, cut at the border."""
    height, width = maps.shape[-2:]
    return slice(max(0, y - radius), min(height, y + radius + 1)), slice(max(0, x - radius), min(width, x + radius + 1))


def open_frames(path: Path) -> FrameStream:
    """Open a video file, or a folder of images in natural order of their names, 25 per second."""
    if path.is_dir():
        files = list_frames(path)
        if not files:
            raise LilaError(f"no image in {path}; expected a video, or a folder of its frames")
        height, width, _ = read_image(files[0]).shape
        return FrameStream(FolderFrames(files), Fraction(25), len(files), (height, width))
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.exists():
        found = f"a {path.suffix or 'nameless'} file" if path.exists() else "nothing"
        raise LilaError(f"expected a video, or a folder of its frames, at {path}; found {found}")
    video = VideoFrames(path)
    return FrameStream(video, video.rate, None, next(iter(video)).shape[:2])


@dataclass(frozen=True)
class FolderFrames:
    """The images of a folder as frames; LilaError at one of another size than those before."""

    files: Sequence[Path]

    def __iter__(self) -> Iterator[Picture]:
        size = None
        for file in self.files:
            picture = read_image(file)
            size, found = size or picture.shape[:2], picture.shape[:2]
            if found != size:
                raise LilaError(
                    f"{file}: expected {size[0]}×{size[1]} like the frames before, found {found[0]}×{found[1]}; "
                    "resize it"
                )
            yield picture
