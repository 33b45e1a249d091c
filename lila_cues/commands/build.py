"""`lila-cues build`."""

from __future__ import annotations

from typing import Annotated

import typer

from lila_cues.commands import options as o

OnlyFailed = Annotated[
    bool, typer.Option("--only-failed", rich_help_panel=o.RUN, help="Try clips again that failed before.")
]
MaxFailures = Annotated[
    int | None, typer.Option(min=0, rich_help_panel=o.RUN, help="Stop when more clips than this have failed.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, rich_help_panel=o.RUN, help="Processes on this machine, sharing its GPUs or its CPU cores."),
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", rich_help_panel=o.RUN, help="A Dask cluster that is running.")
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", rich_help_panel=o.RUN, help="This builder's share, I from 0: a SLURM array needs no Dask."
    ),
]


def build(
    dataset: o.Dataset,
    root: o.Root = None,
    store: o.StorePath = None,
    limit: o.Limit = None,
    seed: o.Seed = 0,
    decoder: o.Decoder = "decord",
    max_gap: o.MaxGap = None,
    extra_cues: o.ExtraCues = None,
    profile: o.ProfileName = None,
    encoder: o.Encoder = None,
    encoder_weights: o.EncoderWeights = None,
    depth: o.Depth = None,
    depth_weights: o.DepthWeights = None,
    flow: o.Flow = None,
    flow_weights: o.FlowWeights = None,
    flow_updates: o.FlowUpdates = None,
    attention: o.Attention = "sdpa",
    precision: o.Precision = "float32",
    compiled: o.Compiled = False,
    device: o.Device = "auto",
    only_failed: OnlyFailed = False,
    max_failures: MaxFailures = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    shard: Shard = None,
) -> None:
    """Build a store of cues from videos: depth, flow both ways, and refined encoder features.

    An interrupted build goes on where it stopped when the same command is given again; a finished one says so. A clip
    that cannot be read is recorded with its reason and skipped. Exit status: 0 all clips complete, 1 some failed,
    2 something must be mended first.

    - `lila-cues build --dataset demo`
    - `lila-cues build --dataset videos --root ~/clips`
    - `lila-cues build --dataset kinetics --workers 8`
    """
    from lila_cues.commands.building import Conduct, conduct
    from lila_cues.order import Order, parse_shard

    how = Conduct(only_failed, max_failures, workers, scheduler, parse_shard(shard))
    raise typer.Exit(conduct(Order.of(locals()), how))
