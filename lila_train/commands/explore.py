"""`lila-train explore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lila_train.commands.options import Device, EncoderWeights, Weights
from lila_train.whole_files import written_whole
from stores import console
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_train.inference.model import Lila

_LARGE_MB = 40


def explore(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Images, folders or globs of them.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="The page, one HTML file.")] = Path("explore.html"),
    size: Annotated[int, typer.Option(min=32, help="Short side of the feature maps, in pixels.")] = 240,
    channels: Annotated[int, typer.Option(min=3, help="Directions of feature space that are kept.")] = 24,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Make a page to click in: what is similar to a pixel, here and in other images; what a few labels segment.

    The page is one file with everything in it. Clicking shows cosine similarity; clicks with labels fit a ridge
    regression in the page and segment the rest; LILA, the encoder alone and PCA are a key apart.
    """
    from lila_train.devices import choose
    from lila_train.explore import build_page, explored, short_names
    from lila_train.inference.loading import load
    from lila_train.inference.media import named

    paths = [medium.path for medium in named(images) if not medium.is_video]
    names = short_names(paths)
    model = load(weights, device=choose(device), encoder_weights=encoder_weights)
    failures, found = [], []
    with console.progress("images") as bar:
        for path, name in bar.track(list(zip(paths, names, strict=True)), description="features"):
            try:
                found.append(explored(model, path, name, size))
            except LilaError as error:
                failures.append(str(error))
    if not found:
        raise LilaError("no image to explore; " + "; ".join(failures))
    text = build_page("LILA, pixel by pixel", _facts(model, size, len(found)), found, channels)
    with written_whole(out) as temporary:
        temporary.write_text(text, "utf-8")
    megabytes = len(text) / 1e6
    hint = "; a smaller --size or --channels makes it smaller" if megabytes > _LARGE_MB else ""
    console.out.print(f"{out}: {len(found)} images, {megabytes:.1f} MB{hint}")
    if failures:
        raise LilaError(f"{len(found)} of {len(paths)} images are in {out}; " + "; ".join(failures))


def _facts(model: Lila, size: int, count: int) -> str:
    encoder, patch = model.encoder, model.encoder.patch_size
    return (
        f"{count} image{'s' * (count > 1)}, short side {size} px. LILA: a vector of {model.decoder.widths.out} numbers "
        f"per pixel; the encoder, {encoder.name}: one of {encoder.width} per {patch}×{patch} px."
    )
