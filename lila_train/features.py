"""Pixel features of files: an array and a picture of its three principal components per image, a film per video."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from PIL import Image

from lila_train.media import Picture, VideoFrames, VideoWriter, is_video, read_image
from lila_train.model import Lila
from stores.errors import LilaError
from stores.pictures import Basis, pca_basis, pca_picture, write_png

BASIS_FRAMES = 6
_BASIS_PIXELS = 20_000

Features = Float16[np.ndarray, "d h w"]


@dataclass(frozen=True)
class Extraction:
    """What to make of each file; `size` is the short side in pixels at which features are computed, None as it is."""

    out: Path
    size: int | None = None
    max_frames: int | None = None
    arrays: bool = True


def features_of(model: Lila, picture: UInt8[np.ndarray, "h w 3"]) -> Features:
    """Features of one image, channels first, half precision."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        image = torch.tensor(picture).permute(2, 0, 1)[None].to(device)
        return model(image)[0].half().cpu().numpy()


def extract_image(model: Lila, path: Path, name: Path, plan: Extraction, on_frame: Callable[[], None]) -> None:
    """Write NAME.npz (`features`, d×H×W) and NAME_pca.png."""
    found = features_of(model, resized(read_image(path), plan.size))
    if plan.arrays:
        _save(plan.out / f"{name}.npz", found)
    picture = plan.out / f"{name}_pca.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture, pca_picture(found.astype(np.float32)))
    on_frame()


def extract_video(model: Lila, path: Path, name: Path, plan: Extraction, on_frame: Callable[[], None]) -> None:
    """Write NAME/00000.npz, … and NAME_pca.mp4, all frames in one basis so that colours are stable."""
    video = VideoFrames(path)
    basis = video_basis(model, video, plan)
    film = plan.out / f"{name}_pca.mp4"
    film.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(film, video.rate) as writer:
        for index, picture in enumerate(_frames(video, plan)):
            found = features_of(model, picture)
            if plan.arrays:
                _save(plan.out / str(name) / f"{index:05d}.npz", found)
            writer.write(pca_picture(found.astype(np.float32), basis))
            on_frame()


def video_basis(model: Lila, video: VideoFrames, plan: Extraction) -> Basis:
    """One PCA basis for the whole video, from a few frames spread over it."""
    count = min(video.count or BASIS_FRAMES, plan.max_frames or BASIS_FRAMES**3)
    step = max(1, count // BASIS_FRAMES)
    samples = []
    for picture in islice(_frames(video, plan), 0, step * BASIS_FRAMES, step):
        pixels = features_of(model, picture).astype(np.float32)
        pixels = pixels.reshape(pixels.shape[0], -1).T
        samples.append(pixels[:: max(1, len(pixels) // _BASIS_PIXELS)])
    return pca_basis(np.concatenate(samples))


def extract(model: Lila, path: Path, name: Path, plan: Extraction, on_frame: Callable[[], None]) -> None:
    """Whatever the file is."""
    (extract_video if is_video(path) else extract_image)(model, path, name, plan, on_frame)


def frame_count(path: Path, plan: Extraction) -> int:
    """How many frames a file is expected to give."""
    if not is_video(path):
        return 1
    count = VideoFrames(path).count or 0
    return min(count, plan.max_frames) if plan.max_frames else count


def resized(picture: Picture, size: int | None) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with its short side at `size` pixels, aspect kept, antialiased."""
    if size is None:
        return picture
    height, width = picture.shape[:2]
    scale = size / min(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(target, Image.Resampling.BILINEAR))


def names_of(files: list[Path], root: Path) -> list[Path]:
    """Where each file's results go below the output folder, without a suffix; two files never share a place."""
    base = root if root.is_dir() else root.parent
    names = [path.relative_to(base).with_suffix("") for path in files]
    taken: dict[Path, Path] = {}
    for path, name in zip(files, names, strict=True):
        if name in taken:
            raise LilaError(f"{taken[name]} and {path} would both be written as {name}; rename one of them")
        taken[name] = path
    return names


def _frames(video: VideoFrames, plan: Extraction) -> Iterator[Picture]:
    for picture in islice(video, plan.max_frames):
        yield resized(picture, plan.size)


def _save(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, features=features)
    os.replace(temporary, path)
