"""The cues of a training clip as pictures.

A finished evaluation on DAVIS, with the frames, the masks and the predictions behind its figures.

Examples of dense predictions: frame, truth, what each head made of it; and for directions, by how much it errs.

Held-out frames: features of the encoder and of LILA side by side, predicted masks beside the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from lila_cues.images import read_frame, read_mask
from lila_cues.viz.html import Markup, drawing, figure, heading, joined, paragraph, photo, row
from lila_cues.viz.pictures import (
    MIN_CONFIDENCE,
    Picture,
    confidence,
    depth_picture,
    flow_picture,
    flow_wheel,
    mask_overlay,
    pca_basis,
    pca_picture,
)
from lila_train.evaluation.davis.data import DavisData, DavisSequence, open_davis
from lila_train.evaluation.davis.metrics import ObjectScore, summarize, without_void
from lila_train.evaluation.dense.metrics import IGNORED
from lila_train.evaluation.dense.task import Stored
from lila_train.evaluation.models import FeatureMap, GridModel, feature_map
from lila_train.evaluation.results import read_result
from lila_train.model.resize import Size, as_input
from lila_train.report.tables import percent, signed, title
from stores import CueStore
from stores.errors import LilaError

EXCLUDED = np.array([214, 96, 60], np.uint8)


def cue_section(store: CueStore, examples: int = 2) -> Markup:
    """What stage one wrote for a few clips, each at the pair of frames with the most motion."""
    clips = store.complete_clips()
    if not len(clips):
        raise LilaError(f"expected a complete clip in {store.path}, found none; build it with `lila-cues build`")
    chosen = clips[np.linspace(0, len(clips) - 1, min(examples, len(clips))).astype(int)]
    shown = [_cue_example(store, int(clip), liveliest_pair(store, int(clip))) for clip in chosen]
    wheel = drawing(flow_wheel(144), "colour wheel")
    explanation = (
        "Stage one reads each video once and keeps these maps. Stage two never sees a label: it learns features from "
        "which depth, motion and the encoder's own refined features of one frame can be read off in another."
    )
    legend = Markup(
        f'<div class="legend">{wheel.text}<p class="note">Flow: hue is the direction of motion (right is red), '
        "saturation its length, full colour at the length given below each map.<br>Depth: light is near. Confidence: "
        "white where forward and backward flow agree, orange where they do not and flow is left out of the loss."
        "</p></div>"
    )
    return joined([heading("The cues"), paragraph(explanation), legend, *shown])


def liveliest_pair(store: CueStore, clip: int) -> int:
    """The pair with the largest mean flow."""
    lengths = np.hypot(*np.moveaxis(store.read("flow_forward", clip), 1, 0))
    return int(np.nan_to_num(np.nanmean(lengths, axis=(1, 2))).argmax())


def confidence_picture(values: np.ndarray) -> Picture:
    """Grey by confidence; orange where it is too low to be used, or flow is missing."""
    picture = np.repeat(np.rint(255 * np.nan_to_num(values)).astype(np.uint8)[..., None], 3, axis=2)
    picture[~(values > MIN_CONFIDENCE)] = EXCLUDED
    return picture


def _cue_example(store: CueStore, clip: int, pair: int) -> Markup:
    frames = [int(frame) for frame in store.read("pair_frames", clip)[pair]]
    rgb, seen = store.read("rgb", clip, frames), store.read("frame_time", clip)[frames]
    depth, gap = store.read("depth", clip, frames[0]), store.read("pair_gap", clip)[pair]
    forward, backward = (store.read(f"flow_{way}", clip, pair) for way in ("forward", "backward"))
    full = max(float(np.nanpercentile(np.hypot(*flow), 98)) for flow in (forward, backward))
    agreed = confidence_picture(confidence(forward, backward))
    figures = [
        figure(photo(rgb[0], "frame"), "Frame t", f"{_size(rgb[0])}, at {seen[0]:.2f} s"),
        figure(photo(rgb[1], "later frame"), "Frame t+Δ", f"Δ = {gap}, at {seen[1]:.2f} s"),
        figure(drawing(depth_picture(depth), "depth"), "Depth", f"relative inverse depth, {_size(depth)}"),
        figure(drawing(agreed, "confidence"), "Confidence", "of the forward flow"),
        figure(drawing(flow_picture(forward, full), "flow"), "Flow forward", f"t → t+Δ, full at {full:.1f} px"),
        figure(drawing(flow_picture(backward, full), "flow"), "Flow backward", "t+Δ → t, same scale"),
        *_features(store.read("features_raw", clip, frames[0]), store.read("features", clip, frames[0])),
    ]
    return joined([heading(store.clip_id(clip), 3), row(figures, 4)])


def _features(raw: Float[np.ndarray, "c h w"], refined: Float[np.ndarray, "c y x"]) -> list[Markup]:
    """Both in one basis, that of the unrefined ones."""
    basis = pca_basis(raw.reshape(len(raw), -1).T)
    before, after = (drawing(pca_picture(found, basis), "features", enlarge=True) for found in (raw, refined))
    return [
        figure(before, "Encoder features", f"PCA of {len(raw)} channels, {_size(raw[0])}"),
        figure(after, "Refined by PAMR", f"the same, {_size(refined[0])}"),
    ]


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}×{picture.shape[0]}"


@dataclass(frozen=True)
class DavisResult:
    """The folder of an evaluation on DAVIS; the data that it scored are read where it found them."""

    root: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """result.json; LilaError where there is none."""
        return read_result(self.root)

    @property
    def heads(self) -> list[str]:
        """What was scored: `encoder`, and the pixel map's name."""
        return list(self.content["scores"])

    @property
    def names(self) -> list[str]:
        """The sequences."""
        return list(self.content["parts"][self.heads[0]])

    @cached_property
    def data(self) -> DavisData:
        """The data that were scored."""
        return open_davis(Path(self.content["data_root"]))

    def sequence(self, name: str) -> DavisSequence:
        """A sequence by its name."""
        return next(sequence for sequence in self.data.sequences if sequence.name == name)

    def objects(self, head: str, name: str) -> list[dict[str, Any]]:
        """The scores of a sequence's objects, frame by frame."""
        found: list[dict[str, Any]] = self.content["parts"][head][name]["objects"]
        return found

    def prediction(self, head: str, name: str, frame: int) -> Path:
        """The indexed PNG with the labels predicted for a frame, which is counted from 0."""
        return self.root / "predictions" / head / name / f"{self.sequence(name).masks[frame].stem}.png"

    def figures(self, head: str, name: str) -> dict[str, float | None]:
        """J, F and JF over the objects of one sequence."""
        return summarize(ObjectScore.from_json(entry) for entry in self.objects(head, name))

    def gain(self, name: str) -> float:
        """How much higher the last head's J&F of a sequence is than the first's; its own where there is one head."""
        first, last = (self.figures(head, name)["JF"] or 0.0 for head in (self.heads[0], self.heads[-1]))
        return last - first if len(self.heads) > 1 else last


FULL_ERROR_DEG = 60.0
RAMP = np.array([[24, 30, 52], [54, 82, 140], [216, 120, 62], [252, 236, 190]], np.float64)  # from 0 to the full error
UNKNOWN = np.array([128, 128, 128], np.uint8)


def example_section(root: Path, heads: Sequence[str], name: str) -> Markup:
    """All examples that an evaluation kept below `root`."""
    folders = sorted(path for path in (root / "examples").iterdir() if path.is_dir())
    explanation = "Images evenly spread over the validation set, as the protocol cuts them."
    if _stored(folders[0] / "truth.png").ndim == 3:
        explanation += (
            " Directions as colours: x to red, y to green, z to blue. Below, the angle to the truth: dark is 0°, light "
            f"{FULL_ERROR_DEG:.0f}° and more, grey where the truth is not known."
        )
    parts = [heading(f"Examples: {name}", 3), paragraph(explanation, "note")]
    return joined([*parts, *(_example(folder, heads) for folder in folders)])


def _example(folder: Path, heads: Sequence[str]) -> Markup:
    image, truth = _stored(folder / "image.png"), _stored(folder / "truth.png")
    found = {head: _stored(path) for head in heads if (path := folder / f"{head}.png").is_file()}
    columns = min(4, 2 + len(found))
    frame = figure(photo(image, "frame"), "Frame", folder.name)
    if truth.ndim == 2:
        shown = [figure(photo(_overlay(image, truth), "truth"), "Truth")]
        shown += [
            figure(photo(_overlay(image, labels), head), title(head), f"{_agreement(truth, labels)} of pixels right")
            for head, labels in found.items()
        ]
        return row([frame, *shown], columns)
    shown = [figure(drawing(truth, "truth"), "Truth")]
    shown += [figure(drawing(picture, head), title(head)) for head, picture in found.items()]
    known: Bool[np.ndarray, "h w"] = np.asarray(truth.any(axis=2))
    errors = {head: stored_angles_deg(truth, picture) for head, picture in found.items()}
    below = [
        figure(drawing(error_picture(error, known), "error"), f"Error, {title(head)}", _mean_error(error, known))
        for head, error in errors.items()
    ]
    return joined([row([frame, *shown], columns), row([Markup("<div></div>")] * 2 + below, columns)])


def stored_angles_deg(truth: UInt8[np.ndarray, "h w 3"], found: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Between directions stored as colours; 8 bits hold them to about half a degree."""
    one, other = (picture.astype(np.float64) / 127.5 - 1 for picture in (truth, found))
    lengths = np.linalg.norm(one, axis=2) * np.linalg.norm(other, axis=2)
    return np.degrees(np.arccos(np.clip((one * other).sum(axis=2) / np.maximum(lengths, 1e-9), -1, 1)))


def error_picture(error_deg: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> Picture:
    """Dark at 0°, light at the full error."""
    places = np.clip(error_deg / FULL_ERROR_DEG, 0, 1) * (len(RAMP) - 1)
    channels = [np.interp(places, np.arange(len(RAMP)), RAMP[:, channel]) for channel in range(3)]
    picture = np.stack(channels, axis=2).astype(np.uint8)
    picture[~known] = UNKNOWN
    return picture


def _overlay(image: Picture, labels: UInt8[np.ndarray, "h w"]) -> Picture:
    """Classes from 1, so that 0, which is not painted, stands for the ignored."""
    return mask_overlay(image, labels + np.uint8(1))


def _agreement(truth: UInt8[np.ndarray, "h w"], labels: UInt8[np.ndarray, "h w"]) -> str:
    known = truth != IGNORED
    return percent(float((truth == labels)[known].mean()) if known.any() else None) + " %"


def _mean_error(error_deg: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> str:
    return f"mean {error_deg[known].mean():.1f}° here" if known.any() else "no truth here"


def _stored(path: Path) -> Stored:
    with Image.open(path) as picture:
        return np.asarray(picture)


BASIS_PIXELS = 4000  # of each map

Map = Float[np.ndarray, "c h w"]


@dataclass(frozen=True)
class Shown:
    """A frame of a held-out sequence."""

    sequence: str
    frame: int
    picture: Picture


def chosen_sequences(result: DavisResult) -> list[tuple[str, str]]:
    """The sequences with the largest, the median and the smallest gain, with a word on which it is."""
    gains = {name: result.gain(name) for name in result.names}
    ordered = sorted(gains, key=lambda name: gains[name])
    places = {0: "smallest", len(ordered) // 2: "median", len(ordered) - 1: "largest"}
    return [
        (ordered[place], f"{word} {_gained(result, gains[ordered[place]])}") for place, word in reversed(places.items())
    ]


def _gained(result: DavisResult, gain: float) -> str:
    return f"gain, {signed(100 * gain)} points" if len(result.heads) > 1 else f"J&F, {percent(gain)}"


def masks(result: DavisResult, title: str = "Masks, predicted and true", level: int = 2) -> Markup:
    """The last scored frame of three sequences: truth, encoder, LILA."""
    what = "gain" if len(result.heads) > 1 else "J&F"
    explanation = (
        "The first frame's labels are given; this is the last frame that is scored, with the labels as each model "
        f"carried them there. The three sequences are those with the largest, the median and the smallest {what}."
    )
    parts = [heading(title, level), paragraph(explanation)]
    for name, word in chosen_sequences(result):
        frame = len(result.sequence(name).frames) - 2
        parts += [heading(f"{name}: {word}", level + 1), row(_masks_of(result, name, frame), 4)]
    return joined(parts)


def _masks_of(result: DavisResult, name: str, frame: int) -> list[Markup]:
    sequence = result.sequence(name)
    picture = read_frame(sequence.frames[frame])
    truth = without_void(result.data.labels(sequence.masks[frame]))
    found = [
        figure(photo(picture, "frame"), "Frame", f"{frame} of {len(sequence.frames) - 1}"),
        figure(photo(mask_overlay(picture, truth), "truth"), "Truth"),
    ]
    for head in result.heads:
        labels = read_mask(result.prediction(head, name, frame))
        j = float(np.mean([entry["region"][-1] for entry in result.objects(head, name)]))
        found.append(figure(photo(mask_overlay(picture, labels), head), title(head), f"J {percent(j)} here"))
    return found


def features(result: DavisResult, model: GridModel) -> Markup:
    """PCA of both models' features, for the first and the last frame of three held-out sequences."""
    shown = [
        Shown(name, frame, read_frame(result.sequence(name).frames[frame]))
        for name, _ in chosen_sequences(result)
        for frame in (0, len(result.sequence(name).frames) - 1)
    ]
    size = tuple(result.content["derived"]["frame_px"])
    maps = {head: _maps(feature_map(model, head), shown, size, model.device) for head in result.heads}
    bases = {head: pca_basis(_sample(found)) for head, found in maps.items()}
    explanation = (
        "Three principal components as red, green and blue, in one basis for all frames of a column, so that equal "
        "colours mean equal features. The encoder's grid is shown as it is, one square per token."
    )
    parts = [heading("Features on held-out frames"), paragraph(explanation)]
    for n, frame in enumerate(shown):
        if n % 2 == 0:
            parts.append(heading(frame.sequence, 3))
        pictures = [figure(photo(frame.picture, "frame"), "Frame", str(frame.frame))]
        for head, found in maps.items():
            grid = f"{found[n].shape[2]}×{found[n].shape[1]}, {found[n].shape[0]} channels"
            image = drawing(pca_picture(found[n], bases[head]), f"PCA of {head}", enlarge=head == "encoder")
            pictures.append(figure(image, title(head), grid))
        parts.append(row(pictures, 3))
    return joined(parts)


@torch.inference_mode()
def _maps(function: FeatureMap, shown: Sequence[Shown], size: Size, device: torch.device) -> list[Map]:
    return [function(as_input(frame.picture, size, device))[0].float().cpu().numpy() for frame in shown]


def _sample(maps: Sequence[Map]) -> Float[np.ndarray, "n c"]:
    rows = [found.reshape(len(found), -1).T for found in maps]
    return np.concatenate([pixels[:: max(1, len(pixels) // BASIS_PIXELS)] for pixels in rows])
