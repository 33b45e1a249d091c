"""Probes over a data set as work for the harness: one part per head, trained, then measured on the validation set.

A few validation images with their truth and what each head made of them, kept beside the figures to be looked at.

`examples/00012/{image,truth,HEAD}.png`: classes as indexed PNGs, directions as RGB, (n + 1)/2, black where unknown.

Predictions of large images from windows that slide over them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from lila_cues.prefetch import in_batches
from lila_cues.viz.pictures import write_label_png, write_png
from lila_train.evaluation.dense.data import Augmentation, DenseData, Files, Mirror, ValView, stacked, val_view
from lila_train.evaluation.dense.probes import BuildProbe, features_of, seeded
from lila_train.evaluation.dense.training import Loss, ProbeRecipe, Training, train
from lila_train.evaluation.models import GridModel
from lila_train.evaluation.results import Json, ResultFolder, files_sha256, fingerprint, read_json
from lila_train.model.resize import size_of, to_size

SHOWN = 4
LONGEST_PX = 640

Stored = UInt8[np.ndarray, "h w *rgb"]


@dataclass(frozen=True)
class Drawn:
    """How targets and outputs of a protocol become arrays to be kept."""

    target: Callable[[Shaped[Tensor, "t h w"]], Stored]
    output: Callable[[Float[Tensor, "k h w"]], Stored]


@dataclass(frozen=True)
class Examples:
    """The folder of one evaluation's examples."""

    root: Path
    drawn: Drawn

    def keep(self, place: int, head: str, image: Tensor, target: Tensor, output: Tensor) -> None:
        """Of one image of the validation set: RGB in [0, 1], target and output of its size."""
        folder = self.root / f"{place:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        step = max(1, -(-max(image.shape[1:]) // LONGEST_PX))
        image, target, output = (values[..., ::step, ::step] for values in (image, target, output))
        write_png(folder / "image.png", (image * 255).round().byte().movedim(0, -1).cpu().numpy())
        _write(folder / "truth.png", self.drawn.target(target))
        _write(folder / f"{head}.png", self.drawn.output(output))


def places(count: int) -> list[int]:
    """Which images of a set are kept: four, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(SHOWN, count))})


def _write(path: Path, values: Stored) -> None:
    if values.ndim == 2:
        write_label_png(path, values)
    else:
        write_png(path, values)


def _classes(target: Shaped[Tensor, "1 h w"]) -> UInt8[np.ndarray, "h w"]:
    return target[0].to(torch.uint8).cpu().numpy()


def _largest(logits: Float[Tensor, "k h w"]) -> UInt8[np.ndarray, "h w"]:
    return logits.argmax(dim=0).to(torch.uint8).cpu().numpy()


def _directions(vectors: Float[Tensor, "k h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The first three channels at unit length; a fourth of a target says where they are known."""
    unit = F.normalize(vectors[:3], dim=0)
    stored = ((unit + 1) * 127.5).round().byte() * (vectors[:3].abs().sum(dim=0) > 0)
    return stored.movedim(0, -1).cpu().numpy()


CLASSES = Drawn(_classes, _largest)
DIRECTIONS = Drawn(_directions, _directions)


Forward = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b k h w"]]
"""From images to logits of their size."""


def sliding_window(forward: Forward, images: Tensor, window: int, stride: int) -> Tensor:
    """Logits averaged over windows that cover the image; the last ones end at its border."""
    height, width = images.shape[2:]
    total: Tensor | None = None
    weight = images.new_zeros(1, 1, height, width)
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            box = (slice(None), slice(None), slice(top, top + window), slice(left, left + window))
            found = forward(images[box])
            total = found.new_zeros(len(found), found.shape[1], height, width) if total is None else total
            total[box] += found
            weight[box] += 1
    assert total is not None
    return total / weight


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, all in pixels: every stride, and last where one ends at the border."""
    last = max(0, length - window)
    return sorted({*range(0, last, stride), last})


PART = "probe"


@runtime_checkable
class Sums(Protocol):
    """Sums over images, from which figures are divided once: parts add with +, and JSON keeps them."""

    def __add__(self, other: Any) -> Any: ...

    def figures(self) -> dict[str, float | None]:
        """By name: fractions, counts, or in the unit of the name; None where nothing was measured."""
        ...

    def to_json(self) -> Json:
        """As a record keeps them; the protocol's `from_json` is the inverse."""
        ...


@dataclass(frozen=True)
class DenseProtocol:
    """What a protocol fixes: the probe, its training, and how its predictions are measured."""

    name: str
    build: BuildProbe
    n_outputs: int
    recipe: ProbeRecipe
    train_view: Augmentation
    val_view: ValView
    loss: Loss
    mirror: Mirror
    measure: Callable[[Tensor, Tensor], Sums]  # targets, logits
    from_json: Callable[[Json], Sums]
    drawn: Drawn
    slide: tuple[int, int] | None = None  # window and stride in pixels, in place of the centre square

    def settings(self, seed: int) -> dict[str, Any]:
        """Everything that shapes the figures, for the record."""
        build = self.build.func if isinstance(self.build, partial) else self.build
        probe = {"probe": getattr(build, "__name__", str(build)), "outputs": self.n_outputs, "seed": seed}
        views = {"train_view": _described(self.train_view), "val_view": asdict(self.val_view), "slide": self.slide}
        return _plain(probe | asdict(self.recipe) | views)


@dataclass(frozen=True)
class DenseTask:
    """A harness task: a probe by `rule`, trained with `seed` on frozen features, and measured on `data`."""

    rule: DenseProtocol
    data: DenseData
    seed: int

    @property
    def protocol(self) -> str:
        """Its id."""
        return self.rule.name

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that shapes the figures, the seed included."""
        return self.rule.settings(self.seed)

    @property
    def root(self) -> Path:
        """The data folder."""
        return self.data.root

    def parts(self) -> Sequence[str]:
        """One: the probe."""
        return [PART]

    def steps(self, part: str) -> int:
        """Training steps, then batches of the validation set."""
        return self.rule.recipe.steps(len(self.data.train)) + math.ceil(len(self.data.val) / self._val_batch)

    def data_identity(self) -> dict[str, Any]:
        """Layout and lists, and a hash over the names and sizes of all files."""
        paths = (path for files in (*self.data.train, *self.data.val) for path in files)
        return _plain(self.data.about) | {"files_sha256": files_sha256(paths, self.root)}

    def counts(self) -> dict[str, int]:
        """Images trained and measured on."""
        return {"train images": len(self.data.train), "images": len(self.data.val)}

    def derived(self, model: GridModel) -> dict[str, Any]:
        """Nothing: sizes are the protocol's."""
        return {"patch_size": model.patch_size}

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        """Train the probe of a head (its checkpoint below `folder`/probes) and measure it."""
        identity = read_json(ResultFolder(folder).identity) or {}
        first = self.rule.train_view.side
        widths = features_of(model, head, torch.zeros(1, 3, first, first, device=model.device)).widths
        probe = seeded(self.rule.build, widths, self.rule.n_outputs, self.seed).to(model.device)
        training = Training(
            self.data, self.rule.recipe, self.rule.train_view, self.rule.mirror, self.rule.loss, self.seed
        )
        train(probe, model, head, training, folder / "probes" / f"{head}.pt", fingerprint(identity), advance)
        measure = Measurement(self.rule, self.data, Examples(folder / "examples", self.rule.drawn), head)
        return {"sums": measure.run(probe, model, advance).to_json()}

    def figures(self, records: Iterable[Json]) -> dict[str, float | None]:
        """Of the one record."""
        (record,) = records
        return self.rule.from_json(record["sums"]).figures()

    @property
    def _val_batch(self) -> int:
        return val_batch(self.rule)


def val_batch(rule: DenseProtocol) -> int:
    """Images measured at once: one where windows slide, since sizes differ."""
    return 1 if rule.slide else rule.recipe.batch


@dataclass(frozen=True)
class Measurement:
    """A trained probe of one head on the validation set."""

    rule: DenseProtocol
    data: DenseData
    examples: Examples
    head: str

    @torch.no_grad()
    def run(self, probe: nn.Module, model: GridModel, advance: Callable[[], None]) -> Sums:
        """The sums over all images; a few are kept as examples."""
        probe.eval()
        shown = set(places(len(self.data.val)))
        sums: Sums | None = None
        for start, images, targets in self._batches(model.device):
            found = self._predicted(lambda batch: probe(features_of(model, self.head, batch)), images, targets)
            measured = self.rule.measure(targets, found)
            sums = measured if sums is None else sums + measured
            for place in shown & set(range(start, start + len(images))):
                self._keep(place, images[place - start], targets[place - start], found[place - start])
            advance()
        assert sums is not None, "a data set has a validation list"
        return sums

    def _batches(self, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:
        files, size = self.data.val, val_batch(self.rule)
        starts = range(0, len(files), size)
        views = in_batches(self._view, (list(files[start : start + size]) for start in starts))
        for start, batch in zip(starts, views, strict=True):
            yield start, *stacked(batch, device)

    def _view(self, files: Files) -> tuple[Tensor, Tensor]:
        """Where windows slide over the image, the target keeps its own size."""
        example = self.data.read(files)
        image, target = val_view(example, self.rule.val_view)
        return image, target if self.rule.slide is None else example.target

    def _predicted(self, forward: Forward, images: Tensor, targets: Tensor) -> Tensor:
        if self.rule.slide is None:
            return forward(images)
        return to_size(sliding_window(forward, images, *self.rule.slide), size_of(targets))

    def _keep(self, place: int, image: Tensor, target: Tensor, found: Tensor) -> None:
        self.examples.keep(place, self.head, to_size(image[None], size_of(target))[0], target, found)


def _described(view: Augmentation) -> dict[str, Any]:
    """A view's numbers, and which kind it is."""
    assert is_dataclass(view)
    return {"kind": type(view).__name__, **asdict(view)}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found
