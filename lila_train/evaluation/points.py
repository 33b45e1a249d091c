"""Points found again by nearest neighbors: semantic correspondence (`spair71k-knn`), tracking (`tapvid-davis@first`).

The feature of a point is compared by cosine with every cell of the other map; the answer is the center of the most
similar one. Settings and figures are described in docs/protocols.md, "Points". Sources: Min et al., SPair-71k (2019);
the evaluation code of ViT-Up; Doersch et al., TAP-Vid (NeurIPS 2022); Aydemir et al., arXiv 2408.13575.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from lila_cues.images import read_stored
from lila_cues.inputs import list_files, read_text
from lila_cues.viz.pictures import trails_overlay, write_png
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense.metrics import MeanSums
from lila_train.evaluation.dense.task import example_indices
from lila_train.evaluation.harness import Task
from lila_train.evaluation.models import GridModel, feature_map
from lila_train.model.resize import Image, Size, as_input, sample_at, size_of, to_size, whole_patches
from lila_train.outputs import Json
from stores.errors import LilaError

Places = Float[np.ndarray, "_ 2"]  # x, y
Marked = tuple[UInt8[np.ndarray, "_ _ 3"], Places]  # an image, and points in its pixels

SPAIR_LIST = "Layout/large/test.txt"
TAPVID_DISTANCES_PX = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class SpairSettings:
    """Images are centered on a black square and resized; the map is brought to the same size.

    A point is right within `alpha` times the larger side of the target's bounding box.
    """

    side_px: int = 448
    alpha: float = 0.1
    antialias: bool = True

    def input_size(self, patch_size: int) -> Size:
        return whole_patches((self.side_px, self.side_px), patch_size)


@dataclass(frozen=True)
class TapvidSettings:
    """Frames are resized to the size in which distances are measured, then to a grid of `grid_cells`² patches.

    A point counts as visible where the cosine to its feature in the frame of the query is at least `visible_cosine`.
    """

    video_px: int = 256
    grid_cells: int = 32
    visible_cosine: float = 0.6

    def input_size(self, patch_size: int) -> Size:
        return self.grid_cells * patch_size, self.grid_cells * patch_size


@dataclass(frozen=True)
class SpairPair:
    """Source and target image of one category, the points that they share in pixels, the larger side of a box."""

    images: tuple[Path, Path]
    points: tuple[Places, Places]
    box_px: float


@dataclass(frozen=True)
class Tracks:
    """The tracks of one video that are visible in some frame; a query is the first visible place of its track."""

    path: Path
    xy: Float[np.ndarray, "n t 2"]  # 0 to 1 over width and height
    occluded: Bool[np.ndarray, "n t"]

    def video(self) -> UInt8[np.ndarray, "t h w 3"]:
        """Read the frames; LilaError where they are no video of this length."""
        (video,) = _arrays(self.path, "video")
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[::3] != (self.xy.shape[1], 3):
            raise LilaError(
                f"expected video as uint8 {self.xy.shape[1]}×height×width×3 in {self.path}, found {_kind(video)}; "
                "convert it again"
            )
        return video


@dataclass(frozen=True)
class PointData:
    """A listed data set: the pairs of each category, or the tracks of each video."""

    root: Path
    about: dict[str, Any]
    items: Mapping[str, Any]
    files: Sequence[Path]
    checks: Sequence[Callable[[], object]]


@dataclass(frozen=True)
class PointTask(Task):
    """What both protocols have in common; a part is a category or a video."""

    data: PointData
    rule: SpairSettings | TapvidSettings

    def derived(self, model: GridModel) -> dict[str, Any]:
        return {"frame_px": list(self.rule.input_size(model.patch_size))}

    def example(self, part: str) -> int | None:
        """Return the number of a part of which a picture is kept, else None."""
        number = list(self.data.items).index(part)
        return number if number in example_indices(len(self.data.items)) else None


def open_spair(root: Path, limit: int | None) -> PointData:
    """Read the first `limit` pairs of the test list; LilaError for another layout or a damaged annotation."""
    listed = root / SPAIR_LIST
    if not listed.is_file():
        raise LilaError(f"expected {SPAIR_LIST}, found none in {root}; pass the folder SPair-71k")
    files = [root / "PairAnnotation/test" / f"{name}.json" for name in read_text(listed).split()[:limit]]
    pairs: dict[str, list[SpairPair]] = {}
    for path in files:
        try:
            content = json.loads(read_text(path))
            folder = root / "JPEGImages" / content["category"]
            source, target = (folder / content[f"{end}_imname"] for end in ("src", "trg"))
            one, other = (np.array(content[f"{end}_kps"], float).reshape(-1, 2) for end in ("src", "trg"))
            left, top, right, bottom = map(float, content["trg_bndbox"])
            if not 0 < len(one) == len(other) or not max(right - left, bottom - top) > 0:
                raise ValueError(f"{len(one)} and {len(other)} points, a box of {right - left:g}×{bottom - top:g} px")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LilaError(
                "expected category, src_imname, trg_imname, as many src_kps as trg_kps, and trg_bndbox of a pair in "
                f"{path}, but it cannot be read ({error}); restore the file"
            ) from error
        pair = SpairPair((source, target), (one, other), max(right - left, bottom - top))
        pairs.setdefault(content["category"], []).append(pair)
    points: dict[Path, list[Places]] = {}
    for pair in (pair for each in pairs.values() for pair in each):
        for image, places in zip(pair.images, pair.points, strict=True):
            points.setdefault(image, []).append(places)
    if missing := [image for image in sorted(points) if not image.is_file()]:
        raise LilaError(f"expected the images of all test pairs, found no {missing[0]}; restore the file")
    checks = [partial(_check_points, image, np.concatenate(places)) for image, places in points.items()]
    return PointData(root, {"layout": "SPair-71k test"}, pairs, [*files, *sorted(points)], checks)


@dataclass(frozen=True)
class SpairTask(PointTask):
    """`spair71k-knn`: each image of a category is computed once as source and once as target."""

    rule: SpairSettings

    def parts(self) -> dict[str, int]:
        """Return the number of images to compute, by category."""
        return {name: sum(len({p.images[n] for p in each}) for n in (0, 1)) for name, each in self.data.items.items()}

    def counts(self) -> dict[str, int]:
        pairs = [pair for each in self.data.items.values() for pair in each]
        points = sum(len(pair.points[1]) for pair in pairs)
        return {"categories": len(self.data.items), "pairs": len(pairs), "points": points}

    @torch.no_grad()
    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        pairs: Sequence[SpairPair] = self.data.items[part]
        vectors: dict[int, Tensor] = {}
        correct = [0] * len(pairs)
        for end, image in ((end, image) for end in (0, 1) for image in sorted({pair.images[end] for pair in pairs})):
            rgb = read_stored(image)
            margin, side = _margin(rgb)
            features = self._unit_features(model, head, rgb)
            for n, pair in ((n, pair) for n, pair in enumerate(pairs) if pair.images[end] == image):
                if end == 0:
                    places = torch.from_numpy((pair.points[0] + margin) / side).to(features)
                    vectors[n] = sample_at(features, places, nearest=True)
                    continue
                found = nearest(vectors[n], features)[0].cpu().double().numpy() * side - margin
                away = np.linalg.norm(found - pair.points[1], axis=1)
                correct[n] = int((away <= self.rule.alpha * pair.box_px).sum())
                if n == 0 and (number := self.example(part)) is not None:
                    source = read_stored(pair.images[0])
                    keep_points(folder, number, head, (source, pair.points[0]), (rgb, pair.points[1]), found)
            advance()
        return {"correct": correct, "points": [len(pair.points[1]) for pair in pairs]}

    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        """Return PCK as the mean over pairs, then over categories, and over all points."""
        right, counts = zip(*((np.array(r["correct"]), np.array(r["points"])) for r in records), strict=True)
        by_category = [(ours / all_).mean() for ours, all_ in zip(right, counts, strict=True)]
        return {
            "pck_image": float(np.mean(by_category)),
            "pck_point": float(np.concatenate(right).sum() / np.concatenate(counts).sum()),
        }

    def _unit_features(self, model: GridModel, head: str, rgb: Image) -> Float[Tensor, "d h w"]:
        """Return features of unit length on the square; see `SpairSettings`."""
        (left, top), side = _margin(rgb)
        height, width = rgb.shape[:2]
        square = np.pad(rgb, ((top, side - height - top), (left, side - width - left), (0, 0)))
        frame = as_input(square, self.rule.input_size(model.patch_size), model.device, self.rule.antialias)
        return F.normalize(to_size(feature_map(model, head)(frame), (self.rule.side_px,) * 2)[0], dim=0)


def spair_task(data: Path, config: EvalConfig) -> SpairTask:
    """Open SPair-71k for `spair71k-knn`."""
    return SpairTask("spair71k-knn", open_spair(data, config.limit), config, SpairSettings())


def _margin(rgb: Image) -> tuple[Int[np.ndarray, " 2"], int]:
    """Return the black columns and rows before an image that is centered on a square, and the square's side."""
    side = max(rgb.shape[:2])
    return np.array([(side - rgb.shape[1]) // 2, (side - rgb.shape[0]) // 2]), side


def _check_points(path: Path, points: Places) -> None:
    height, width = read_stored(path).shape[:2]
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise LilaError(
                f"expected points within the {width}×{height} px of {path}, found {x:g}, {y:g}; restore the image"
            )


def open_tapvid(root: Path, limit: int | None) -> PointData:
    """Read the tracks of the first `limit` videos; LilaError for another layout, or points that are not fractions."""
    files = list_files(root, {".npz"})[:limit]
    if not files:
        found = "a pickle, which may run code when it is opened" if list_files(root, {".pkl"}) else "none"
        raise LilaError(
            f"expected one .npz per video with video, points and occluded in {root}, found {found}; convert TAP-Vid as "
            "docs/protocols.md shows"
        )
    tracks = {path.stem: _tracks(path) for path in files}
    checks = [each.video for each in tracks.values()]
    return PointData(root, {"layout": "TAP-Vid, one .npz per video"}, tracks, files, checks)


def _arrays(path: Path, *names: str) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as content:
            return [content[name] for name in names]
    except Exception as error:  # foreign bytes can raise anything
        raise LilaError(
            f"expected the arrays video, points and occluded in {path}, but {' and '.join(names)} cannot be read "
            f"({error}); convert it again as docs/protocols.md shows"
        ) from error


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {'×'.join(map(str, array.shape))}"


def _tracks(path: Path) -> Tracks:
    points, occluded = _arrays(path, "points", "occluded")
    if points.shape != (*occluded.shape, 2) or points.dtype.kind != "f" or (occluded.dtype, occluded.ndim) != (bool, 2):
        raise LilaError(
            "expected points as floats of shape tracks×frames×2 and occluded as booleans of shape tracks×frames in "
            f"{path}, found {_kind(points)} and {_kind(occluded)}; convert it again"
        )
    seen = ~occluded.all(axis=1)
    points, occluded = points[seen].astype(np.float64), occluded[seen]
    visible = points[~occluded]
    if occluded.shape[1] < 2 or not ((visible >= 0) & (visible <= 1)).all() or not visible.size:
        found = f"{visible.min():.4g} to {visible.max():.4g}" if visible.size else "no visible point"
        raise LilaError(
            f"expected two frames or more, and visible points as fractions of width and height, 0 to 1, in {path}, "
            f"found {occluded.shape[1]} frames and {found}; divide pixels by the size of the video"
        )
    return Tracks(path, points, occluded)


@dataclass(frozen=True)
class TapvidTask(PointTask):
    """`tapvid-davis@first`: each video is tracked frame by frame, from the first visible place of every track."""

    rule: TapvidSettings

    def parts(self) -> dict[str, int]:
        """Return the number of frames, by video."""
        return {name: tracks.xy.shape[1] for name, tracks in self.data.items.items()}

    def counts(self) -> dict[str, int]:
        points = sum(len(tracks.xy) for tracks in self.data.items.values())
        return {"videos": len(self.data.items), "points": points, "frames": sum(self.parts().values())}

    @torch.no_grad()
    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        tracks: Tracks = self.data.items[part]
        start, xy, occluded = tracks.occluded.argmin(axis=1), tracks.xy.copy(), tracks.occluded.copy()
        video, vectors = tracks.video(), dict[int, Tensor]()
        pixels, size = self.rule.video_px, self.rule.input_size(model.patch_size)
        for t, frame in enumerate(video):
            image = as_input(frame, (pixels, pixels), model.device, antialias=True)
            features = feature_map(model, head)(to_size(image, size))[0]
            if rows := list(vectors):
                places, cosines = nearest(torch.stack([*vectors.values()]), F.normalize(features, dim=0))
                xy[rows, t] = places.cpu().numpy()
                occluded[rows, t] = (cosines < self.rule.visible_cosine).cpu().numpy()
            new = np.flatnonzero(start == t)
            queries = sample_at(features, torch.from_numpy(tracks.xy[new, t]).to(features))
            vectors |= zip(new.tolist(), queries, strict=True)
            advance()
        if (number := self.example(part)) is not None:
            native, first = np.array(video.shape[2:0:-1]), int(start.min())
            before = video[first], tracks.xy[start == first, first] * native
            shown = (start < len(video) - 1) & ~tracks.occluded[:, -1]
            keep_points(
                folder, number, head, before, (video[-1], tracks.xy[shown, -1] * native), xy[shown, -1] * native
            )
        sums = tracking_scores(start, tracks.xy * pixels, tracks.occluded, xy * pixels, occluded)
        return {"frames": len(video), "sums": sums.to_json()}

    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        """Return the means over videos."""
        sums = reduce(add, (MeanSums(record["sums"]) for record in records), MeanSums())
        return {name: sums.mean(name) for name in ("delta_avg", "occlusion_accuracy", "average_jaccard")}


def tapvid_task(data: Path, config: EvalConfig) -> TapvidTask:
    """Open a folder of converted TAP-Vid videos for `tapvid-davis@first`."""
    rule, config = config.applied_to(TapvidSettings(), {"visible_cosine": "visible_cosine"})
    return TapvidTask("tapvid-davis@first", open_tapvid(data, config.limit), config, rule)


def tracking_scores(
    start: Int[np.ndarray, " n"],
    true_px: Float[np.ndarray, "n t 2"],
    true_occluded: Bool[np.ndarray, "n t"],
    found_px: Float[np.ndarray, "n t 2"],
    found_occluded: Bool[np.ndarray, "n t"],
) -> MeanSums:
    """Return TAP-Vid's three figures of one video over the frames after each query's (`start`).

    A figure that is a mean of nothing, such as the position of points that are hidden from then on, is left out.
    """
    counted = np.arange(true_px.shape[1]) > start[:, None]
    visible, shown = counted & ~true_occluded, counted & ~found_occluded
    away = np.square(found_px - true_px).sum(axis=2)
    shares, jaccards = [], []
    for distance in TAPVID_DISTANCES_PX:
        near = visible & (away < distance**2)
        if visible.any():
            shares.append(near.sum() / visible.sum())
        if union := int(visible.sum() + (shown & ~near).sum()):
            jaccards.append((near & shown).sum() / union)
    right = (true_occluded == found_occluded)[counted]
    values = {"delta_avg": shares, "occlusion_accuracy": right, "average_jaccard": jaccards}
    return MeanSums.of({name: float(np.mean(each)) for name, each in values.items() if len(each)})


def nearest(
    vectors: Float[Tensor, "n d"], unit_map: Float[Tensor, "d h w"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Return the center of the most similar cell of a map of unit features, x and y in [0, 1], and its cosine."""
    cosines, cells = (F.normalize(vectors, dim=1) @ unit_map.flatten(1)).max(dim=1)
    height, width = size_of(unit_map)
    return torch.stack([(cells % width + 0.5) / width, (cells // width + 0.5) / height], dim=1), cosines


def keep_points(folder: Path, index: int, head: str, source: Marked, target: Marked, found: Places) -> None:
    """Draw the source's points as an example, and in the target a line from each true place to the one found."""
    root = folder / "examples" / f"{index:05d}"
    root.mkdir(parents=True, exist_ok=True)
    for name, (image, points), ends in (("image", source, source[1]), (head, target, found)):
        pairs = zip(points.tolist(), ends.tolist(), strict=True)
        write_png(root / f"{name}.png", trails_overlay(image, [[tuple(a), tuple(b)] for a, b in pairs]))
