"""The paper's ablations as data: each a change of settings, the reason for it, and the published results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lila_train.training.config import DEPTH, FEATURES, FLOW, TrainConfig
from stores.errors import LilaError


@dataclass(frozen=True)
class PublishedResults:
    """The paper's results of a row for ViT-S/14 on YouTube-VOS; None: not published.

    DAVIS-2017 val J&F in percent by linear probe and by local k-NN, NYUv2 normals RMSE in degrees, COCO-Stuff-27 mIoU
    in percent.
    """

    davis_lp: float | None = None
    davis_knn: float | None = None
    nyu_rmse: float | None = None
    coco_miou: float | None = None


@dataclass(frozen=True)
class Ablation:
    """A row of the table: `changes` are the settings that it changes, by name, and their values."""

    name: str
    label: str
    why: str
    published: PublishedResults
    changes: Mapping[str, Any] = field(default_factory=dict)


FULL = Ablation("full", "LILA", "the method", PublishedResults(68.6, 73.9, 28.53, 59.6))

CUES = (
    Ablation("self-distillation", "self-distillation only",
             "what the encoder's own features teach without geometry or motion",
             PublishedResults(66.9, 68.6, 28.61, 59.3), {"cues": (FEATURES,)}),
    Ablation("with-depth", "+ depth", "what geometry adds",
             PublishedResults(67.2, 72.6, 29.06, 58.7), {"cues": (DEPTH, FEATURES)}),
    Ablation("with-flow", "+ flow", "what motion adds",
             PublishedResults(67.0, 72.6, 28.64, 59.5), {"cues": (FLOW, FEATURES)}),
    Ablation("without-self-distillation", "depth + flow", "geometry and motion without the encoder's features",
             PublishedResults(69.1, 72.5, 28.49, 59.3), {"cues": (FLOW, DEPTH)}),
    FULL,
)  # fmt: skip

COMPONENTS = (
    Ablation("erm", "A: ERM distillation",
             "the same cues and losses without the in-context solve: a linear head for all frames",
             PublishedResults(63.2, 61.1), {"objective": "erm"}),
    Ablation("no-pamr", "B: no PAMR", "the encoder's features as they are, on its own grid",
             PublishedResults(67.3, 71.9), {"distilled": "raw"}),
    Ablation("no-cropping", "C: no cropping", "both views of the same region",
             PublishedResults(66.0, 72.4), {"same_region": True}),
    Ablation("no-temporal-sampling", "D: no temporal sampling", "neighboring frames only",
             PublishedResults(69.3, 72.4), {"max_gap": 1}),
    Ablation("no-edge-loss", "E: no edge loss", "L1 alone", PublishedResults(68.1, 72.9), {"edge_weight": 0.0}),
    FULL,
)  # fmt: skip

TABLES = {"cues": CUES, "components": COMPONENTS}
ROWS = {row.name: row for row in (*CUES, *COMPONENTS)}


def rows(names: str, varied: Sequence[str] = ()) -> tuple[Ablation, ...]:
    """Return the rows of a comma-separated list of names and tables, or of `all`, and one for each of `varied`.

    The full model is always included. `varied` holds settings as --set takes them, such as `lr=3e-4`; several in one
    row are separated by spaces.
    """
    own = []
    for each in dict.fromkeys(varied):
        changes = TrainConfig.parse_assignments(each.split(), "--vary")
        if not changes or {"steps", "seed"} & changes.keys():
            raise LilaError(f"expected settings but steps and seed for --vary, found {each or 'nothing'}")
        own.append(Ablation(each, each, "a variation", PublishedResults(), changes))
    if names == "all":
        return *ROWS.values(), *own
    chosen = {FULL.name: FULL}
    for name in names.split(","):
        if name not in TABLES and name not in ROWS:
            raise LilaError(
                f"expected --rows to name {', '.join(TABLES)}, or some of {', '.join(ROWS)}; found {name or 'nothing'}"
            )
        chosen |= {row.name: row for row in TABLES.get(name) or (ROWS[name],)}
    return *chosen.values(), *own
