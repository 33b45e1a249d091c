"""One pair of a clip as a row of pictures: both frames, depth, flow, confidence, features before and after PAMR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stores import pictures
from stores.confidence import VALID, confidence
from stores.cues import PairCues
from stores.store import CueStore

TILE = 224  # px, the height of a picture
_GAP, _LINE = 6, 22


@dataclass(frozen=True)
class Row:
    """The pictures of one pair, each with its caption, and a line about the pair."""

    title: str
    tiles: tuple[tuple[str, np.ndarray], ...]


def row(store: CueStore, clip: int, pair: int) -> Row:
    """The pictures of one pair."""
    cues, times = store.pair(clip, pair), store.read("frame_time", clip)
    first, second = cues.frames
    title = (
        f"{store.clip_id(clip)}   clip {clip}, pair {pair}: {times[first]:.2f} s and {times[second]:.2f} s, "
        f"{cues.gap} frame{'s' * (cues.gap != 1)} apart"
    )
    extra = [
        (f"{maps.name}, first", pictures.scaled_picture(cues[maps.name][0], maps.limits)) for maps in store.spec.extra
    ]
    return Row(title, tuple((caption, _fit(picture)) for caption, picture in (*_tiles(cues), *extra)))


def sheet(rows: Sequence[Row]) -> np.ndarray:
    """All rows one above the other, with titles and captions: uint8 y x 3."""
    width = max(sum(tile.shape[1] + _GAP for _, tile in row.tiles) + _GAP for row in rows)
    height = len(rows) * (TILE + 2 * _LINE + _GAP) + _GAP
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, each in enumerate(rows):
        top = _GAP + number * (TILE + 2 * _LINE + _GAP)
        draw.text((_GAP, top), each.title, fill="black", font=ImageFont.load_default(15))
        left = _GAP
        for caption, tile in each.tiles:
            image.paste(Image.fromarray(tile), (left, top + _LINE))
            draw.text((left, top + _LINE + TILE + 2), caption, fill=(90, 90, 90), font=ImageFont.load_default(13))
            left += tile.shape[1] + _GAP
    return np.asarray(image)


def _tiles(cues: PairCues) -> list[tuple[str, np.ndarray]]:
    assert cues.rgb is not None
    assert cues.depth is not None
    assert cues.flow_forward is not None
    assert cues.flow_backward is not None
    assert cues.features is not None
    assert cues.features_raw is not None
    length = np.hypot(*cues.flow_forward)
    agreement = confidence(cues.flow_forward, cues.flow_backward)
    basis = pictures.pca_basis(np.moveaxis(cues.features, 1, -1).reshape(-1, cues.features.shape[1]))
    return [
        ("RGB, first", cues.rgb[0]),
        ("RGB, second", cues.rgb[1]),
        (
            f"depth, {np.nanmin(cues.depth[0]):.3g} to {np.nanmax(cues.depth[0]):.3g}",
            pictures.depth_picture(cues.depth[0]),
        ),
        (f"flow, up to {np.nanpercentile(length, 98):.1f} px", pictures.flow_picture(cues.flow_forward)),
        (f"confidence, {100 * (agreement > VALID).mean():.0f} % valid", _grey(agreement)),
        ("features of the encoder", pictures.pca_picture(cues.features_raw[0], basis)),
        ("features refined, first", pictures.pca_picture(cues.features[0], basis)),
        ("features refined, second", pictures.pca_picture(cues.features[1], basis)),
    ]


def _grey(share: np.ndarray) -> np.ndarray:
    """White is 1, black is 0; what is not valid is tinted red, what is missing grey."""
    level = np.nan_to_num(share)[..., None] * np.array([255, 255, 255]) + (share <= VALID)[..., None] * [90, 0, 0]
    picture = np.clip(level, 0, 255).astype(np.uint8)
    picture[~np.isfinite(share)] = pictures.MISSING
    return picture


def _fit(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    size = (round(width * TILE / height), TILE)
    shrink = height > TILE
    resized: np.ndarray = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST)
    return resized
