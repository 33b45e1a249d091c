"""`lila-train track`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lila_train.commands.options import Device, EncoderWeights, Weights
from stores import console


def track(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video, or a folder of its frames.")],
    mask: Annotated[Path, typer.Option(help="The first frame's objects: an indexed PNG, or one colour per object.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Where the masks and the film go.")],
    size: Annotated[
        int | None, typer.Option(min=16, help="Short side that the network sees, in pixels; 34 patches.")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="Frames that vote: the first and the latest ones.")] = 8,
    window: Annotated[
        int, typer.Option(min=1, help="How far an object may move, in cells of a 60-cell side; odd.")
    ] = 25,
    max_frames: Annotated[int | None, typer.Option(min=1, help="At most so many frames.")] = None,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Follow objects through a video from a mask of its first frame.

    Writes OUT/00000.png, … (indexed, as DAVIS keeps its annotations) and OUT/overlay.mp4. Labels are carried by their
    nearest neighbours in feature space, as the protocol davis-knn@lila does; memory does not grow with the length.
    """
    from lila_train.devices import choose
    from lila_train.inference.loading import load
    from lila_train.inference.tracking import TrackingSettings, open_film, read_mask
    from lila_train.inference.tracking import track as run

    film, marked, tracking = open_film(video), read_mask(mask), TrackingSettings(size, context, window)
    model = load(weights, device=choose(device), encoder_weights=encoder_weights)
    total = min(film.count, max_frames) if film.count and max_frames else film.count or max_frames
    with console.progress("frames") as bar:
        task = bar.add_task(video.name, total=total)
        count = run(model, film, marked, out, tracking, lambda: bar.advance(task), max_frames)
    objects = len(marked.values) - 1
    console.out.print(f"{count} frames, {objects} object{'s' * (objects > 1)}: {out / 'overlay.mp4'}")
