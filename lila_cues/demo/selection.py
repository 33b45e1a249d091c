"""Which drawn scenes are used: those that show all their objects in the first frame and still in the last."""

from __future__ import annotations

import numpy as np

from lila_cues.demo.raster import paint
from lila_cues.demo.scenes import Scene, draw_scene
from lila_cues.demo.seeds import SceneSeed

SMALLEST_AT_FIRST_PX = 500
SMALLEST_AT_LAST_PX = 200


def shown_scene(seed: SceneSeed, frames: int) -> Scene:
    """The first scene of this seed's stream that shows all of its objects."""
    rng = seed.generator()
    while True:
        scene = draw_scene(rng, frames)
        if shows_all_objects(scene):
            return scene


def shows_all_objects(scene: Scene) -> bool:
    """Each object covers at least 500 pixels of the first frame and 200 of the last."""
    first, last = _visible_pixels(scene, 0), _visible_pixels(scene, scene.frames - 1)
    return bool((first >= SMALLEST_AT_FIRST_PX).all() and (last >= SMALLEST_AT_LAST_PX).all())


def _visible_pixels(scene: Scene, t: int) -> np.ndarray:
    """How many pixels of frame t show each object, in the order of the layers."""
    counts = np.bincount(paint(scene, t)[1].reshape(-1), minlength=len(scene.layers))
    return counts[np.array(scene.labels) > 0]
