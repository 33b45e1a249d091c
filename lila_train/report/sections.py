"""Sections with pictures: cues of training clips, masks and features on DAVIS frames, examples of dense predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from lila_cues.images import decode, read_mask, read_stored
from lila_cues.viz.html import Figure, Gallery, Row
from lila_cues.viz.inspection import pair_row
from lila_cues.viz.pictures import DEPTH_COLORS, Picture, mask_overlay, pca_basis, pca_picture, ramp_picture
from lila_train.evaluation.davis.metrics import ObjectScore, summarize, without_void
from lila_train.evaluation.davis.task import DavisData, open_davis
from lila_train.evaluation.dense.depth import LEVELS_PER_M
from lila_train.evaluation.dense.metrics import IGNORED
from lila_train.evaluation.dense.normals import MAX_DEPTH_M
from lila_train.evaluation.dense.task import Stored
from lila_train.evaluation.models import ENCODER, GridModel, feature_map
from lila_train.evaluation.results import read_result
from lila_train.inference.compute import spread_pixels
from lila_train.model.resize import as_input
from lila_train.report.tables import head_title, percent, signed
from stores import CueStore
from stores.errors import LilaError

MAX_ERROR_DEG, MAX_ERROR_DEPTH = 60.0, 0.5  # the latter as a share of the true depth
ERROR_RAMP = np.array([[24, 30, 52], [54, 82, 140], [216, 120, 62], [252, 236, 190]], np.float64)  # from 0 to the max


def cue_section(store: CueStore) -> Gallery:
    """Return the cues of two clips, each at the pair of frames with the most motion."""
    clips = store.complete_clips()
    if not len(clips):
        raise LilaError(f"expected a complete clip in {store.path}, found none; build it with `lila-cues build`")
    chosen = clips[np.linspace(0, len(clips) - 1, min(2, len(clips))).astype(int)]
    text = (
        "Stage one reads each video once and keeps these maps. Stage two never sees a label: it learns features from "
        "which one linear map predicts depth, motion and the encoder's own refined features in both frames of a pair."
    )
    rows = [pair_row(store, int(clip), pair_with_most_motion(store, int(clip))) for clip in chosen]
    return Gallery("The cues", text, rows)


def pair_with_most_motion(store: CueStore, clip: int) -> int:
    """Return the pair with the largest mean flow."""
    lengths = np.hypot(*np.moveaxis(store.read("flow_forward", clip), 1, 0))
    return int(np.nan_to_num(np.nanmean(lengths, axis=(1, 2))).argmax())


@dataclass(frozen=True)
class DavisResult:
    """The folder of an evaluation on DAVIS, with the data that it scored, which must still be where it was."""

    root: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """The content of result.json; LilaError where there is none."""
        return read_result(self.root)

    @property
    def heads(self) -> list[str]:
        return list(self.content["scores"])

    @property
    def names(self) -> list[str]:
        """The names of the sequences."""
        return list(self.content["parts"][self.heads[0]])

    @cached_property
    def data(self) -> DavisData:
        return open_davis(Path(self.content["data_root"]), year=self.content.get("config", {}).get("year"))

    def objects(self, head: str, name: str) -> list[dict[str, Any]]:
        """Return the scores of a sequence's objects, frame by frame."""
        return list(self.content["parts"][head][name]["objects"])

    def prediction(self, head: str, name: str, frame: int) -> Path:
        """Return the indexed PNG with the labels predicted for a frame, counted from 0."""
        return self.root / "predictions" / head / name / f"{self.data.sequences[name].masks[frame].stem}.png"

    def metrics(self, head: str, name: str) -> dict[str, float | None]:
        """Return J, F and JF over the objects of one sequence."""
        return summarize(ObjectScore(**entry) for entry in self.objects(head, name))

    def examples(self) -> list[tuple[str, str]]:
        """Return the sequences with the largest, the median and the smallest difference, each with that as text."""
        gains = {}  # J&F by the last head minus that by the first; with a single head its J&F
        for name in self.names:
            first, last = (self.metrics(head, name)["JF"] or 0.0 for head in (self.heads[0], self.heads[-1]))
            gains[name] = last - first if len(self.heads) > 1 else last
        ranked = sorted(gains, key=lambda name: gains[name])
        ranks = {0: "smallest ", len(ranked) // 2: "median ", len(ranked) - 1: "largest " * (len(ranked) > 1)}
        if len(self.heads) > 1:
            texts = {name: f"difference, {signed(100 * gain)} points" for name, gain in gains.items()}
        else:
            texts = {name: f"J&F, {percent(gain)}" for name, gain in gains.items()}
        return [(ranked[n], f"{rank}{texts[ranked[n]]}") for n, rank in reversed(ranks.items())]


def masks(result: DavisResult, title: str = "Masks, predicted and true") -> Gallery:
    """Return the last scored frame of up to three sequences: the frame, its true labels, and those of every head."""
    what = "difference" if len(result.heads) > 1 else "J&F"
    text = (
        "The first frame's labels are given; this is the last frame that is scored, with the labels as each model "
        "carried them there."
    )
    rows, examples = [], result.examples()
    if len(examples) == 3:
        text += f" The three sequences are those with the largest, the median and the smallest {what}."
    for name, rank in examples:
        sequence = result.data.sequences[name]
        n = len(sequence.frames) - 2
        frame = read_stored(sequence.frames[n])
        truth = mask_overlay(frame, without_void(result.data.labels(sequence.masks[n])))
        figures = [
            Figure(frame, "Frame", f"{n} of {len(sequence.frames) - 1}", "jpeg"),
            Figure(truth, "Truth", kind="jpeg"),
        ]
        for head in result.heads:
            overlay = mask_overlay(frame, read_mask(result.prediction(head, name, n)))
            j = float(np.mean([entry["region"][-1] for entry in result.objects(head, name)]))
            figures.append(Figure(overlay, head_title(head), f"J {percent(j)} here", "jpeg"))
        rows.append(Row(f"{name}: {rank}", figures))
    return Gallery(title, text, rows)


def features(result: DavisResult, model: GridModel) -> Gallery:
    """Return PCA colors of every head's features, for the first and the last frame of three sequences."""
    shown = [(name, n) for name, _ in result.examples() for n in (0, len(result.data.sequences[name].frames) - 1)]
    paths = (result.data.sequences[name].frames[n] for name, n in shown)
    frames = [read_stored(path) for path in paths]
    size = tuple(result.content["derived"]["frame_px"])
    maps = {}
    with torch.inference_mode():
        for head in result.heads:
            extract = feature_map(model, head)
            inputs = (as_input(frame, size, model.device, antialias=True) for frame in frames)
            maps[head] = [extract(one)[0].float().cpu().numpy() for one in inputs]
    bases = {head: pca_basis(np.concatenate([spread_pixels(each) for each in found])) for head, found in maps.items()}
    text = (
        "Three principal components as red, green and blue, in one basis for all frames of a column, so that equal "
        "colors mean equal features. The encoder's grid is shown as it is, one square per token."
    )
    rows = []
    for n, ((name, number), frame) in enumerate(zip(shown, frames, strict=True)):
        figures = [Figure(frame, "Frame", str(number), "jpeg")]
        for head, found in maps.items():
            channels, height, width = found[n].shape
            picture, detail = pca_picture(found[n], bases[head]), f"{width}×{height}, {channels} channels"
            figures.append(Figure(picture, head_title(head), detail, enlarge=head == ENCODER))
        rows.append(Row("" if n % 2 else name, figures, 3))
    return Gallery("Features on held-out frames", text, rows)


def example_section(root: Path, heads: Sequence[str], name: str) -> Gallery:
    """Return all examples of dense predictions that an evaluation kept below `root`."""
    folders = sorted(path for path in (root / "examples").iterdir() if path.is_dir())
    text = "Images evenly spread over the validation set, as the protocol cuts them."
    if not (folders[0] / "truth.png").is_file():
        text = (
            "The points that are looked for, and beside them where each model finds them: a line leads from the true "
            "place to the one found."
        )
    elif decode(folders[0] / "truth.png").mode == "L":
        text += (
            " Depth from light (0 m) to dark (10 m). Below, the error as a share of the true depth: dark is 0, light "
            f"{percent(MAX_ERROR_DEPTH)} % and more, gray where the truth is unknown."
        )
    elif _stored(folders[0] / "truth.png").ndim == 3:
        text += (
            " Directions as colors: x to red, y to green, z to blue. Below, the angle to the truth: dark is 0°, light "
            f"{MAX_ERROR_DEG:.0f}° and more, gray where the truth is unknown."
        )
    return Gallery(f"Examples: {name}", text, [row for folder in folders for row in _example(folder, heads)])


def _example(folder: Path, heads: Sequence[str]) -> list[Row]:
    """Return a frame, its truth and the predictions; below, for directions and depth, the errors."""
    image = _stored(folder / "image.png")
    predictions = {head: _stored(path) for head in heads if (path := folder / f"{head}.png").is_file()}
    columns = min(4, 2 + len(predictions))
    figures = [Figure(image, "Frame", folder.name, "jpeg")]
    if not (folder / "truth.png").is_file():
        figures += [Figure(picture, head_title(head), kind="jpeg") for head, picture in predictions.items()]
        return [Row("", figures, min(4, len(figures)))]
    truth, is_depth = _stored(folder / "truth.png"), decode(folder / "truth.png").mode == "L"
    if truth.ndim == 2 and not is_depth:
        known = np.asarray(truth != IGNORED)

        def overlay(labels: UInt8[np.ndarray, "h w"]) -> Picture:
            return mask_overlay(image, labels + np.uint8(1))  # 255 (ignored) becomes 0, which is not painted

        figures.append(Figure(overlay(truth), "Truth", kind="jpeg"))
        for head, labels in predictions.items():
            share = percent(float((truth == labels)[known].mean()) if known.any() else None)
            figures.append(Figure(overlay(labels), head_title(head), f"{share} % of pixels right", "jpeg"))
        return [Row("", figures, columns)]
    known = np.asarray(truth > 0 if is_depth else truth.any(axis=2))

    def show(stored: Stored) -> Picture:
        farthest = MAX_DEPTH_M * LEVELS_PER_M
        return ramp_picture(1 - stored / farthest, DEPTH_COLORS, stored > 0) if is_depth else stored

    figures.append(Figure(show(truth), "Truth"))
    below: list[Figure | None] = [None, None]
    for head, values in predictions.items():
        figures.append(Figure(show(values), head_title(head)))
        if is_depth:
            error = np.abs(values / np.maximum(truth, 1.0) - 1)
            picture = error_picture(error, known, MAX_ERROR_DEPTH)
        else:
            error = stored_angles_deg(truth, values)
            picture = error_picture(error, known)
        mean = "no truth here"
        if known.any():
            average = float(error[known].mean())
            mean = f"mean {percent(average)} % here" if is_depth else f"mean {average:.1f}° here"
        below.append(Figure(picture, f"Error, {head_title(head)}", mean))
    return [Row("", figures, columns), Row("", below, columns)]


def stored_angles_deg(truth: UInt8[np.ndarray, "h w 3"], other: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Return the angles in degrees between directions stored as colors; 8 bits hold them to about half a degree."""
    one, two = (picture.astype(np.float64) / 127.5 - 1 for picture in (truth, other))
    lengths = np.linalg.norm(one, axis=2) * np.linalg.norm(two, axis=2)
    return np.degrees(np.arccos(np.clip((one * two).sum(axis=2) / np.maximum(lengths, 1e-9), -1, 1)))


def error_picture(
    error: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"], largest: float = MAX_ERROR_DEG
) -> Picture:
    """Return errors as colors, dark at 0 and light at `largest`; gray where the truth is not known."""
    return ramp_picture(error / largest, ERROR_RAMP, known)


def _stored(path: Path) -> Stored:
    return np.asarray(decode(path))
