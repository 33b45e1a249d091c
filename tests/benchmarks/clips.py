"""Clips for benchmarks, as a video file or a folder of images: everything in them moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (360, 640)  # of a clip of Kinetics


def moving_texture(seed: int, frames: int, size: tuple[int, int] = SIZE) -> Iterator[np.ndarray]:
    """Yield frames y x 3, uint8, of squares of 8 px that move a pixel down and two to the right per frame."""
    texture = np.random.default_rng(seed).integers(0, 255, (size[0] // 8, size[1] // 8, 3), np.uint8)
    texture = np.kron(texture, np.ones((8, 8, 1), np.uint8))
    for index in range(frames):
        yield np.roll(texture, (index, 2 * index), (0, 1))


def write_video(path: Path, seed: int, frames: int = 250) -> None:
    """Write a clip like those of Kinetics: 8 s, 360p, one key frame in 250."""
    import av  # images do not need it

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "fast"})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *SIZE, "yuv420p", 250
        for picture in moving_texture(seed, frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_images(root: Path, clips: int, frames: int = 24, size: tuple[int, int] = SIZE) -> list[str]:
    """Write clips as folders of JPEGs below `root`; return their ids."""
    names = [f"{clip:03d}" for clip in range(clips)]
    for clip, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index, picture in enumerate(moving_texture(clip, frames, size)):
            Image.fromarray(picture).save(root / name / f"{index:05d}.jpg", quality=95)
    return names
