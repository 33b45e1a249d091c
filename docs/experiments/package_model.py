"""Write the weights that come with this package from a run, as `lila_vit_tiny` was (docs/lila-vit-tiny.md).

The encoder is recorded by its place on the hub in place of a local file, and the run's scores are added. Hardware: any.

python docs/experiments/package_model.py RUN lila_train/weights/lila_vit_tiny.safetensors
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from lila_cues.networks import WeightSource
from lila_train.evaluation.models import LilaModel
from lila_train.evaluation.results import read_result
from lila_train.model import checkpoint
from lila_train.model.decoder import Decoder
from lila_train.model.released import WEIGHTS_FILE


def main(run: Path, file: Path) -> None:
    saved = checkpoint.read(run / WEIGHTS_FILE)
    training, network = saved.provenance, saved.provenance.encoder.network
    published: Any = timm.get_pretrained_cfg(network)
    encoder = WeightSource(network, "hub", published.hf_hub_id, None, None, published.license)
    results = [read_result(path) for path in sorted(run.glob("scores/*/result.json"))]
    scores = [
        {name: each[name] for name in ("protocol", "counts")}
        | {"step": training.step, "figures": each["scores"][LilaModel.head]}
        for each in results
    ]
    store = {name: value for name, value in training.store.items() if name != "path"}
    decoder = Decoder(training.widths)
    decoder.load_state_dict(dict(saved.decoder))
    checkpoint.write(file, decoder, replace(training, encoder=encoder, store=store, scores=scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
