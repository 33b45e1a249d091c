"""Held-out frames: features of the encoder and of LILA side by side, predicted masks beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from lila_train.evaluation.davis_scorer import without_void
from lila_train.evaluation.frames import as_input
from lila_train.evaluation.models import FeatureMap, GridModel, feature_map
from lila_train.evaluation.picture_files import read_frame, read_mask
from lila_train.report.davis_result import DavisResult
from lila_train.report.page import Markup, drawing, figure, heading, joined, paragraph, photo, row
from lila_train.report.wording import percent, signed, title
from lila_train.sizes import Size
from stores.pictures import Picture, mask_overlay, pca_basis, pca_picture

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
