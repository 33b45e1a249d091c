"""The report on an ablation study: tables as Markdown, CSV and HTML with the published scores, and charts as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lila_cues.viz.charts import Curve, Panel, centered_mean, score_dots, step_curves
from lila_cues.viz.html import render
from lila_train.report.tables import MISSING, markdown_table, signed
from lila_train.training.ablation_study import Finding
from lila_train.training.ablations import FULL, Ablation
from stores.atomic import atomic_write

Losses = Mapping[str, Sequence[Sequence[float]]]
"""The losses of every step, by the label of a row and by seed."""

PUBLISHED_FIELDS = {"davis-knn@lila": "davis_knn", "davis-lp@lila": "davis_lp"}
"""By protocol: the field of `lila_train.training.ablations.PublishedResults` with the published score."""

HEAD = ["row", "J&F", "sd", "seeds", "to full", "to encoder", "published J&F", "published, to full"]
TEXT_COLUMNS = ("row", "what it asks", "settings")
SMOOTHING_STEPS = 51


def write_ablations(folder: Path, findings: Sequence[Finding], caption: str, losses: Losses) -> None:
    """Write ablations.md, .csv and .html, the chart of each protocol, ablations-PROTOCOL.svg, and one over steps.

    Args:
        caption: the data, the counts and the settings.
    """
    charts = {}
    for finding in findings:  # each row's seeds with mean and standard deviation, beside the encoder's score
        scores = {one.row.label: list(one.by_seed.values()) for one in finding.scores}
        encoder = ("encoder", finding.encoder.total)
        charts[finding.protocol] = score_dots(scores, encoder, f"J&F, {finding.protocol}, %")
    over_steps = steps_chart(findings, losses)
    explained = _explain([scores.row for scores in findings[0].scores])
    tables = [*map(markdown, findings), markdown_table(*explained, TEXT_COLUMNS)]
    text = io.StringIO()
    csv.writer(text).writerow(["protocol", *HEAD])
    for finding in findings:
        csv.writer(text).writerows([finding.protocol, *cells] for cells in table_rows(finding))
    for name, chart in (*charts.items(), ("steps", over_steps)):
        atomic_write(chart, folder / f"ablations-{name}.svg")
    atomic_write("\n".join([f"{caption}\n", *tables]), folder / "ablations.md")
    atomic_write(text.getvalue(), folder / "ablations.csv")
    render(
        "ablations.html",
        folder / "ablations.html",
        title="LILA: ablations",
        caption=caption,
        protocols=[(one.protocol, charts[one.protocol], table_rows(one), sequence_table(one)) for one in findings],
        head=HEAD,
        over_steps=over_steps,
        explained=explained,
        wrap=TEXT_COLUMNS[1:],
    )


def markdown(finding: Finding) -> str:
    """Return the tables of one protocol as Markdown under the protocol's name."""
    rows = markdown_table(HEAD, table_rows(finding), TEXT_COLUMNS)
    return f"**{finding.protocol}**\n\n{rows}\n" + markdown_table(*sequence_table(finding), ("sequence",))


def table_rows(finding: Finding) -> list[list[str]]:
    """Return the cells under HEAD: the encoder alone, then a row per ablation; – for missing scores."""
    full, encoder = finding.full.mean, finding.encoder.total
    to_full = None if full is None else encoder - full
    rows = [["frozen encoder", f"{encoder:.1f}", "–", "–", signed(to_full), "–", "–", "–"]]
    for scores in finding.scores:
        is_full = scores.row.name == FULL.name
        published, published_full = (
            getattr(row.published, PUBLISHED_FIELDS[finding.protocol.partition("+")[0]]) for row in (scores.row, FULL)
        )
        rows.append(
            [
                scores.row.label,
                MISSING if scores.mean is None else f"{scores.mean:.1f}",
                "–" if scores.std is None else f"{scores.std:.1f}",
                str(len(scores.by_seed)),
                "–" if is_full else signed(scores.gain_over(finding.full)),
                signed(None if scores.mean is None else scores.mean - encoder),
                MISSING if published is None else f"{published:.1f}",
                "–" if is_full or published is None else signed(published - published_full),
            ]
        )
    return rows


def sequence_table(finding: Finding) -> tuple[list[str], list[list[str]]]:
    """Return head and cells of J&F by sequence: of the encoder, and of each row the mean over the seeds."""
    columns = [finding.encoder.by_sequence, *(scores.by_sequence for scores in finding.scores)]
    cells = [[name, *(f"{scores[name]:.1f}" for scores in columns)] for name in finding.encoder.by_sequence]
    return ["sequence", "frozen encoder", *(scores.row.label for scores in finding.scores)], cells


def _explain(rows: Sequence[Ablation]) -> tuple[list[str], list[list[str]]]:
    """Return the table of what each row changes and why, with other published metrics."""
    head = [*TEXT_COLUMNS, "published NYUv2 normals RMSE, °", "published COCO-Stuff-27 mIoU"]
    cells = []
    for row in rows:
        values = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in row.changes.items()}
        settings = ", ".join(f"{name}={str(value).lower()}" for name, value in values.items())  # as --set takes them
        published = (row.published.nyu_rmse, row.published.coco_miou)
        texts = ["–" if value is None else f"{value:g}" for value in published]
        cells.append([row.label, row.why, settings or "–", *texts])
    return head, cells


def steps_chart(findings: Sequence[Finding], losses: Losses) -> bytes:
    """Return an SVG with the smoothed losses, and a panel for each protocol that was scored during training.

    A panel shows the scores of each seed over steps, and their mean over the steps that all seeds have.
    """
    smoothed = {label: mean_loss(seeds) for label, seeds in losses.items()}
    curves = [Curve(label, (np.arange(1, len(values) + 1), values)) for label, values in smoothed.items()]
    panels = [Panel("loss", curves)]
    for finding in findings:
        curves = []
        for scores in (one for one in finding.scores if one.by_step):
            seeds = list(scores.by_step.values())
            shared = sorted(set.intersection(*map(set, seeds)))
            means = np.array([np.mean([seed[step] for seed in seeds]) for step in shared])
            samples = [(np.array(list(seed)), np.array(list(seed.values()))) for seed in seeds]
            curves.append(Curve(scores.row.label, (np.array(shared), means), samples))
        if curves:
            panels.append(Panel(f"J&F, {finding.protocol}, %", curves, ("frozen encoder", finding.encoder.total)))
    return step_curves(panels)


def mean_loss(seeds: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the mean over seeds of the steps that all have, and over SMOOTHING_STEPS around each step."""
    length = min(map(len, seeds), default=0)
    mean = np.mean([seed[:length] for seed in seeds], axis=0) if length else np.zeros(0)
    return centered_mean(mean, SMOOTHING_STEPS)
