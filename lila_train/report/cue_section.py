"""The cues of a training clip as pictures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lila_train.report.page import Markup, drawing, figure, heading, joined, paragraph, photo, row
from stores import CueStore
from stores.confidence import VALID, confidence
from stores.errors import LilaError
from stores.pictures import Picture, depth_picture, flow_picture, flow_wheel, pca_basis, pca_picture

EXCLUDED = np.array([214, 96, 60], np.uint8)


def section(store: CueStore, examples: int = 2) -> Markup:
    """What stage one wrote for a few clips, each at the pair of frames with the most motion."""
    clips = store.complete_clips()
    if not len(clips):
        raise LilaError(f"expected a complete clip in {store.path}, found none; build it with `lila-cues build`")
    chosen = clips[np.linspace(0, len(clips) - 1, min(examples, len(clips))).astype(int)]
    shown = [_example(store, int(clip), liveliest_pair(store, int(clip))) for clip in chosen]
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
    picture[~(values > VALID)] = EXCLUDED
    return picture


def _example(store: CueStore, clip: int, pair: int) -> Markup:
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
