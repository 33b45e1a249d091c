"""What features are worth: models under test, protocols on data sets, and one way to run any of them on any other.

A `ModelSpec` says which model, `open_task` which protocol on which folder, and `evaluate` computes the result, part by
part, into a folder that it goes on in; importing this package imports none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lila_train.evaluation.baselines.catalog import BASELINES
    from lila_train.evaluation.harness import Spec, Task, default_workers, evaluate
    from lila_train.evaluation.model_spec import ModelSpec
    from lila_train.evaluation.models import ENCODER, GridModel, PixelModel, feature_map
    from lila_train.evaluation.protocols import PROTOCOLS, Options, open_task
    from lila_train.evaluation.result_folder import read_result

_HOMES = {
    "BASELINES": "baselines.catalog",
    "default_workers": "harness",
    "ENCODER": "models",
    "evaluate": "harness",
    "feature_map": "models",
    "GridModel": "models",
    "ModelSpec": "model_spec",
    "open_task": "protocols",
    "Options": "protocols",
    "PixelModel": "models",
    "PROTOCOLS": "protocols",
    "read_result": "result_folder",
    "Spec": "harness",
    "Task": "harness",
}

__all__ = [
    "BASELINES",
    "ENCODER",
    "PROTOCOLS",
    "GridModel",
    "ModelSpec",
    "Options",
    "PixelModel",
    "Spec",
    "Task",
    "default_workers",
    "evaluate",
    "feature_map",
    "open_task",
    "read_result",
]


def __getattr__(name: str) -> object:
    """Import a name's module when it is first asked for: PyTorch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
