"""The protocols by id, and how each opens a data folder as a task of the harness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from lila_cues.inputs import find_dataset
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.knn import DinoPropagation, KnnTask, knn_task
from lila_train.evaluation.davis.linear_probe import linear_probe_task
from lila_train.evaluation.dense import normals, segmentation
from lila_train.evaluation.dense.task import dense_task
from lila_train.evaluation.harness import Task
from lila_train.evaluation.text import proxyclip, zero_shot
from lila_train.model.propagation import Propagation
from stores.errors import LilaError


def open_task(protocol: str, data: Path | None, config: EvalConfig, memory: int | None = None) -> Task:
    """Open a protocol on a data folder (default: as `find_dataset`).

    `memory` bounds temporary tensors of k-NN (bytes) and changes no score.

    Raises:
        LilaError: an unknown id, a missing folder, or an option that the protocol does not have.
    """
    if protocol not in PROTOCOLS:
        raise LilaError(f"expected a protocol, one of {', '.join(PROTOCOLS)}, found {protocol}")
    if config.fast_probe and protocol != "davis-lp@lila":
        raise LilaError(f"--fast-probe is for davis-lp@lila; {protocol} has no accelerated solver")
    dataset, open_data = PROTOCOLS[protocol]
    task = open_data(find_dataset(dataset, data, "--data"), config)
    return replace(task, memory=memory) if isinstance(task, KnnTask) else task


_open_ade_150 = partial(segmentation.open_ade, segmentation.ADE_150_LABELS, 150)
_open_ade_151 = partial(segmentation.open_ade, segmentation.ADE_151_LABELS, 151)

OpenTask = Callable[[Path, EvalConfig], Task]
PROTOCOLS: dict[str, tuple[str, OpenTask]] = {  # by id: name of the data folder, how to open it
    "davis-lp@lila": ("davis", linear_probe_task),
    "davis-knn@lila": ("davis", partial(knn_task, "davis-knn@lila", Propagation())),
    "davis-knn@dino": ("davis", partial(knn_task, "davis-knn@dino", DinoPropagation())),
    "nyuv2-normals@lila": ("nyuv2", partial(dense_task, normals.NYU_LILA, normals.open_nyu)),
    "nyuv2-normals@probe3d": ("nyuv2", partial(dense_task, normals.NYU_PROBE3D, normals.open_nyu)),
    "cocostuff27@lila": ("cocostuff", partial(dense_task, segmentation.COCO_LILA, segmentation.open_coco)),
    "cocostuff27@featup": ("cocostuff", partial(dense_task, segmentation.COCO_FEATUP, segmentation.open_coco)),
    "cocostuff27@jafar": ("cocostuff", partial(dense_task, segmentation.COCO_JAFAR, segmentation.open_coco)),
    "ade20k150": ("ade20k", partial(dense_task, segmentation.ADE_150, _open_ade_150)),
    "ade20k151": ("ade20k", partial(dense_task, segmentation.ADE_151, _open_ade_151)),
    "cocostuff-zs@lila": ("cocostuff", zero_shot.zero_shot_task),
    "openvocab@proxyclip": ("ade20k", proxyclip.open_vocabulary_task),
}
