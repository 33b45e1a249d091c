"""Options that several commands share, each told once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DATA, NETWORKS, RUN = "What to read", "Networks", "How to run"

Dataset = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=DATA,
        help="demo, videos, frames, kinetics, youtube-vos or davis.",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(rich_help_panel=DATA, help="Where the data lie; $LILA_DATA/NAME or data/NAME if not given."),
]
StorePath = Annotated[
    Path | None,
    typer.Option("--store", rich_help_panel=DATA, help="Where the store goes; cues/NAME.zarr if not given."),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, rich_help_panel=DATA, help="So many clips only, spread evenly over the data set."),
]
Seed = Annotated[
    int,
    typer.Option(min=0, rich_help_panel=DATA, help="Draws frames, pairs and channels; of the demo, the scenes too."),
]
Decoder = Annotated[
    str, typer.Option(rich_help_panel=DATA, help="decord (PyAV where it is not exact), pyav or torchcodec.")
]
MaxGap = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=DATA, help="T: the frames of a pair are 1 to T apart.")
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        rich_help_panel=NETWORKS,
        help="tiny, small, base or large: networks and sizes in one word; by the device if not given.",
    ),
]
Encoder = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="A ViT of timm, or dinov2_vits14 and kin.")]
EncoderWeights = Annotated[
    str | None, typer.Option(rich_help_panel=NETWORKS, help="Its weight file; random for untrained ones.")
]
Depth = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=NETWORKS, help="A depth network, or files:DIR with 16-bit PNGs in mm, CLIP/FRAME.png."
    ),
]
DepthWeights = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="Its weight file or folder.")]
Flow = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="raft_large, raft_small or dis.")]
FlowWeights = Annotated[str | None, typer.Option(rich_help_panel=NETWORKS, help="Its weight file.")]
FlowUpdates = Annotated[int | None, typer.Option(min=1, rich_help_panel=NETWORKS, help="RAFT's updates per pair.")]
ExtraCues = Annotated[
    str | None,
    typer.Option(metavar="NAMES", rich_help_panel=DATA, help="Cues to make beside the usual, with commas: normals."),
]
Attention = Annotated[str, typer.Option(rich_help_panel=NETWORKS, help="sdpa, or xformers where it is installed.")]
Precision = Annotated[
    str, typer.Option(rich_help_panel=NETWORKS, help="float32, bfloat16 or float16, of depth and flow.")
]
Compiled = Annotated[
    bool,
    typer.Option("--compile", rich_help_panel=NETWORKS, help="Compile depth and flow: slow to start, then faster."),
]
Device = Annotated[str, typer.Option(rich_help_panel=RUN, help="auto, cpu, cuda, cuda:1 …")]
