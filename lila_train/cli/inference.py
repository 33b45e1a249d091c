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
    from lila_train.inference.points import Points

Weights = Annotated[
    str,
    typer.Option(help="Folder of a run, its weights.safetensors, a published .pt file or name, or lila_vit_tiny."),
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
    size: Annotated[str | None, typer.Option(help=FeatureConfig.help("size"))] = None,
    stride: Annotated[int | None, typer.Option(help=FeatureConfig.help("stride"))] = None,
    every: Annotated[int | None, typer.Option(help=FeatureConfig.help("every"))] = None,
    max_frames: Annotated[int | None, typer.Option(help=FeatureConfig.help("max_frames"))] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="CSV or JSON file of points x, y (frame, file): features at these alone, and no pictures."),
    ] = None,
    tile: Annotated[int | None, typer.Option(help=FeatureConfig.help("tile"))] = None,
    overlap: Annotated[int | None, typer.Option(help=FeatureConfig.help("overlap"))] = None,
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

    By default a file gives NAME.zarr, which xarray.open_zarr reads (features by time, channel, y, x), and NAME_pca.png
    or NAME_pca.mp4; npz and safetensors are one file per image, or NAME/00000.npz, … by the frames of a video. The
    bytes are estimated first, and refused where the disk is short. Memory does not grow with the length of a video. Run
    the same command again to resume; a folder with features of other settings is refused. A file that cannot be read is
    reported at the end, after all others are done.
    """
    arguments = locals() | {"format": tuple(dict.fromkeys(",".join(format_).split(","))) if format_ else None}
    from lila_cues import devices
    from lila_cues.inputs import list_inputs
    from lila_cues.networks.weights import file_sha256
    from lila_train.inference.compute import FeatureComputer
    from lila_train.inference.feature_cache import FeatureCache
    from lila_train.inference.features import Extractor, shared_basis
    from lila_train.inference.points import read_points
    from lila_train.model import released
    from lila_train.model.lila import load
    from lila_train.outputs import files_state

    config = FeatureConfig(**FeatureConfig.given(arguments))
    if points and config.format == ("pca",):
        raise LilaError("expected a format of arrays with --points, found --format pca; pass zarr, npz or safetensors")
    chosen = read_points(points) if points else None
    files = list_inputs(sources, out=out)
    if chosen:
        chosen.require_known(files)
    basis_files = list_inputs(pca_from, unique_names=False, out=out) if pca_from else []
    pca_files = files_state(file.path for file in basis_files) if pca_from else None
    target = devices.choose(device, mps=True)
    identity = released.identity(weights, encoder_weights, encoder)
    cache = FeatureCache(out, config, identity, pca_files, overwrite, file_sha256(points) if points else None)
    model = load(weights, device=target, encoder=encoder, encoder_weights=encoder_weights)
    compute = FeatureComputer(model, config, batch, out)
    basis = shared_basis(compute, basis_files) if pca_from else None
    failures = _extract(Extractor(compute, cache, basis), files, chosen)
    if failures:
        raise LilaError(f"{len(files) - len(failures)} of {len(files)} files done, in {out}; " + "; ".join(failures))
    console.out.print(f"{console.counted({'files': len(files)})} done, in {out}")


def _extract(extractor: Extractor, files: list[InputFile], points: Points | None) -> list[str]:
    """Extract the files that are not done, under one progress bar; return why some could not be."""
    from lila_train.inference.features import estimate, require_room

    pending = [file for file in files if extractor.cache.state(file) != "done"]
    wanted = estimate(extractor.compute, extractor.cache, pending)
    if not pending:
        return []
    if not points:
        console.out.print(require_room(wanted, extractor.cache, extractor.compute.model.out_channels))
    failures: list[str] = []
    with console.progress("frames") as bar:
        task = bar.add_task("features", total=None if points else wanted.total_frames)

        def advance() -> None:
            bar.advance(task)

        def restart() -> None:
            if not bar.tasks[0].completed:  # so that the rate is that of the frames
                bar.reset(task)

        if not points:
            failures += extractor.images([file for file in pending if not file.is_video], advance)
        for file in pending if points else [file for file in pending if file.is_video]:
            bar.update(task, description=file.path.name)
            try:
                if points:
                    extractor.points(file, points, advance)
                    continue
                found = extractor.video(file, advance, restart)
                if bar.tasks[0].total is not None:  # what a video announces is no more than a hint
                    bar.update(task, total=bar.tasks[0].total + found - (wanted.frames.get(file) or 0))
            except LilaError as error:
                failures.append(str(error))
        bar.update(task, description="features", total=bar.tasks[0].completed)
    return failures


def track(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video, or a folder of its frames.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Folder for masks or tracks, and the overlay video.")],
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FRAME:]FILE",
            help="Mask of a frame, by default of frame 0: an indexed PNG, or one color per object; repeatable.",
        ),
    ] = None,
    points: Annotated[
        Path | None, typer.Option(help="CSV or JSON file of points x, y and frame (from 0; default 0) to track.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, help="Short side of the network's input in pixels. Default: 34 patches.")
    ] = None,
    context: Annotated[int, typer.Option(min=2, help="Context frames of masks: marked and latest ones.")] = 8,
    window: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the search window in cells, of 60 on the short side; odd. Default: 25, of points 13."
        ),
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Most frames to track.")] = None,
    overwrite: Overwrite = False,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Track objects through a video from masks, or points from a list, forward and backward.

    With --mask: OUT/00000.png, … (indexed, like the annotations of DAVIS) and OUT/overlay.mp4; labels are propagated by
    nearest neighbors in feature space, as in the protocol davis-knn@lila. The index in indexed PNGs is the object, in
    every mask; objects of other masks are numbered on. With --points: OUT/tracks.csv (point, frame, x, y, similarity)
    and OUT/overlay.mp4. Memory does not grow with the length. The same command starts again; a folder with results of
    other settings is refused.
    """
    from lila_cues.video.reader import count_frames
    from lila_train.inference import tracking
    from lila_train.inference.masks import read_masks
    from lila_train.inference.points import read_points
    from lila_train.model import released
    from lila_train.model.lila import load
    from lila_train.model.propagation import Propagation

    if bool(mask) == bool(points):
        raise LilaError(f"expected --mask or --points, found {'both' if mask else 'neither'}")
    stream = tracking.open_frames(video)
    chosen = read_points(points) if points else None
    masks = read_masks(mask, stream.size) if mask else None
    last = max(masks.first().values() if masks else chosen.starts.tolist() if chosen else ())
    count = stream.count or (count_frames(video) if last else 1)
    if last >= (limit := min(count, max_frames or count)):
        raise LilaError(f"expected marks on frames 0 to {limit - 1}, found one on frame {last}")
    window = window or (25 if masks else 13)
    propagation = Propagation(short_side_px=size, antialias=True, context_frames=context, window=window)
    settings = {
        "video": str(video.resolve()),
        "mask": mask,
        "points": points and str(points.resolve()),
        "size": size,
        "context": context,
        "window": window,
        "max_frames": max_frames,
    }
    tracking.open_output(
        out, {"settings": settings, "model": released.identity(weights, encoder_weights, encoder)}, overwrite
    )
    model = load(weights, device=device, encoder=encoder, encoder_weights=encoder_weights)
    total = min(stream.count, max_frames or stream.count) if stream.count else None
    with console.progress("frames") as bar:
        task = bar.add_task(video.name, total=total)
        common = (out, propagation, lambda: bar.advance(task), max_frames)
        if masks:
            count = tracking.track(model, stream, masks, *common)
            found, results = len(masks.values) - 1, out / "overlay.mp4"
        else:
            assert chosen is not None
            count = tracking.track_points(model, stream, chosen, *common)
            found, results = len(chosen.xy), out / "tracks.csv"
        bar.update(task, total=count)
    counts = {"frames": count, "objects" if masks else "points": found}
    console.out.print(f"{console.counted(counts)}: {results}")


def explore(
    images: Annotated[list[Path], typer.Argument(metavar="INPUT…", help="Images, videos, folders or globs of them.")],
    weights: Weights,
    out: Annotated[Path, typer.Option(help="The page, one HTML file.")] = Path("explore.html"),
    size: Annotated[int, typer.Option(min=32, help="Short side of the feature maps in pixels.")] = 240,
    frames: Annotated[int, typer.Option(min=1, help="Frames of each video, spread over it.")] = 4,
    error: Annotated[
        float, typer.Option(min=0.001, max=1, help="Largest error of a cosine in the page, for 99 of 100 pairs.")
    ] = 0.02,
    encoder: Encoder = None,
    encoder_weights: EncoderWeights = None,
    device: Device = "auto",
) -> None:
    """Write a page to explore features: pixels similar to a pixel, in all images, and segments from a few labels.

    The page is one file that needs no server. A click shows cosine similarity; clicks with labels fit a ridge
    regression in the page and segment the rest; labels are saved to a file and loaded again, segments saved as masks
    for lila-train track. Keys switch between LILA, the encoder alone and PCA.
    """
    from lila_cues.inputs import list_inputs
    from lila_cues.viz.html import require_own
    from lila_train.inference.explore import explore_image, short_names, write_page
    from lila_train.inference.features import pictures_of
    from lila_train.model.lila import load

    files = list_inputs(images, unique_names=False)
    require_writable(out, "pass another --out")
    require_own(out)
    model = load(weights, device=device, encoder=encoder, encoder_weights=encoder_weights)
    failures, explored = [], []
    named = list(zip(files, short_names([file.path for file in files]), strict=True))
    with console.progress("images") as bar:
        task = bar.add_task("features", total=sum(frames if file.is_video else 1 for file in files))
        for file, name in named:
            try:
                for frame, picture in pictures_of(file, frames):
                    title = f"{name} #{frame}" if file.is_video else name
                    explored.append(explore_image(model, picture, title, size, file.path.name, frame))
                    bar.advance(task)
            except LilaError as failure:
                failures.append(str(failure))
    if not explored:
        raise LilaError("no image to explore; " + "; ".join(failures))
    count, patch, width = len(explored), model.encoder.patch_size, model.encoder.width
    facts = (
        f"{console.counted({'images': count})}, short side {size} px. LILA: a vector of {model.decoder.widths.out} "
        f"numbers per pixel; the encoder, {model.encoder.name}: one of {width} per {patch}×{patch} px."
    )
    write_page(out, "LILA, pixel by pixel", facts, explored, error)
    megabytes = out.stat().st_size / 1e6
    hint = "; reduce --size or raise --error to make it smaller" if megabytes > 40 else ""
    console.out.print(f"{out}: {console.counted({'images': count})}, {megabytes:.1f} MB{hint}")
    if failures:
        raise LilaError(f"{len(files) - len(failures)} of {len(files)} files are in {out}; " + "; ".join(failures))


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
    if out.exists() and out.samefile(released.find(weights)[0]):
        raise LilaError(f"expected another file than --weights for the export, found {out}; pass another --out")
    model.features(np.zeros((*[2 * model.encoder.patch_size] * 2, 3), np.uint8))  # which have to be finite
    if out.suffix == ".pt":
        released.write(out, model.decoder)
        console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, the decoder of {model.encoder.name}")
        return
    difference = exporting.export(model, out)
    console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, differs from the model by at most {difference:.1g}")
