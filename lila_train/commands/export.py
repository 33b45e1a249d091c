"""`lila-train export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lila_train.commands.options import EncoderWeights, Weights
from stores import console


def export(
    weights: Weights,
    out: Annotated[Path, typer.Option(help="model.onnx, model.pt2 for torch.export, or decoder.pt.")],
    encoder_weights: EncoderWeights = None,
) -> None:
    """Write the model as one file that runs without this project, for any batch and size.

    Input: `images`, b×3×H×W floats in [0, 1]; output: `features`, b×d×H×W. The file is run on images of several sizes
    and compared with the model before the command ends. A .pt2 asks for sides of more than two patches. A .pt holds the
    decoder alone, named as the paper's authors name theirs, for their code.
    """
    from lila_train.inference.export import export as write
    from lila_train.inference.loading import load
    from lila_train.inference.released import write_released

    model = load(weights, encoder_weights=encoder_weights)
    if out.suffix == ".pt":
        write_released(out, model.decoder)
        console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, the decoder of {model.encoder.name}")
        return
    difference = write(model, out)
    console.out.print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, differs from the model by at most {difference:.1g}")
