"""The protocols by id, and how each opens a data folder as a task of the harness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lila_cues.inputs import find_dataset
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.knn import KNN_SETTINGS, DinoPropagation, KnnTask, knn_task
from lila_train.evaluation.davis.linear_probe import LpSettings, linear_probe_task
from lila_train.evaluation.davis.stability import METRICS, StabilitySettings, stability_task
from lila_train.evaluation.dense import depth, normals, segmentation
from lila_train.evaluation.dense.data import DenseData
from lila_train.evaluation.dense.task import dense_task
from lila_train.evaluation.dense.training import DenseProtocol
from lila_train.evaluation.harness import Task
from lila_train.evaluation.points import SpairSettings, TapvidSettings, spair_task, tapvid_task
from lila_train.evaluation.text import proxyclip, zero_shot
from lila_train.model.propagation import Propagation
from stores.errors import LilaError, did_you_mean


def open_task(protocol: str, data: Path | None, config: EvalConfig, memory: int | None = None) -> Task:
    """Open a protocol on a data folder (default: as `find_dataset`).

    `memory` bounds temporary tensors of k-NN (bytes) and changes no score.

    Raises:
        LilaError: an unknown id, a missing folder, or an option that the protocol does not have.
    """
    if protocol not in PROTOCOLS:
        raise LilaError(
            f"expected a protocol, one of {', '.join(PROTOCOLS)}, found {protocol}{did_you_mean(protocol, PROTOCOLS)}"
        )
    entry = PROTOCOLS[protocol]
    if "seed" not in entry.options:  # nothing is drawn
        config = config.replace(seed=0)
    if others := [config.option(name) for name in config.changes() if name not in entry.options]:
        own = ", ".join(map(config.option, entry.options))
        raise LilaError(f"{', '.join(others)} does not apply to {protocol}, which takes {own}; leave it out")
    task = entry.open(find_dataset(entry.dataset, data, "--data"), config)
    return replace(task, memory=memory) if isinstance(task, KnnTask) else task


class ProtocolEntry(NamedTuple):
    """What is known of a protocol without its data.

    Attributes:
        dataset: name of the data folder.
        open: returns the task on a folder.
        options: fields of EvalConfig that may be changed.
        metrics: names in the result, by `lila_train.report.tables.METRICS` or new ones.
        settings: its own settings, as a result records them.
    """

    dataset: str
    open: Callable[[Path, EvalConfig], Task]
    options: tuple[str, ...]
    metrics: tuple[str, ...]
    settings: Mapping[str, Any]


J_AND_F = ("JF", "J", "J_recall", "J_decay", "F", "F_recall", "F_decay")
ANGLES = ("rmse_deg", "under_11.25", "under_22.5", "under_30")
DEPTHS = ("rmse_m", "abs_rel", "delta1")
CLASSES = ("miou", "pixel_accuracy", "absent_classes")
TRACKED = ("delta_avg", "occlusion_accuracy", "average_jaccard")
SEEN_AND_UNSEEN = ("miou_seen", "miou_unseen", "miou_harmonic", "absent_classes")


def dense_entry(
    dataset: str, rule: DenseProtocol, open_data: Callable[[Path, int | None], DenseData], metrics: tuple[str, ...]
) -> ProtocolEntry:
    """Return the entry of a protocol that trains a probe."""
    return ProtocolEntry(dataset, partial(dense_task, rule, open_data), ("limit", "seed"), metrics, rule.settings())


def _knn_entry(name: str, propagation: Propagation) -> ProtocolEntry:
    options = ("limit", *KNN_SETTINGS, "year")
    return ProtocolEntry("davis", partial(knn_task, name, propagation), options, J_AND_F, asdict(propagation))


_open_ade_150 = partial(segmentation.open_ade, segmentation.ADE_150_LABELS, 150)
_open_ade_151 = partial(segmentation.open_ade, segmentation.ADE_151_LABELS, 151)
_LP_OPTIONS = ("limit", "seed", "short_side", "fast_probe", "year")

PROTOCOLS = {
    "davis-lp@lila": ProtocolEntry("davis", linear_probe_task, _LP_OPTIONS, J_AND_F, asdict(LpSettings())),
    "davis-knn@lila": _knn_entry("davis-knn@lila", Propagation()),
    "davis-knn@dino": _knn_entry("davis-knn@dino", DinoPropagation()),
    "davis-knn@dino960": _knn_entry("davis-knn@dino960", DinoPropagation(short_side_px=960)),
    "davis-stability": ProtocolEntry(
        "davis",
        stability_task,
        ("limit", "year", "seed", "short_side", "flow", "flow_weights"),
        METRICS,
        asdict(StabilitySettings()),
    ),
    "spair71k-knn": ProtocolEntry(
        "SPair-71k", spair_task, ("limit",), ("pck_image", "pck_point"), asdict(SpairSettings())
    ),
    "tapvid-davis@first": ProtocolEntry(
        "tapvid-davis", tapvid_task, ("limit", "visible_cosine"), TRACKED, asdict(TapvidSettings())
    ),
    "nyuv2-normals@lila": dense_entry("nyuv2", normals.NYU_LILA, normals.open_nyu, ANGLES),
    "nyuv2-normals@probe3d": dense_entry("nyuv2", normals.NYU_PROBE3D, normals.open_nyu, ANGLES),
    "nyuv2-depth@linear": dense_entry("nyuv2", depth.NYU_DEPTH, depth.open_nyu_depth, DEPTHS),
    "cocostuff27@lila": dense_entry("cocostuff", segmentation.COCO_LILA, segmentation.open_coco, CLASSES),
    "cocostuff27@featup": dense_entry("cocostuff", segmentation.COCO_FEATUP, segmentation.open_coco, CLASSES),
    "cocostuff27@jafar": dense_entry("cocostuff", segmentation.COCO_JAFAR, segmentation.open_coco, CLASSES),
    "ade20k150": dense_entry("ade20k", segmentation.ADE_150, _open_ade_150, CLASSES),
    "ade20k151": dense_entry("ade20k", segmentation.ADE_151, _open_ade_151, CLASSES),
    "cocostuff-zs@lila": ProtocolEntry(
        "cocostuff",
        zero_shot.zero_shot_task,
        ("limit", "seed", "texts", "clip"),
        SEEN_AND_UNSEEN,
        zero_shot.ZERO_SHOT.settings() | {"clip": zero_shot.CLIP},
    ),
    "openvocab@proxyclip": ProtocolEntry(
        "ade20k",
        proxyclip.open_vocabulary_task,
        ("limit", "texts", "clip"),
        CLASSES,
        asdict(proxyclip.ProxySettings()) | {"clip": proxyclip.CLIP},
    ),
}
