"""Surface normals on NYUv2: folders, normals from depth, and two protocols (docs/protocols.md, "NYUv2").

Normals are unit vectors in the camera's frame, x to the right, y down, z away from the camera; they face the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.io
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from lila_cues.images import read_depth, read_stored
from lila_cues.inputs import list_files
from lila_train.evaluation.dense.data import (
    CenterView,
    DenseData,
    Example,
    Files,
    TrainView,
    ValView,
    check_files,
    check_size,
)
from lila_train.evaluation.dense.metrics import MeanSums, angle_errors
from lila_train.evaluation.dense.probes import DptProbe, NormalsProbe
from lila_train.evaluation.dense.task import draw_directions
from lila_train.evaluation.dense.training import DenseProtocol, ProbeRecipe
from stores.errors import LilaError

LABELED = (
    "nyu_depth_v2_labeled.mat has neither the splits nor GeoNet's normals: download GeoNet's files, or save its images "
    "as {train,test}/rgb/NAME.png and its depths as {train,test}/depth/NAME.png (16 bits, mm)"
)
BROKEN = (6919, 21181)  # positions in GeoNet's sorted training set
MIN_DEPTH_M, MAX_DEPTH_M = 0.1, 10.0
GEONET_MEAN = (122.175, 116.169, 103.508)  # was subtracted twice from the images in its files
COSINE_LIMIT = 1 - 1e-4  # of the losses: keeps the slope of arccos finite


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point of a pinhole camera, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


NYU_CAMERA = Intrinsics(518.8579, 519.46961, 325.58245, 253.73617)  # of its 640×480 color images


def open_nyu(root: Path, limit: int | None) -> DenseData:
    """List GeoNet's `{train,test}/*.mat` (img, depth, norm), or `{train,test}/{rgb,depth}/NAME.{jpg,png}`.

    Depth is a 16-bit PNG in mm; beside it `normals/NAME.png` (8 bits, (n + 1)/2), or normals are computed from depth.
    """
    train, val = (_split(root, split)[:limit] for split in ("train", "test"))
    about = {"layout": "NYUv2", "normals": "from files" if len(val[0]) != 2 else "from depth"}
    return DenseData(root, train, val, read_example, about)


def read_example(files: Files) -> Example:
    """Read an image, its normals, and where they are known: at depths above 0 and up to 10 m."""
    image, depth_m, normals = read_nyu(files)
    if normals is None:
        normals = normals_of_depth(depth_m, NYU_CAMERA)
    known = np.isfinite(normals).all(axis=-1) & (depth_m > 0) & (depth_m <= MAX_DEPTH_M)
    known &= np.linalg.norm(np.nan_to_num(normals), axis=-1) > 0.5
    target = np.concatenate([np.where(known[..., None], normals, 0), known[..., None]], axis=-1)
    return Example(torch.tensor(image).movedim(-1, 0), torch.tensor(target, dtype=torch.float32).movedim(-1, 0))


def read_nyu(
    files: Files,
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"], Float[np.ndarray, "h w 3"] | None]:
    """Read an image, its depth in m, and its normals, None where the files hold none; LilaError for other files."""
    normals: np.ndarray | None = None
    if len(files) == 1:
        try:
            content = scipy.io.loadmat(files[0])
            image, depth_m, normals = (content[key][:480, :640] for key in ("img", "depth", "norm"))
            image = (image + 2 * np.array(GEONET_MEAN)).clip(0, 255).astype(np.uint8)
            depth_m = depth_m.astype(np.float64)
            if not image.shape == normals.shape == (*depth_m.shape, 3):
                raise ValueError(f"shapes {image.shape}, {depth_m.shape} and {normals.shape}")
        except NotImplementedError as error:
            raise LilaError(
                f"expected a .mat file of GeoNet at {files[0]}, found one of MATLAB 7.3; {LABELED}"
            ) from error
        except Exception as error:  # foreign bytes can raise anything
            raise LilaError(f"expected img, depth and norm in {files[0]}, but it cannot be read ({error})") from error
    else:
        image, *encoded = (read_stored(path) for path in (files[0], *files[2:]))
        depth_m = read_depth(files[1]) / 1000.0
        check_size(depth_m, files[1], "depth", image, files[0])
        if encoded:
            normals = encoded[0] / 127.5 - 1
            check_size(normals, files[2], "normals", image, files[0])
    if (depth_m > 0).any() and not ((depth_m >= MIN_DEPTH_M) & (depth_m <= MAX_DEPTH_M)).any():
        raise LilaError(
            f"expected depths of {MIN_DEPTH_M} to {MAX_DEPTH_M:g} m, found {depth_m[depth_m > 0].min():.4g} to "
            f"{depth_m.max():.4g} m in {files[-1] if len(files) == 1 else files[1]}; a PNG holds millimeters"
        )
    return image, depth_m, normals


def normals_of_depth(depth_m: Float[np.ndarray, "h w"], camera: Intrinsics) -> Float[np.ndarray, "h w 3"]:
    """Return the normal of the plane through each pixel's neighbors, by central differences of the observed points.

    NaN at the border, and where a neighbor's depth is 0 or missing.
    """
    rows, columns = np.mgrid[: depth_m.shape[0], : depth_m.shape[1]]
    z = np.where(depth_m > 0, depth_m, np.nan)
    points = np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z, z], axis=-1)
    normals = np.full(points.shape, np.nan)
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    crossed = np.cross(down, across)
    normals[1:-1, 1:-1] = crossed / np.maximum(np.linalg.norm(crossed, axis=-1, keepdims=True), 1e-12)
    return normals


def flip_normals(target: Float[Tensor, "4 h w"]) -> Float[Tensor, "4 h w"]:
    """Mirror normals along with their image: the x component changes its sign."""
    return target.flip(-1) * target.new_tensor([-1, 1, 1, 1]).view(4, 1, 1)


def angular_loss(outputs: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 4 h w"]) -> Float[Tensor, ""]:
    """Return the mean angle in radians where the normal is known; its cosine is clamped."""
    cosine = F.cosine_similarity(outputs, target[:, :3], dim=1).clamp(-COSINE_LIMIT, COSINE_LIMIT)
    known = target[:, 3]
    return (torch.arccos(cosine) * known).sum() / known.sum().clamp_min(1)


def uncertain_angular_loss(outputs: Float[Tensor, "b 4 h w"], target: Float[Tensor, "b 4 h w"]) -> Float[Tensor, ""]:
    """Return the mean of ln(1 + e^(−κπ)) − ln(κ² + 1) + κ·angle where the normal is known (Bae et al., ICCV 2021).

    The fourth output gives the concentration κ, at least 0.01; the angle is in radians, its cosine clamped.
    """
    cosine = F.cosine_similarity(outputs[:, :3], target[:, :3], dim=1)
    angle = torch.arccos(cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT))
    concentration = F.elu(outputs[:, 3]) + 1 + 0.01
    normalizer = torch.log1p(torch.exp(-concentration * math.pi)) - torch.log1p(concentration.square())
    known = target[:, 3]
    return ((normalizer + concentration * angle) * known).sum() / known.sum().clamp_min(1)


def _split(root: Path, split: str) -> Sequence[tuple[Path, ...]]:
    folder = root / split
    if mats := list_files(folder, {".mat"}, natural=False):
        broken = BROKEN if split == "train" else ()
        return [(path,) for n, path in enumerate(mats) if n not in broken]
    images = list_files(folder / "rgb", {".jpg", ".png"}, natural=False)
    if not images:
        if (labeled := root / "nyu_depth_v2_labeled.mat").is_file():
            raise LilaError(f"expected train and test in {root}, found {labeled.name} alone; {LABELED}")
        raise LilaError(
            f"expected GeoNet's .mat files, or rgb and depth, in {folder}, found neither; pass the folder that holds "
            "train and test"
        )
    kinds = ("depth", "normals") if (folder / "normals").is_dir() else ("depth",)
    examples = [(path, *(folder / kind / f"{path.stem}.png" for kind in kinds)) for path in images]
    return check_files(examples)


NYU_LILA = DenseProtocol(
    name="nyuv2-normals@lila",
    build=NormalsProbe,
    n_outputs=3,
    recipe=ProbeRecipe(epochs=30, batch=16, lr=3e-4, weight_decay=0.01, repeats=10),
    train_view=TrainView(448, jitter=(0.3, 0.3, 0.2), antialias=False),
    val_view=ValView(554, 504, antialias=False),
    loss=angular_loss,
    flip=flip_normals,
    measure=angle_errors,
    from_json=MeanSums,
    draw=draw_directions,
)

NYU_PROBE3D = replace(
    NYU_LILA,
    name="nyuv2-normals@probe3d",
    build=DptProbe,
    n_outputs=4,
    recipe=ProbeRecipe(epochs=10, batch=8, lr=5e-4, weight_decay=0.01, schedule="quarter_cosine", warmup_epochs=1.5),
    train_view=CenterView(480),
    val_view=ValView(480, 480),
    loss=uncertain_angular_loss,
)
