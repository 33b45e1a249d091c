"""Cues that compress and round as real ones do, made from noise: what the store's benchmarks write and read.

Sharp regions with a 1/f texture each; a region has a depth, a motion and a feature vector. Sizes after compression were
set beside those of real video (RAFT small, ViT-Ti and PAMR on DAVIS frames): rgb 0.70 of raw, flow 0.21, depth 0.36,
features 0.65 with blosc-zstd.
"""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from stores import ClipCues, Geometry

DEFAULT = Geometry(
    frames=16, pairs=12, base=(480, 480), cue=(224, 224), features=(112, 112), encoder=(16, 16), channels=64
)


def clip(seed: int, geometry: Geometry = DEFAULT) -> ClipCues:
    """All cues of one made-up clip."""
    g, random = geometry, np.random.Generator(np.random.Philox(key=seed))
    frames = [_frame(random, g) for _ in range(2)]
    pick = [frame % 2 for frame in range(g.frames)]
    raw, refined = (np.stack([frames[i][name] for i in pick]) for name in ("raw", "refined"))
    flow = np.stack([frames[pair % 2]["flow"] for pair in range(g.pairs)])
    first = np.arange(g.pairs) % (g.frames - 1)
    return ClipCues(
        rgb=np.stack([np.roll(frames[i]["rgb"], shift, 1) for shift, i in enumerate(pick)]),
        depth=np.stack([frames[i]["depth"] for i in pick]),
        flow_forward=flow,
        flow_backward=-flow,
        features=refined,
        features_raw=raw,
        feature_channels=np.sort(random.permutation(384)[: g.channels]),
        frame_index=np.arange(g.frames),
        frame_time=np.arange(g.frames) / 25,
        pair_frames=np.stack([first, first + 1], 1),
        pair_gap=np.ones(g.pairs, np.int64),
    )


def _frame(random: np.random.Generator, g: Geometry) -> dict[str, np.ndarray]:
    region = _regions(random, g.base)
    shade = _texture(random, g.base, 1.9)
    fine = ndimage.gaussian_filter(random.normal(0, 4, (*g.base, 3)), (1, 1, 0))
    rgb = random.uniform(40, 200, (region.max() + 1, 3))[region] + 35 * shade[..., None] + fine
    at_cue = _resized(region, g.cue)
    smooth = np.stack([_texture(random, g.cue, 3) for _ in range(3)])
    depth = random.uniform(3, 60, region.max() + 1)[at_cue] * np.exp(0.1 * smooth[0])
    flow = random.normal(0, 4, (region.max() + 1, 2))[at_cue].transpose(2, 0, 1) + 0.8 * smooth[1:]
    vectors = random.normal(0, 2, (region.max() + 1, g.channels))
    return {
        "rgb": np.clip(rgb, 0, 255).astype(np.uint8),
        "depth": depth.astype(np.float32),
        "flow": flow.astype(np.float32),
        "refined": _features(random, vectors, region, g.features, 0.35),
        "raw": _features(random, vectors, region, g.encoder, 1.0),
    }


def _features(
    random: np.random.Generator, vectors: np.ndarray, region: np.ndarray, size: tuple[int, int], deviation: float
) -> np.ndarray:
    coarse = random.normal(0, deviation, (vectors.shape[1], *(max(2, side // 4) for side in size)))
    zoom = (1, *(side / part for side, part in zip(size, coarse.shape[1:], strict=True)))
    maps = vectors[_resized(region, size)].transpose(2, 0, 1) + ndimage.zoom(coarse, zoom, order=1)
    return maps.astype(np.float32)


def _regions(random: np.random.Generator, size: tuple[int, int], count: int = 12) -> np.ndarray:
    """Labels of a Voronoi diagram with rough borders."""
    y, x = np.mgrid[: size[0], : size[1]] + 12 * np.stack([_texture(random, size, 1.6) for _ in range(2)])
    centres = random.uniform(0, size, (count, 2))
    return np.argmin([(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres], axis=0)


def _texture(random: np.random.Generator, size: tuple[int, int], power: float) -> np.ndarray:
    """Noise with amplitude falling as frequency^-power, of unit deviation."""
    spectrum = fft.rfft2(random.normal(size=size))
    frequency = np.hypot(fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1])[None])
    frequency[0, 0] = np.inf
    noise = fft.irfft2(spectrum / frequency**power, s=size)
    return noise / noise.std()


def _resized(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]
