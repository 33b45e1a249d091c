"""What came of it, to look at: the demo's page, tables of results, tables of ablations.

Each `write_…` makes files that need nothing else, from what `lila-train eval`, `run` and `ablate` left on disk;
importing this package imports none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lila_train.report.ablations import AblationTable, write_ablations
    from lila_train.report.comparison import write_comparison
    from lila_train.report.demo import DemoReport, write_demo_report
    from lila_train.report.tables import TaskTable

_HOMES = {
    "AblationTable": "ablations",
    "DemoReport": "demo",
    "TaskTable": "tables",
    "write_ablations": "ablations",
    "write_comparison": "comparison",
    "write_demo_report": "demo",
}

__all__ = [
    "AblationTable",
    "DemoReport",
    "TaskTable",
    "write_ablations",
    "write_comparison",
    "write_demo_report",
]


def __getattr__(name: str) -> object:
    """Import a name's module when it is first asked for: PyTorch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
