"""The protocols by id: how each opens a data folder as work for the harness."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lila_train.evaluation.davis import knn, linear_probe
from lila_train.evaluation.davis.data import open_davis
from lila_train.evaluation.davis.knn import DavisTask, KnnProtocol, Video
from lila_train.evaluation.davis.linear_probe import LpSettings
from lila_train.evaluation.dense import normals, segmentation
from lila_train.evaluation.dense.data import DenseData
from lila_train.evaluation.dense.normals import NYU_PROBE3D
from lila_train.evaluation.dense.task import DenseProtocol, DenseTask
from lila_train.evaluation.harness import Task
from lila_train.evaluation.models import ENCODER, GridModel, feature_map
from lila_train.evaluation.text import proxyclip, zero_shot
from lila_train.evaluation.text.proxyclip import OpenVocabulary, ProxySettings
from lila_train.model.propagation import Budget
from lila_train.model.resize import Image, Labels, Size, as_input
from stores.errors import LilaError

OpenDense = Callable[[Path, int | None], DenseData]


@dataclass(frozen=True)
class Options:
    """What the command line can change of a protocol; `memory` (bytes, of temporaries) changes no figure."""

    limit: int | None = None
    seed: int = 0
    short_side_px: int | None = None
    memory: int | None = None
    texts: Path | None = None  # embeddings of the classes, instead of CLIP's of their names
    clip: str | None = None  # a hub's name or a folder, instead of the protocol's


@dataclass(frozen=True)
class Entry:
    """A protocol on offer: where its data are looked for, and how they are opened."""

    dataset: str
    open: Callable[[Path, Options], Task]


def open_task(protocol: str, data: Path | None, options: Options) -> Task:
    """The work that a protocol is on a data folder; unknown ids and missing folders are refused."""
    if protocol not in PROTOCOLS:
        raise LilaError(f"expected a protocol, one of {', '.join(PROTOCOLS)}, found {protocol}")
    if options.limit is not None and options.limit < 1:
        raise LilaError(f"expected --limit of at least 1, found {options.limit}")
    entry = PROTOCOLS[protocol]
    return entry.open(_found(entry.dataset, data), options)


def _found(dataset: str, data: Path | None) -> Path:
    places = [data] if data else [Path(os.environ.get("LILA_DATA", "data")) / dataset]
    if not places[0].is_dir():
        raise LilaError(f"expected the {dataset} data in {places[0]}, found no such folder; pass its place with --data")
    return places[0]


def knn_task(protocol: KnnProtocol, data: Path, options: Options) -> Task:
    """A k-NN protocol on a DAVIS folder."""
    chosen = protocol.with_short_side(options.short_side_px) if options.short_side_px else protocol

    def segment(model: GridModel, head: str, video: Video) -> Iterator[Labels]:
        budget = Budget.for_device(model.device, options.memory)
        size = (video.reference.shape[0], video.reference.shape[1])
        sizes = knn.sizes_of(size, model.patch_size, chosen.settings)
        cells_of = partial(knn.unit_cells, features=feature_map(model, head), sizes=sizes, device=model.device)
        return knn.follow(video.frames, video.reference, cells_of, chosen, sizes, budget)

    return DavisTask(
        chosen.name,
        asdict(chosen.settings),
        open_davis(data, limit=options.limit),
        segment,
        partial(_knn_sizes, chosen),
    )


def _knn_sizes(protocol: KnnProtocol, model: GridModel, native: Size) -> dict[str, Any]:
    """Sizes of the first sequence, and how far a window reaches."""
    sizes = knn.sizes_of(native, model.patch_size, protocol.settings)
    return {
        "native_px": list(sizes.native),
        "frame_px": list(sizes.frame),
        "grid_cells": list(sizes.grid),
        "radius_cells": protocol.settings.window // 2,
        "radius_native_px": round(sizes.radius_px(protocol.settings.window), 1),
    }


def lp_task(data: Path, options: Options) -> Task:
    """The linear probe on a DAVIS folder: the encoder's grid, and for a model with a pixel map that one too."""
    settings = LpSettings(seed=options.seed, short_side_px=options.short_side_px)

    def segment(model: GridModel, head: str, video: Video) -> Iterator[Labels]:
        native = (video.reference.shape[0], video.reference.shape[1])
        size = linear_probe.size_of(native, model.patch_size, settings)
        functions = [feature_map(model, name) for name in dict.fromkeys((ENCODER, head))]

        @torch.no_grad()
        def maps_of(frame: Image) -> list[Tensor]:
            image = as_input(frame, size, model.device)
            return [function(image)[0] for function in functions]

        return linear_probe.segment(video, maps_of, settings)

    def describe(model: GridModel, native: Size) -> dict[str, Any]:
        frame = linear_probe.size_of(native, model.patch_size, settings)
        return {"native_px": list(native), "frame_px": list(frame)}

    return DavisTask(linear_probe.NAME, asdict(settings), open_davis(data, limit=options.limit), segment, describe)


def dense_task(protocol: DenseProtocol, read: OpenDense, data: Path, options: Options) -> Task:
    """A probe over a data set of images."""
    if options.short_side_px is not None:
        raise LilaError(f"--short-side is for the DAVIS protocols; the sizes of {protocol.name} are fixed")
    return DenseTask(protocol, read(data, options.limit), options.seed)


def zero_shot_task(data: Path, options: Options) -> Task:
    """A probe to CLIP's space of texts on COCO-Stuff, with classes that are not named in training."""
    _check_texts(options)
    texts = zero_shot.texts_of(data, options.texts, options.clip)
    return dense_task(zero_shot.protocol(texts), partial(zero_shot.open_zero_shot, texts), data, options)


def open_vocabulary_task(data: Path, options: Options) -> Task:
    """CLIP with the features under test as its attention, on ADE20K's validation set."""
    _check_texts(options)
    texts = proxyclip.texts_of(data, options.texts, options.clip)
    images = segmentation.open_ade_val(segmentation.ADE_150_LABELS, 150, data, options.limit)
    return OpenVocabulary(images, texts, options.clip or proxyclip.CLIP, ProxySettings())


def _check_texts(options: Options) -> None:
    if options.texts is not None and not options.texts.is_file():
        raise LilaError(f"expected embeddings of the classes at {options.texts}, found none; pass a .npy with --texts")


def _ade(labels: segmentation.LabelRule, classes: int) -> OpenDense:
    return partial(segmentation.open_ade, labels, classes)


PROTOCOLS = {
    "davis-lp@lila": Entry("davis", lp_task),
    "davis-knn@lila": Entry("davis", partial(knn_task, knn.LILA)),
    "davis-knn@dino": Entry("davis", partial(knn_task, knn.DINO)),
    "nyuv2-normals@lila": Entry("nyuv2", partial(dense_task, normals.NYU_LILA, normals.open_nyu)),
    "nyuv2-normals@probe3d": Entry("nyuv2", partial(dense_task, NYU_PROBE3D, normals.open_nyu)),
    "cocostuff27@lila": Entry("cocostuff", partial(dense_task, segmentation.COCO_LILA, segmentation.open_coco)),
    "cocostuff27@featup": Entry("cocostuff", partial(dense_task, segmentation.COCO_FEATUP, segmentation.open_coco)),
    "cocostuff27@jafar": Entry("cocostuff", partial(dense_task, segmentation.COCO_JAFAR, segmentation.open_coco)),
    "ade20k150": Entry("ade20k", partial(dense_task, segmentation.ADE_150, _ade(segmentation.ADE_150_LABELS, 150))),
    "ade20k151": Entry("ade20k", partial(dense_task, segmentation.ADE_151, _ade(segmentation.ADE_151_LABELS, 151))),
    "cocostuff-zs@lila": Entry("cocostuff", zero_shot_task),
    "openvocab@proxyclip": Entry("ade20k", open_vocabulary_task),
}
