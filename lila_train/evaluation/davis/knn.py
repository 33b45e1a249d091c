"""Video object segmentation by local k-NN label propagation: `davis-knn@lila` and `davis-knn@dino`.

The labels of the first frame are carried through the video on a grid of cells. Settings are those of the
LILA reference's launch scripts, and of DINO's `eval_video_segmentation.py` (docs/protocols.md, "DAVIS").

DAVIS as work for the harness: one part per sequence, its predictions on disk as indexed PNGs, scored from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lila_cues import images
from lila_cues.viz.pictures import write_label_png
from lila_train.evaluation.davis import metrics
from lila_train.evaluation.davis.data import DavisData, DavisSequence
from lila_train.evaluation.davis.metrics import LabelPair, ObjectScore
from lila_train.evaluation.dense.metrics import Tally
from lila_train.evaluation.models import FeatureMap, GridModel
from lila_train.evaluation.results import files_sha256
from lila_train.model.propagation import Budget, Context, Neighbours, Weigh, propagate, share_of_top, softmax_of_top
from lila_train.model.resize import Image, Labels, Size, as_input, network_size, to_size
from stores.errors import LilaError


@dataclass(frozen=True)
class KnnSettings:
    """What shapes the figures. Sides of the frame in pixels, of the grid and the window in cells."""

    short_side_px: int | None = None  # None: short_side_patches × the encoder's patch
    short_side_patches: int = 34
    long_side_multiple_px: int | None = None  # rounded down to it; None: to the nearest multiple of the patch
    grid_short_side: int | None = 60  # None: the encoder's own grid
    window: int = 25
    context_frames: int = 8  # the first and the seven latest
    top: int = 5
    temperature: float = 0.1
    border: str = "replicate"  # or "cut"


@dataclass(frozen=True)
class Sizes:
    """Heights and widths of one sequence: as filmed, as the network sees it, as labels are carried."""

    native: Size
    frame: Size
    grid: Size

    def radius_px(self, window: int) -> float:
        """How far a window reaches from its centre, in pixels of the native frame."""
        return window // 2 * min(self.native) / min(self.grid)


@dataclass(frozen=True)
class KnnProtocol:
    """Settings, and the steps that differ between the two protocols."""

    name: str
    settings: KnnSettings
    weigh: Weigh
    resize_reference: Callable[[Float[Tensor, "c H W"], Size], Float[Tensor, "c h w"]]
    read_out: Callable[[Float[Tensor, "c h w"], Sizes], Int[Tensor, "H W"]]

    def with_short_side(self, short_side_px: int) -> KnnProtocol:
        """The same with frames of another short side, in pixels, before it is brought to whole patches."""
        return replace(self, settings=replace(self.settings, short_side_px=short_side_px))

    @property
    def neighbours(self) -> Neighbours:
        """Who votes on a cell and how much, as the settings and `weigh` say."""
        chosen = self.settings
        return Neighbours(chosen.window, chosen.top, chosen.temperature, chosen.border == "replicate", self.weigh)


def sizes_of(native: Size, patch: int, settings: KnnSettings) -> Sizes:
    """The sizes of a sequence whose frames are `native` (height, width) in pixels."""
    short_side_px = settings.short_side_px or settings.short_side_patches * patch
    frame = network_size(native, patch, short_side_px, settings.long_side_multiple_px)
    cells = settings.grid_short_side or min(frame) // patch
    grid = tuple(cells if side == min(frame) else side * cells // min(frame) for side in frame)
    return Sizes(native, frame, (grid[0], grid[1]))


def follow(
    frames: Iterable[Image],
    reference: Labels,
    cells_of: Callable[[Image], Float[Tensor, "d h w"]],
    protocol: KnnProtocol,
    sizes: Sizes,
    budget: Budget,
) -> Iterator[Labels]:
    """Labels of every frame after the first, at native size, from the frames in order and the first one's labels.

    `cells_of` gives a frame's unit features on the grid.
    """
    ordered = iter(frames)
    cells = cells_of(next(ordered))
    objects = torch.arange(int(reference.max()) + 1, device=cells.device)
    one_hot = (torch.from_numpy(reference).to(cells.device) == objects[:, None, None]).float()
    context = Context(protocol.settings.context_frames, cells, protocol.resize_reference(one_hot, sizes.grid))
    for frame in ordered:
        cells = cells_of(frame)
        labels = propagate(cells, context, protocol.neighbours, budget)
        context.add(cells, labels)
        yield protocol.read_out(labels, sizes).to(torch.uint8).cpu().numpy()


@torch.no_grad()
def unit_cells(frame: Image, features: FeatureMap, sizes: Sizes, device: torch.device) -> Float[Tensor, "d h w"]:
    """A frame's features, brought to the grid and to unit length; a map that has the grid's size stays as it is."""
    return F.normalize(_bilinear(features(as_input(frame, sizes.frame, device))[0], sizes.grid), dim=0)


def _bilinear(maps: Float[Tensor, "c H W"], size: Size) -> Float[Tensor, "c h w"]:
    return to_size(maps[None], size)[0]


def _nearest(maps: Float[Tensor, "c H W"], size: Size) -> Float[Tensor, "c h w"]:
    return F.interpolate(maps[None], size, mode="nearest-exact")[0]


def _largest(labels: Float[Tensor, "c h w"], sizes: Sizes) -> Int[Tensor, "H W"]:
    return _bilinear(labels, sizes.native).argmax(dim=0)


def _largest_of_stretched(labels: Float[Tensor, "c h w"], sizes: Sizes) -> Int[Tensor, "H W"]:
    """DINO's read-out: each channel stretched to [0, 1] over the frame before the comparison."""
    maps = _bilinear(labels, sizes.frame)
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return _nearest(maps.argmax(dim=0, keepdim=True).float(), sizes.native)[0].long()


LILA = KnnProtocol("davis-knn@lila", KnnSettings(), softmax_of_top, _bilinear, _largest)
DINO = KnnProtocol(
    "davis-knn@dino",
    KnnSettings(short_side_px=480, long_side_multiple_px=64, grid_short_side=None, border="cut"),
    share_of_top,
    _nearest,
    _largest_of_stretched,
)


@dataclass(frozen=True)
class Video:
    """What a segmenter is given: the sequence's name, its frames in order, and the first one's labels."""

    name: str
    frames: Iterable[Image]
    reference: Labels


Segmenter = Callable[[GridModel, str, Video], Iterator[Labels]]


@dataclass(frozen=True)
class DavisTask:
    """A protocol on DAVIS: `segment` gives the labels of all frames after the first."""

    protocol: str
    settings: dict[str, Any]
    data: DavisData
    segment: Segmenter
    describe: Callable[[GridModel, Size], dict[str, Any]]

    @property
    def root(self) -> Path:
        """The DAVIS folder."""
        return self.data.root

    def parts(self) -> Sequence[str]:
        """The sequences, in the order of the list."""
        return [sequence.name for sequence in self.data.sequences]

    def steps(self, part: str) -> int:
        """Frames to predict in a sequence."""
        return len(self._sequence(part).frames) - 1

    def data_identity(self) -> dict[str, Any]:
        """The layout and a hash of what is scored: the names and sizes of all frames and masks."""
        paths = (path for sequence in self.data.sequences for path in (*sequence.frames, *sequence.masks))
        return {
            "layout": self.data.layout.name,
            "sequences": self.parts(),
            "files_sha256": files_sha256(paths, self.root),
        }

    def counts(self) -> dict[str, int]:
        """Sequences, frames and objects that the figures are of."""
        objects = sum(int(self._reference(sequence).max()) for sequence in self.data.sequences)
        return {"sequences": len(self.data.sequences), "objects": objects, "frames": self.data.n_frames}

    def derived(self, model: GridModel) -> dict[str, Any]:
        """What the settings come to for this model, on the first sequence."""
        return self.describe(model, self._reference(self.data.sequences[0]).shape)

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> dict[str, Any]:
        """Predict one sequence, save it below `folder`/predictions/HEAD/SEQUENCE, and score what was saved."""
        sequence = self._sequence(part)
        saved = folder / "predictions" / head / part
        saved.mkdir(parents=True, exist_ok=True)
        reference = self._reference(sequence)
        video = Video(part, self._frames(sequence, reference.shape), reference)
        write_label_png(saved / f"{sequence.masks[0].stem}.png", reference)
        for mask, labels in zip(sequence.masks[1:], self.segment(model, head, video), strict=True):
            write_label_png(saved / f"{mask.stem}.png", labels)
            advance()
        scores = metrics.score_sequence(part, self._pairs(sequence, saved))
        return {"frames": len(sequence.frames), "objects": [asdict(score) for score in scores]}

    def figures(self, records: Iterable[dict[str, Any]]) -> dict[str, float | None]:
        """J, F and the rest over the objects of these sequences."""
        objects = [ObjectScore.from_json(entry) for record in records for entry in record["objects"]]
        return metrics.figures(sum((metrics.tally([score]) for score in objects), Tally()))

    def _sequence(self, part: str) -> DavisSequence:
        return next(sequence for sequence in self.data.sequences if sequence.name == part)

    def _reference(self, sequence: DavisSequence) -> Labels:
        return metrics.without_void(self.data.labels(sequence.masks[0]))

    def _frames(self, sequence: DavisSequence, size: tuple[int, ...]) -> Iterator[Image]:
        for path in sequence.frames:
            frame = images.read_frame(path)
            if frame.shape[:2] != size:
                raise LilaError(
                    f"expected frames of the size of the first mask, {size[1]}×{size[0]}, found "
                    f"{frame.shape[1]}×{frame.shape[0]} in {path}; restore that file"
                )
            yield frame

    def _pairs(self, sequence: DavisSequence, saved: Path) -> Iterator[LabelPair]:
        for mask in sequence.masks:
            prediction = saved / f"{mask.stem}.png"
            truth = metrics.without_void(self.data.labels(mask))
            yield LabelPair(truth, images.read_mask(prediction), str(mask), str(prediction))
