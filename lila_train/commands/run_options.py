"""The options of `lila-train run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LEARN, HOW, LOOK = "What is learned", "How it is computed", "What is looked at meanwhile"

Store = Annotated[Path, typer.Option(help="The cue store that lila-cues build wrote.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME for a store NAME.zarr.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")]
Recipe = Annotated[str, typer.Option(help="Named settings; `lila-train recipes` lists them.", rich_help_panel=LEARN)]
Steps = Annotated[int | None, typer.Option(help="Steps of the optimiser.", rich_help_panel=LEARN)]
Seed = Annotated[int, typer.Option(help="Same seed, same run.", rich_help_panel=LEARN)]
BatchSize = Annotated[int | None, typer.Option(help="Pairs per step, over all ranks.", rich_help_panel=LEARN)]
Lr = Annotated[float | None, typer.Option(help="AdamW's learning rate.", rich_help_panel=LEARN)]
WeightDecay = Annotated[float | None, typer.Option(help="AdamW's weight decay.", rich_help_panel=LEARN)]
Schedule = Annotated[str | None, typer.Option(help="constant or cosine.", rich_help_panel=LEARN)]
WarmupSteps = Annotated[int | None, typer.Option(min=0, help="Steps of linear warm-up.", rich_help_panel=LEARN)]
ClipNorm = Annotated[float | None, typer.Option(help="Largest norm of the gradient.", rich_help_panel=LEARN)]
Precision = Annotated[
    str | None,
    typer.Option(help="float32 or bfloat16; the solve is always float32.", rich_help_panel=LEARN),
]
Width = Annotated[
    int | None,
    typer.Option(help="Inner width of the decoder; a feature has half of it.", rich_help_panel=LEARN),
]
ViewSize = Annotated[
    int | None,
    typer.Option(help="Side of a view in pixels, a multiple of the patch.", rich_help_panel=LEARN),
]
MaxGap = Annotated[int | None, typer.Option(help="Pairs are at most so many frames apart.", rich_help_panel=LEARN)]
Channels = Annotated[
    int | None,
    typer.Option(help="Encoder channels told per pair, of those stored.", rich_help_panel=LEARN),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, such as objective=erm, cues=flow,depth, roles=mirrored or detach=true; may be "
        "given more than once. `lila-train recipes NAME` lists names and values.",
        rich_help_panel=LEARN,
    ),
]
Online = Annotated[
    bool,
    typer.Option(
        "--online",
        help="Compute the cues in every step instead of reading them: the baseline, slow.",
        rich_help_panel=LEARN,
    ),
]
CheckpointEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=HOW)]
EncoderWeights = Annotated[
    Path | None, typer.Option(help="Where the encoder's weight file is now.", rich_help_panel=HOW)
]
LoaderProcesses = Annotated[int, typer.Option(min=0, help="Processes that read ahead.", rich_help_panel=HOW)]
Chunks = Annotated[
    int, typer.Option(min=1, help="Compute a batch in so many parts, to save memory.", rich_help_panel=HOW)
]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile encoder and decoder with PyTorch.", rich_help_panel=HOW)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …", rich_help_panel=HOW)]
PicturesEvery = Annotated[
    int, typer.Option(min=0, help="Steps between pictures of cues and features; 0: none.", rich_help_panel=LOOK)
]
ScoreData = Annotated[
    Path | None,
    typer.Option(help="Held-out clips with masks, in the DAVIS layout, to score on.", rich_help_panel=LOOK),
]
ScoreEvery = Annotated[int, typer.Option(min=1, help="Steps between scores.", rich_help_panel=LOOK)]
ScoreLimit = Annotated[int, typer.Option(min=1, help="Score on the first so many clips.", rich_help_panel=LOOK)]
