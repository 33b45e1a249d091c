"""`lila-train features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stores import console
from stores.errors import LilaError


def features(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a video, or a folder of them.")],
    weights: Annotated[Path, typer.Option(help="weights.safetensors of a run.")],
    out: Annotated[Path, typer.Option(help="Where the arrays and pictures go.")],
    size: Annotated[int | None, typer.Option(min=16, help="Short side in pixels; as it is if not given.")] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="At most so many frames of a video.")] = None,
    arrays: Annotated[bool, typer.Option(help="Also write the features themselves (.npz, half precision).")] = True,
    encoder_weights: Annotated[Path | None, typer.Option(help="Where the encoder's weight file is now.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
) -> None:
    """Pixel features of images and videos, with a picture of their three principal components.

    An image gives NAME.npz (`features`, d×H×W) and NAME_pca.png; a video gives NAME/00000.npz, … and NAME_pca.mp4. Both
    have the size of the input, or --size. A file that cannot be read is reported at the end, and the rest is done.
    """
    from lila_train.devices import choose
    from lila_train.features import Extraction, extract, frame_count, names_of
    from lila_train.loading import load
    from lila_train.media import media_under

    files = media_under(source)
    names = names_of(files, source)
    model = load(weights, device=choose(device), encoder_weights=encoder_weights)
    plan = Extraction(out, size, max_frames, arrays)
    failures: list[str] = []
    with console.progress("frames") as bar:
        for path, name in zip(files, names, strict=True):
            try:
                task = bar.add_task(path.name, total=frame_count(path, plan) or None)
                extract(model, path, name, plan, lambda task=task: bar.advance(task))  # type: ignore[misc]
            except LilaError as error:
                failures.append(str(error))
    if failures:
        done = len(files) - len(failures)
        raise LilaError(f"{done} of {len(files)} files done; " + "; ".join(failures))
    console.out.print(f"{len(files)} file{'s' * (len(files) > 1)} done, in {out}")
