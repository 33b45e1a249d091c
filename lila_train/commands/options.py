"""Options that several commands have, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[str, typer.Option(help="weights.safetensors of a run.")]
EncoderWeights = Annotated[Path | None, typer.Option(help="Where the encoder's weight file is now.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
