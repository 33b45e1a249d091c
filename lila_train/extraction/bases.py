"""One PCA basis for many pictures, so that colours can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float

from lila_train.extraction.network import Network, spread
from lila_train.inference.images import read_image
from lila_train.inference.media import Medium
from lila_train.inference.video import VideoFrames
from stores.pictures import Basis, Picture, pca_basis

FRAMES = 6  # of a video that are looked at


def video_basis(network: Network, film: VideoFrames) -> Basis:
    """Of a few frames spread over the part of the video that is wanted."""
    return _basis(network, _some(film, network.settings.max_frames))


def shared_basis(network: Network, media: Sequence[Medium]) -> Basis:
    """Of all these files: of each image, of a few frames of each video."""
    return _basis(network, (picture for medium in media for picture in _pictures(medium)))


def basis_fingerprint(basis: Basis) -> str:
    """Tells one basis from another: 16 hex digits of a hash of its values, rounded to four decimals."""
    digest = hashlib.sha256()
    for part in (basis.mean, basis.axes, basis.low, basis.high):
        digest.update(np.round(part, 4).tobytes())
    return digest.hexdigest()[:16]


def _pictures(medium: Medium) -> Iterator[Picture]:
    return _some(VideoFrames(medium.path), None) if medium.is_video else iter([read_image(medium.path)])


def _some(film: VideoFrames, limit: int | None) -> Iterator[Picture]:
    count = min(film.count or FRAMES, limit or film.count or FRAMES)
    step = max(1, count // FRAMES)
    return islice(film, 0, min(count, step * FRAMES), step)


def _basis(network: Network, pictures: Iterable[Picture]) -> Basis:
    return pca_basis(np.concatenate([_sample(network, network.resized(picture)) for picture in pictures]))


def _sample(network: Network, picture: Picture) -> Float[np.ndarray, "n d"]:
    if network.needs_tiles(picture):
        with TemporaryDirectory() as scratch:
            return spread(network.tiled_features(picture, Path(scratch)))
    return spread(network.features([picture])[0].cpu().numpy())
