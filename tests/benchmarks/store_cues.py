"""Real cues for the encodings' benchmark: DAVIS frames through the networks whose weights are in the shared folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tests.benchmarks import store_scenes

if TYPE_CHECKING:
    from torch import Tensor


def cues() -> tuple[str, dict[str, np.ndarray]]:
    """What they are from, and rgb n y x 3, depth n y x, flow n 2 y x, features n c y x; some at two sizes."""
    shared = Path(os.environ.get("LILA_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
    if (shared / "davis").is_dir():
        return "DAVIS frames, METER depth sharpened by PAMR, RAFT small, ViT-Ti with PAMR", _real(shared)
    scene = store_scenes.clip(0)
    made = {"rgb": scene.rgb, "depth": scene.depth, "flow": scene.flow_forward, "features": scene.features}
    return "made-up scenes: no shared data here", {name: values[:2] for name, values in made.items()}


def _real(shared: Path) -> dict[str, np.ndarray]:
    import torch
    import torch.nn.functional as F

    from lila_cues.networks import load_encoder, load_flow
    from lila_cues.pamr import Stage, refine, three_scales

    torch.set_num_threads(1)
    davis = shared / "davis"
    sequences = sorted(folder.name for folder in (davis / "Depth" / "480p").iterdir())
    frames = [frame for name in sequences for frame in _frames(davis / "JPEGImages" / "480p" / name)]
    rgb = np.stack([_square(cv2.cvtColor(cv2.imread(str(frame)), cv2.COLOR_BGR2RGB), 480) for frame in frames])
    depth = np.stack([_square(_inverse_depth(frame), 224) for frame in frames])
    guide = _tensor(np.stack([_square(image, 224) for image in rgb]))
    weights = shared / "weights"
    with torch.no_grad():
        encoder = load_encoder("vit_tiny_patch16_224", weights / "vit_tiny_patch16_224.pth", device="cpu")
        flow = load_flow("raft_small", weights / "raft_small.pth", device="cpu")
        raw = encoder.grid(guide)[:, :64]
        parts = zip(raw.split(1), guide.split(1), strict=True)
        refined = [refine(part, images, three_scales((224, 224))) for part, images in parts]
        features = torch.cat([F.adaptive_avg_pool2d(part, 112) for part in refined])
        return {
            "rgb": rgb,
            "rgb 256": np.stack([_square(image, 256) for image in rgb]),
            "depth": refine(torch.from_numpy(depth)[:, None], guide, (Stage(None, 3),))[:, 0].numpy(),
            "flow": flow(guide[::2], guide[1::2]).numpy(),
            "features": features.numpy(),
            "features 56": F.avg_pool2d(features, 2).numpy(),
            "features_raw": raw.numpy(),
        }


def _frames(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"))[:4:3]


def _inverse_depth(frame: Path) -> np.ndarray:
    path = Path(str(frame.with_suffix(".png")).replace("JPEGImages", "Depth"))
    metres = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
    return cv2.resize(100 / np.maximum(metres, 0.05), (854, 480), interpolation=cv2.INTER_CUBIC)


def _square(image: np.ndarray, side: int) -> np.ndarray:
    """The centre, resized."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    return cv2.resize(image[top : top + edge, left : left + edge], (side, side), interpolation=cv2.INTER_AREA)


def _tensor(images: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
