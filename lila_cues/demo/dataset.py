"""The demo's data on disk: rendered clips as video files, truth beside them, held-out scenes as a DAVIS folder too.

Where the random draws of a scene come from: a scene is a function of (seed, split, index) and of nothing else.

Which drawn scenes are used: those that show all their objects in the first frame and still in the last.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

import cv2
import numpy as np

from lila_cues import console
from lila_cues.demo.geometry import Truth
from lila_cues.demo.render import film, paint
from lila_cues.demo.scenes import HEIGHT, WIDTH, Scene, draw_scene
from lila_cues.video.writer import read_video, video_codec, write_video
from lila_cues.viz.pictures import write_label_png
from stores.errors import LilaError


class Split(IntEnum):
    """What a scene is for; scenes of different splits never share a random stream, whatever the seeds are."""

    TRAIN = 1
    HELDOUT = 2
    WEIGHTS = 3  # what the shipped tiny networks were trained on
    WEIGHTS_CHECK = 4  # what they were checked on after training


@dataclass(frozen=True)
class SceneSeed:
    """The position of a scene in the space of all scenes."""

    seed: int
    split: Split
    index: int

    @property
    def name(self) -> str:
        """The clip's file name without its ending."""
        return f"{self.split.name.lower()}_{self.index:03d}"

    def generator(self) -> np.random.Generator:
        """The scene's own stream: the seed is the key, split and index are the upper half of the counter."""
        counter = [0, 0, self.index, int(self.split)]
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter))


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


RENDERER = 1  # raise it when the same seed would give other pixels
TRAIN_FRAMES = 24
HELDOUT_FRAMES = 12
JPEG_QUALITY = 97
DONE = "demo.json"
BEGUN = "demo.begun.json"


@dataclass(frozen=True)
class DemoSettings:
    """What decides every byte of the demo's data."""

    train: int
    heldout: int
    seed: int
    train_frames: int = TRAIN_FRAMES
    heldout_frames: int = HELDOUT_FRAMES
    height: int = HEIGHT
    width: int = WIDTH
    renderer: int = RENDERER

    def scenes(self) -> list[tuple[SceneSeed, int]]:
        """Every scene with its number of frames."""
        train = [(SceneSeed(self.seed, Split.TRAIN, i), self.train_frames) for i in range(self.train)]
        return train + [(SceneSeed(self.seed, Split.HELDOUT, i), self.heldout_frames) for i in range(self.heldout)]


def render(root: Path, train: int = 24, heldout: int = 6, seed: int = 0) -> None:
    """Render all clips under `root`, unless they are there already.

    `root/train` and `root/heldout` hold `NAME.mp4` and `truth/NAME.npz`; `root/heldout` is a DAVIS-2017 folder as well.
    `root/demo.json` is written last. Raises LilaError if `root` holds anything that these settings do not produce.
    """
    settings = DemoSettings(train=train, heldout=heldout, seed=seed)
    if _is_whole(root, settings):
        return
    root.mkdir(parents=True, exist_ok=True)
    _write_json(root / BEGUN, asdict(settings))
    with console.progress("clips") as bar:
        task = bar.add_task("rendering", total=train + heldout, rate=0.0)
        for scene_seed, frames in settings.scenes():
            _render_clip(root, scene_seed, frames)
            bar.advance(task)
            bar.update(task, rate=bar.tasks[task].speed or 0.0)
    _write_sequence_list(root / "heldout", settings)
    _write_json(root / DONE, _record(settings))
    (root / BEGUN).unlink()


def _is_whole(root: Path, settings: DemoSettings) -> bool:
    """True if the data are there; False if they are to be made, here or from where an earlier run stopped."""
    for marker in (DONE, BEGUN):
        if (root / marker).is_file():
            _check_settings(root, _read_settings(root / marker), settings)
            return marker == DONE
    if root.is_dir() and any(root.iterdir()):
        raise LilaError(
            f"expected an empty folder or a rendered demo at {root}, found other files and no {DONE}; "
            f"name another folder, or move them away"
        )
    return False


def _check_settings(root: Path, found: object, settings: DemoSettings) -> None:
    if found == asdict(settings):
        return
    wanted = asdict(settings)
    found = found if isinstance(found, dict) else {}
    differing = ", ".join(f"{k} {found.get(k)} instead of {wanted[k]}" for k in wanted if found.get(k) != wanted[k])
    raise LilaError(
        f"the demo's clips at {root} were rendered with other settings ({differing}); "
        f"delete that folder or name another to render them anew"
    )


def _read_settings(marker: Path) -> object:
    try:
        content = json.loads(marker.read_text())
    except ValueError:
        raise LilaError(
            f"expected the demo's settings as JSON in {marker}, found something else; delete {marker.parent}"
        ) from None
    return content.get("settings") if marker.name == DONE and isinstance(content, dict) else content


# --- one clip -----------------------------------------------------------------------------------------------------


def _render_clip(root: Path, seed: SceneSeed, frames: int) -> None:
    folder = root / seed.split.name.lower()
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    rgb, truth = film(shown_scene(seed, frames))
    video = folder / f"{seed.name}.mp4"
    write_video(video, rgb)
    truth.save(folder / "truth" / f"{seed.name}.npz")
    if seed.split is Split.HELDOUT:
        _write_davis(folder, seed.name, read_video(video), truth)


def _write_davis(folder: Path, name: str, rgb: np.ndarray, truth: Truth) -> None:
    """The decoded frames as JPEG and the masks as indexed PNG, named as DAVIS-2017 names them."""
    images, annotations = folder / "JPEGImages" / "480p" / name, folder / "Annotations" / "480p" / name
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    for index, (frame, mask) in enumerate(zip(rgb, truth.masks(), strict=True)):
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), quality)
        (images / f"{index:05d}.jpg").write_bytes(encoded.tobytes())
        write_label_png(annotations / f"{index:05d}.png", mask)


def _write_sequence_list(folder: Path, settings: DemoSettings) -> None:
    names = [seed.name for seed, _ in settings.scenes() if seed.split is Split.HELDOUT]
    sets = folder / "ImageSets" / "2017"
    sets.mkdir(parents=True, exist_ok=True)
    (sets / "val.txt").write_text("".join(f"{name}\n" for name in names))


# --- the marker ---------------------------------------------------------------------------------------------------


def _record(settings: DemoSettings) -> dict[str, object]:
    seeds = {seed.name: [seed.seed, int(seed.split), seed.index] for seed, _ in settings.scenes()}
    return {"settings": asdict(settings), "scenes": seeds, "video_encoder": video_codec()}


def _write_json(path: Path, content: dict[str, object]) -> None:
    """Write under another name first, so that the marker is whole or absent."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
