"""`lila-train features`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lila_train.commands.options import Device, EncoderWeights, Weights
from stores import console
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_train.extraction import Extractor
    from lila_train.inference.media import Medium


def features(
    sources: Annotated[list[Path], typer.Argument(metavar="INPUT…", help="Images, videos, folders or globs of them.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Where the arrays and pictures go.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="npz, safetensors, zarr, pca; several may be given.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Short side in pixels; as it is if not given.")] = None,
    tile: Annotated[int | None, typer.Option(min=1, help="Compute in tiles of so many pixels, to save memory.")] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help="Least overlap of tiles; a quarter of them.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Frames, or images of one size, computed at once.")] = 1,
    precision: Annotated[str, typer.Option(help="Of the computation: float32, bfloat16, float16.")] = "float32",
    dtype: Annotated[str, typer.Option(help="Of what is written: float16, float32.")] = "float16",
    pca_from: Annotated[
        list[Path] | None, typer.Option(help="One PCA basis for all files, from these images or videos.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="At most so many frames of a video.")] = None,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Pixel features of images and videos, with a picture of their three principal components.

    An image gives NAME.npz (`features`, d×H×W) and NAME_pca.png; a video gives NAME/00000.npz, … and NAME_pca.mp4, or
    one array NAME.zarr. Memory does not grow with the length of a video. What was stopped goes on with the same
    command; a file that cannot be read is reported at the end, and the rest is done.
    """
    from lila_train.devices import choose
    from lila_train.extraction import Cache, Extractor, Network, Settings, basis_fingerprint, shared_basis
    from lila_train.inference.loading import load
    from lila_train.inference.media import media

    found = media(sources)
    model = load(weights, device=choose(device), encoder_weights=encoder_weights)
    chosen = tuple(dict.fromkeys(formats)) if formats else ("npz", "pca")
    network = Network(model, Settings(model.identity, chosen, size, tile, overlap, max_frames, precision, dtype))
    basis = shared_basis(network, media(pca_from)) if pca_from else None
    settings = replace(network.settings, pca_from=basis_fingerprint(basis) if basis else None)
    extractor = Extractor(Network(model, settings), Cache(out, settings), batch, basis)
    _report(_extract(extractor, found), found, out)


def _extract(extractor: Extractor, found: list[Medium]) -> list[str]:
    """Do what is not done yet, under one bar; the reasons why some could not be."""
    todo = [medium for medium in found if not extractor.cache.is_done(medium)]
    images, videos = [m for m in todo if not m.is_video], [m for m in todo if m.is_video]
    failures: list[str] = []
    with console.progress("frames") as bar:
        task = bar.add_task("features", total=None)
        counts, unreadable = _counts(videos, extractor.network.settings.max_frames)
        failures += unreadable.values()
        bar.update(task, total=len(images) + sum(counts.values()))
        failures += extractor.images(images, lambda: bar.advance(task))
        for medium in (m for m in videos if m not in unreadable):
            try:
                bar.update(task, description=medium.path.name)
                extractor.video(medium, lambda: bar.advance(task))
            except LilaError as error:
                failures.append(str(error))
        bar.update(task, description="features")
    return failures


def _counts(videos: list[Medium], limit: int | None) -> tuple[dict[Medium, int], dict[Medium, str]]:
    """How many frames the videos say they have, and why some cannot be opened."""
    from lila_train.inference.video import VideoFrames

    counts, unreadable = {}, {}
    for medium in videos:
        try:
            count = VideoFrames(medium.path).count or 0
            counts[medium] = min(count, limit) if limit else count
        except LilaError as error:
            unreadable[medium] = str(error)
    return counts, unreadable


def _report(failures: list[str], found: list[Medium], out: Path) -> None:
    if failures:
        raise LilaError(f"{len(found) - len(failures)} of {len(found)} files done, in {out}; " + "; ".join(failures))
    console.out.print(f"{len(found)} file{'s' * (len(found) > 1)} done, in {out}")
