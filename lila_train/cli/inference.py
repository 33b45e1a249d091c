"""`lila-train features`, `track`, `explore` and `export`: a trained model at work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from lila_cues import console
from lila_train.inference.config import FeatureConfig
from stores.atomic import require_writable
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.inputs import InputFile
    from lila_train.inference.features import Extractor

Weights = Annotated[
    str, typer.Option(help="Folder of a run, its weights.safetensors, a published .pt file or a published name.")
]
Encoder = Annotated[
    str | None, typer.Option(help="Name of the encoder, for a .pt file of a decoder alone: dinov2_vits14 for example.")
]
EncoderWeights = Annotated[Path | None, typer.Option(help="Weight file of the encoder, if it has moved.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete the results of this command in --out and start again.")
]
BATCH = "Frames, or images of one size, computed at once. Default: on a GPU about a million pixels, else one."
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …, or mps (Apple).")]


def features(
    sources: Annotated[list[Path], typer.Argument(metavar="INPUT…", help="Images, videos, folders or globs of them.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Folder for arrays and pictures.")],
    format_: Annotated[list[str] | None, typer.Option("--format", help=FeatureConfig.help("format"))] = None,
    size: Annotated[int | None, typer.Option(help=FeatureConfig.help("size"))] = None,
    tile: Annotated[int | None, typer.Option(help=FeatureConfig.help("tile"))] = None,
    overlap: Annotated[int | None, typer.Option(help=FeatureConfig.help("overlap"))] = None,
    max_frames: Annotated[int | None, typer.Option(help=FeatureConfig.help("max_frames"))] = None,
    precision: Annotated[str | None, typer.Option(help=FeatureConfig.help("precision"))] = None,
    dtype: Annotated[str | None, typer.Option(help=FeatureConfig.help("dtype"))] = None,
    batch: Annotated[int | None, typer.Option(min=1, help=BATCH)] = None,
    pca_from: Annotated[
        list[Path] | None, typer.Option(help="Images or videos to compute one PCA basis for all files from.")
    ] = None,
    overwrite: Overwrite = False,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Compute pixel features of images and videos, with a picture of their three principal components.

    An image gives NAME.npz (`features`, d×H×W) and NAME_pca.png; a video gives NAME/00000.npz, … and NAME_pca.mp4, or
    one array NAME.zarr. Memory does not grow with the length of a video. Run the same command again to resume; a folder
    with features of other settings is refused. A file that cannot be read is reported at the end, after all others are
    done.
    """
    from lila_cues import devices
    from lila_cues.inputs import list_inputs
    from lila_train.inference.compute import FeatureComputer
    from lila_train.inference.feature_cache import FeatureCache
    from lila_train.inference.features import Extractor, shared_basis
    from lila_train.model import released
    from lila_train.model.lila import load
    from lila_train.outputs import files_state

    config = FeatureConfig.from_options(
        format=tuple(dict.fromkeys(",".join(format_).split(","))) if format_ else None,
        size=size,
        tile=tile,
        overlap=overlap,
        max_frames=max_frames,
        precision=precision,
        dtype=dtype,
    )
    files = list_inputs(sources, out=out)
    basis_files = list_inputs(pca_from, unique_names=False, out=out) if pca_from else []
    pca_files = files_state(file.path for file in basis_files) if pca_from else None
    target = devices.choose(device, mps=True)
    cache = FeatureCache(out, config, released.identity(weights, encoder_weights, encoder), pca_files, overwrite)
    model = load(weights, device=target, encoder=encoder, encoder_weights=encoder_weights)
    compute = FeatureComputer(model, config, batch, out)
    basis = shared_basis(compute, basis_files) if pca_from else None
    failures = _extract(Extractor(compute, cache, basis), files)
    if failures:
        raise LilaError(f"{len(files) - len(failures)} of {len(files)} files done, in {out}; " + "; ".join(failures))
    console.out.print(f"{len(files)} file{'s' * (len(files) > 1)} done, in {out}")


def _extract(extractor: Extractor, files: list[InputFile]) -> list[str]:
    """Extract the files that are not done, under one progress bar; return why some could not be.

    The bar's total is unknown where there are videos, since what they announce is no more than a hint.
    """
    pending = [file for file in files if extractor.cache.state(file) != "done"]
    videos = [file for file in pending if file.is_video]
    images = [file for file in pending if not file.is_video]
    with console.progress("frames") as bar:
        task = bar.add_task("features", total=None if videos else len(images))
        failures = list(extractor.images(images, lambda: bar.advance(task)))
        for video in videos:
            try:
                bar.update(task, description=video.path.name)
                extractor.video(video, lambda: bar.advance(task))
            except LilaError as error:
                failures.append(str(error))
        bar.update(task, description="features", total=bar.tasks[0].completed)
    return failures


def track(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video, or a folder of its frames.")],
    mask: Annotated[Path, typer.Option(help="Mask of the first frame: an indexed PNG, or one color per object.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Folder for the masks and the overlay video.")],
    size: Annotated[
        int | None, typer.Option(min=16, help="Short side of the network's input in pixels. Default: 34 patches.")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="Context frames: the first and the latest ones.")] = 8,
    window: Annotated[
        int, typer.Option(min=1, help="Side of the search window in cells, of 60 on the short side; odd.")
    ] = 25,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Most frames to track.")] = None,
    overwrite: Overwrite = False,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Track objects through a video from a mask of its first frame.

    Writes OUT/00000.png, … (indexed, like the annotations of DAVIS) and OUT/overlay.mp4. Labels are propagated by
    nearest neighbors in feature space, as in the protocol davis-knn@lila; memory does not grow with the length. The
    same command starts again; a folder with masks of other settings is refused.
    """
    from lila_cues import devices
    from lila_train.inference import tracking
    from lila_train.model import released
    from lila_train.model.lila import load
    from lila_train.model.propagation import Propagation

    stream, marked = tracking.open_frames(video), tracking.read_mask(mask)
    tracking.require_size(marked, stream.size)
    propagation = Propagation(short_side_px=size, antialias=True, context_frames=context, window=window)
    settings = {
        "video": str(video.resolve()),
        "mask": str(mask.resolve()),
        "size": size,
        "context": context,
        "window": window,
        "max_frames": max_frames,
    }
    tracking.open_output(
        out, {"settings": settings, "model": released.identity(weights, encoder_weights, encoder)}, overwrite
    )
    model = load(weights, device=devices.choose(device, mps=True), encoder=encoder, encoder_weights=encoder_weights)
    total = min(stream.count, max_frames or stream.count) if stream.count else None
    with console.progress("frames") as bar:
        task = bar.add_task(video.name, total=total)
        count = tracking.track(model, stream, marked, out, propagation, lambda: bar.advance(task), max_frames)
        bar.update(task, total=count)
    objects = len(marked.values) - 1
    console.out.print(f"{count} frames, {objects} object{'s' * (objects > 1)}: {out / 'overlay.mp4'}")


def explore(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Images, folders or globs of them.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="The page, one HTML file.")] = Path("explore.html"),
    size: Annotated[int, typer.Option(min=32, help="Short side of the feature maps in pixels.")] = 240,
    channels: Annotated[int, typer.Option(min=3, help="Principal directions of the features to keep.")] = 24,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Write a page to explore features: pixels similar to a pixel, in all images, and segments from a few labels.

    The page is one file that needs no server. A click shows cosine similarity; clicks with labels fit a ridge
    regression in the page and segment the rest. Keys switch between LILA, the encoder alone and PCA.
    """
    from lila_cues import devices
    from lila_cues.inputs import list_inputs
    from lila_train.inference.explore import explore_image, short_names, write_page
    from lila_train.model.lila import load

    paths = [file.path for file in list_inputs(images, unique_names=False) if not file.is_video]
    if not paths:
        raise LilaError("expected images to explore, found videos only; save some of their frames as images first")
    require_writable(out, "pass another --out")
    model = load(weights, device=devices.choose(device, mps=True), encoder=encoder, encoder_weights=encoder_weights)
    failures, explored = [], []
    with console.progress("images") as bar:
        for path, name in bar.track(list(zip(paths, short_names(paths), strict=True)), description="features"):
            try:
                explored.append(explore_image(model, path, name, size))
            except LilaError as error:
                failures.append(str(error))
    if not explored:
        raise LilaError("no image to explore; " + "; ".join(failures))
    count, patch, width = len(explored), model.encoder.patch_size, model.encoder.width
    facts = (
        f"{count} image{'s' * (count > 1)}, short side {size} px. LILA: a vector of {model.decoder.widths.out} numbers "
        f"per pixel; the encoder, {model.encoder.name}: one of {width} per {patch}×{patch} px."
    )
    write_page(out, "LILA, pixel by pixel", facts, explored, channels)
    megabytes = out.stat().st_size / 1e6
    hint = "; reduce --size or --channels to make it smaller" if megabytes > 40 else ""
    console.out.print(f"{out}: {count} images, {megabytes:.1f} MB{hint}")
    if failures:
        raise LilaError(f"{count} of {len(paths)} images are in {out}; " + "; ".join(failures))


def export(
    weights: Weights,
    out: Annotated[Path, typer.Option(help="model.onnx, model.pt2 for torch.export, or decoder.pt.")],
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
) -> None:
    """Export the model as one file that runs without this project, for any batch and image size.

    Input: `images`, b×3×H×W floats in [0, 1]; output: `features`, b×d×H×W. The file is run on images of several sizes
    and compared with the model before the command ends. A .pt2 needs sides of more than two patches. A .pt holds the
    decoder alone, with the tensor names of the paper's authors, for their code.
    """
    from lila_train.model import export as exporting
    from lila_train.model import released
    from lila_train.model.lila import load

    require_writable(out, "pass another --out")
    model = load(weights, encoder=encoder, encoder_weights=encoder_weights)
    model.features(np.zeros((*[2 * model.encoder.patch_size] * 2, 3), np.uint8))  # which have to be finite
    if out.suffix == ".pt":
        released.write(out, model.decoder)
        console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, the decoder of {model.encoder.name}")
        return
    difference = exporting.export(model, out)
    console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, differs from the model by at most {difference:.1g}")
