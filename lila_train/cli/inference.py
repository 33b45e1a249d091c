"""`lila-train explore`.

`lila-train export`.

`lila-train features`.

Options that several commands have, said once.

`lila-train track`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lila_cues import console
from stores.atomic import atomic_path
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.inputs import InputFile
    from lila_train.inference.features import Extractor
    from lila_train.model.lila import Lila


Weights = Annotated[str, typer.Option(help="weights.safetensors of a run.")]
EncoderWeights = Annotated[Path | None, typer.Option(help="Where the encoder's weight file is now.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]


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
    from lila_cues.devices import choose
    from lila_cues.inputs import named
    from lila_train.inference.explore import build_page, explored, short_names
    from lila_train.model.lila import load

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
    with atomic_path(out) as temporary:
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


def export(
    weights: Weights,
    out: Annotated[Path, typer.Option(help="model.onnx, model.pt2 for torch.export, or decoder.pt.")],
    encoder_weights: EncoderWeights = None,
) -> None:
    """Write the model as one file that runs without this project, for any batch and size.

    Input: `images`, b×3×H×W floats in [0, 1]; output: `features`, b×d×H×W. The file is run on images of several sizes
    and compared with the model before the command ends. A .pt2 asks for sides of more than two patches. A .pt holds the
    decoder alone, named as the paper's authors name theirs, for their code.
    """
    from lila_train.model import released
    from lila_train.model.export import export as write
    from lila_train.model.lila import load

    model = load(weights, encoder_weights=encoder_weights)
    if out.suffix == ".pt":
        released.write(out, model.decoder)
        console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, the decoder of {model.encoder.name}")
        return
    difference = write(model, out)
    console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, differs from the model by at most {difference:.1g}")


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
    from lila_cues.devices import choose
    from lila_cues.inputs import media
    from lila_train.inference.feature_cache import Cache, Settings
    from lila_train.inference.features import Extractor, Network, basis_fingerprint, shared_basis
    from lila_train.model.lila import load

    found = media(sources)
    model = load(weights, device=choose(device), encoder_weights=encoder_weights)
    chosen = tuple(dict.fromkeys(formats)) if formats else ("npz", "pca")
    network = Network(model, Settings(model.identity, chosen, size, tile, overlap, max_frames, precision, dtype))
    basis = shared_basis(network, media(pca_from)) if pca_from else None
    settings = replace(network.settings, pca_from=basis_fingerprint(basis) if basis else None)
    extractor = Extractor(Network(model, settings), Cache(out, settings), batch, basis)
    _report(_extract(extractor, found), found, out)


def _extract(extractor: Extractor, found: list[InputFile]) -> list[str]:
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


def _counts(videos: list[InputFile], limit: int | None) -> tuple[dict[InputFile, int], dict[InputFile, str]]:
    """How many frames the videos say they have, and why some cannot be opened."""
    from lila_cues.video.reader import VideoFrames

    counts, unreadable = {}, {}
    for medium in videos:
        try:
            count = VideoFrames(medium.path).count or 0
            counts[medium] = min(count, limit) if limit else count
        except LilaError as error:
            unreadable[medium] = str(error)
    return counts, unreadable


def _report(failures: list[str], found: list[InputFile], out: Path) -> None:
    if failures:
        raise LilaError(f"{len(found) - len(failures)} of {len(found)} files done, in {out}; " + "; ".join(failures))
    console.out.print(f"{len(found)} file{'s' * (len(found) > 1)} done, in {out}")


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
    from lila_cues.devices import choose
    from lila_train.inference.tracking import TrackingSettings, open_film, read_mask
    from lila_train.inference.tracking import track as run
    from lila_train.model.lila import load

    stream, marked, tracking = open_film(video), read_mask(mask), TrackingSettings(size, context, window)
    model = load(weights, device=choose(device), encoder_weights=encoder_weights)
    total = min(stream.count, max_frames) if stream.count and max_frames else stream.count or max_frames
    with console.progress("frames") as bar:
        task = bar.add_task(video.name, total=total)
        count = run(model, stream, marked, out, tracking, lambda: bar.advance(task), max_frames)
    objects = len(marked.values) - 1
    console.out.print(f"{count} frames, {objects} object{'s' * (objects > 1)}: {out / 'overlay.mp4'}")
