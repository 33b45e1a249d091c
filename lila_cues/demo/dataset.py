"""The demo's data on disk: rendered clips as video files with ground truth, held-out scenes as a DAVIS folder too.

A scene is a function of (seed, split, index) alone: the first one of that random stream that shows all its objects in
the first frame and still in the last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from lila_cues import console
from lila_cues.demo.scenes import HEIGHT, WIDTH, Scene, draw_scene, render_frame, render_scene
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter, video_codec
from lila_cues.viz.pictures import write_label_png
from stores.atomic import atomic_write
from stores.errors import LilaError

RENDERER = 1  # raise it when the same seed would give other pixels
TRAIN_FRAMES = 24
HELDOUT_FRAMES = 12
# One thread, and without mbtree: with it, x264's assembly gave other bytes for the same frames from run to run.
REPRODUCIBLE = {
    "libx264": {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0", "g": "12", "threads": "1"},
    "mpeg4": {"qscale": "2", "g": "12", "threads": "1"},
}
DONE = "demo.json"
BEGUN = "demo.begun.json"


class Split(IntEnum):
    """The use of a scene; scenes of different splits never share a random stream, whatever the seeds."""

    TRAIN = 1
    HELDOUT = 2
    WEIGHTS = 3  # training scenes of the shipped tiny networks
    WEIGHTS_CHECK = 4  # their validation scenes


@dataclass(frozen=True)
class SceneSeed:
    """The position of a scene in the space of all scenes."""

    seed: int
    split: Split
    index: int

    @property
    def name(self) -> str:
        return f"{self.split.name.lower()}_{self.index:03d}"

    def generator(self) -> np.random.Generator:
        """Return the scene's random stream: the seed is the key, split and index the upper half of the counter."""
        counter = [0, 0, self.index, int(self.split)]
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter))


def render_demo(root: Path, train: int = 24, heldout: int = 6, seed: int = 0) -> None:
    """Render all clips into `root`, unless they exist already.

    `root/train` and `root/heldout` hold `NAME.mp4` and `truth/NAME.npz`; `root/heldout` is a DAVIS-2017 folder as well.
    `root/demo.json` is written last. Raises LilaError where `root` holds anything that these settings do not produce.
    """
    settings = {
        "train": train, "heldout": heldout, "seed": seed, "train_frames": TRAIN_FRAMES,
        "heldout_frames": HELDOUT_FRAMES, "height": HEIGHT, "width": WIDTH, "renderer": RENDERER,
    }  # fmt: skip
    if _is_complete(root, settings):
        return
    atomic_write(json.dumps(settings, indent=2) + "\n", root / BEGUN)
    scenes = [SceneSeed(seed, Split.TRAIN, i) for i in range(train)]
    scenes += [SceneSeed(seed, Split.HELDOUT, i) for i in range(heldout)]
    with console.progress("clips") as bar:
        for scene in bar.track(scenes, description="rendering"):
            _render_clip(root, scene)
    sets = root / "heldout" / "ImageSets" / "2017"
    sets.mkdir(parents=True, exist_ok=True)
    (sets / "val.txt").write_text("".join(f"{scene.name}\n" for scene in scenes[train:]))
    positions = {scene.name: [scene.seed, int(scene.split), scene.index] for scene in scenes}
    content = {"settings": settings, "scenes": positions, "video_encoder": video_codec()}
    atomic_write(json.dumps(content, indent=2) + "\n", root / DONE)
    (root / BEGUN).unlink()


def visible_scene(seed: SceneSeed, frames: int) -> Scene:
    """Draw scenes from the seed's stream until one shows all of its objects in its first and last frame."""
    rng = seed.generator()
    while True:
        scene = draw_scene(rng, frames)
        objects = np.array(scene.labels) > 0
        views = (render_frame(scene, t)[1].reshape(-1) for t in (0, frames - 1))
        first, last = (np.bincount(layers, minlength=len(objects))[objects] for layers in views)  # pixels of each
        if (first >= 500).all() and (last >= 200).all():
            return scene


def _is_complete(root: Path, settings: dict[str, int]) -> bool:
    """Return whether the clips exist; False for a folder to be filled, from the start or after an interruption."""
    marker = next((path for path in (root / DONE, root / BEGUN) if path.is_file()), None)
    if marker is None:
        if root.is_dir() and any(root.iterdir()):
            raise LilaError(
                f"expected an empty folder or a rendered demo at {root}, found other files and no {DONE}; "
                f"name another folder, or move them away"
            )
        return False
    try:
        content = json.loads(marker.read_text("utf-8-sig"))
        found = dict(content["settings"] if marker.name == DONE else content)
    except (ValueError, TypeError, KeyError):
        raise LilaError(
            f"expected the demo's settings as JSON in {marker}, found something else; delete {root}"
        ) from None
    if found != settings:
        different = [f"{k} {found.get(k)} instead of {v}" for k, v in settings.items() if found.get(k) != v]
        raise LilaError(
            f"the demo's clips at {root} were rendered with other settings ({', '.join(different)}); "
            f"delete that folder or name another to render them again"
        )
    return marker.name == DONE


def _render_clip(root: Path, seed: SceneSeed) -> None:
    """Write one clip and its ground truth; a held-out one also as in DAVIS-2017: decoded frames and indexed masks."""
    folder, name = root / seed.split.name.lower(), seed.name
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    heldout = seed.split is Split.HELDOUT
    rgb, truth = render_scene(visible_scene(seed, HELDOUT_FRAMES if heldout else TRAIN_FRAMES))
    video = folder / f"{name}.mp4"
    with VideoWriter(video, Fraction(24), REPRODUCIBLE[video_codec()]) as writer:
        for frame in rgb:
            writer.write(frame)
    truth.save(folder / "truth" / f"{name}.npz")
    if not heldout:
        return
    images, annotations = folder / "JPEGImages" / "480p" / name, folder / "Annotations" / "480p" / name
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    for index, (frame, mask) in enumerate(zip(VideoFrames(video), truth.masks(), strict=True)):
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 97])
        (images / f"{index:05d}.jpg").write_bytes(encoded.tobytes())
        write_label_png(annotations / f"{index:05d}.png", mask)
