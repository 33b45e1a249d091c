"""The model as a file that runs without this project: ONNX, or a program of torch.export; any batch and size.

The input is `images`, b×3×H×W floats in [0, 1]; the output `features`, b×d×H×W.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.model.lila import Lila
from lila_train.model.resize import Size
from stores.errors import LilaError

SUFFIXES = (".onnx", ".pt2")
TOLERANCE = 1e-3  # of features of unit variance

Shape = tuple[int, int, int]  # images, height, width
Run = Callable[[Float[np.ndarray, "b 3 H W"]], Float[np.ndarray, "b d H W"]]


class Portable(nn.Module):
    """The model in one pass that asks nothing about the size it gets, so that one graph serves all of them.

    Sides are brought to multiples of the patch by picking rows and columns, the last ones again and again, and the
    result is cut by picking as well: padding and slicing would record whether there was anything to do.
    """

    def __init__(self, model: Lila) -> None:
        super().__init__()
        if model.fit != "pad":
            raise LilaError(f"expected a model that pads its images, found fit={model.fit}; load it with fit='pad'")
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """As `Lila.forward` with `fit="pad"`, for floats in [0, 1]."""
        patch = self.encoder.patch_size
        height, width = images.shape[-2:]
        size = ((height + patch - 1) // patch * patch, (width + patch - 1) // patch * patch)
        fitted = _picked(images, size)
        return _picked(self.decoder(self.encoder.tokens(fitted), size), (height, width))


def _picked(maps: Float[Tensor, "b c H W"], size: Size) -> Float[Tensor, "b c h w"]:
    """Cut to a size, or extended to it by the last row and column."""
    for axis, length in zip((2, 3), size, strict=True):
        places = torch.arange(length, device=maps.device).clamp(max=maps.shape[axis] - 1)
        maps = maps.index_select(axis, places)
    return maps


def export(model: Lila, path: Path, sizes: Sequence[Shape] | None = None) -> float:
    """Write the model to PATH.onnx or PATH.pt2, run it on images of several sizes, and give the largest difference.

    `sizes` are (images, height, width); some that are and are not multiples of the patch if not given. Raises LilaError
    where the file computes something else than the model.
    """
    if path.suffix not in SUFFIXES:
        raise LilaError(
            f"expected a file ending in {' or '.join(SUFFIXES)} (or .pt for the decoder alone), found {path}"
        )
    _check_installed(path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    patch = model.encoder.patch_size
    portable = Portable(model).cpu().eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own workings
        program = _program(portable, patch)
        run = _save_onnx(program, path, model) if path.suffix == ".onnx" else _save_program(program, path, model)
    chosen = sizes or [(1, 4 * patch, 6 * patch), (3, 5 * patch + 3, 3 * patch + 1), (2, 9 * patch - 1, 3 * patch)]
    difference = largest_difference(portable, run, chosen)
    if difference > TOLERANCE:
        raise LilaError(
            f"{path} gives features that differ from the model's by up to {difference:.2g}, expected at most "
            f"{TOLERANCE}; report this with the versions of torch and onnxruntime"
        )
    return difference


@torch.no_grad()
def largest_difference(model: nn.Module, run: Run, sizes: Sequence[Shape]) -> float:
    """The largest difference of any value between what a file computes and the model, on random images."""
    draw = torch.Generator().manual_seed(0)
    found = 0.0
    for count, height, width in sizes:
        images = torch.rand(count, 3, height, width, generator=draw)
        found = max(found, float(np.abs(run(images.numpy()) - model(images).numpy()).max()))
    return found


def load_onnx(path: Path) -> Run:
    """The features of an ONNX file, by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["features"], {"images": images})[0])


def load_program(path: Path) -> Run:
    """The features of a torch.export file."""
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


def _program(portable: Portable, patch: int) -> Any:
    example = torch.zeros(2, 3, 5 * patch + 2, 7 * patch + 3)
    dynamic = torch.export.Dim.DYNAMIC
    return torch.export.export(portable, (example,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))


def _save_onnx(program: Any, path: Path, model: Lila) -> Run:
    import onnx_ir

    made = torch.onnx.export(program, dynamo=True, verbose=False, output_names=["features"])
    assert made is not None
    made.model.metadata_props.update(_facts(model))
    for value, channels in ((made.model.graph.inputs[0], 3), (made.model.graph.outputs[0], model.decoder.widths.out)):
        value.shape = onnx_ir.Shape(["batch", channels, "height", "width"])
    made.save(path, external_data=False)
    return load_onnx(path)


def _save_program(program: Any, path: Path, model: Lila) -> Run:
    torch.export.save(program, path, extra_files={"lila.json": json.dumps(_facts(model))})
    return load_program(path)


def _facts(model: Lila) -> dict[str, str]:
    """What the file says of itself."""
    encoder = model.encoder
    return {"model": model.identity, "encoder": encoder.name, "patch_size": str(encoder.patch_size)}


def _check_installed(suffix: str) -> None:
    needed = ("onnx", "onnxscript", "onnxruntime") if suffix == ".onnx" else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise LilaError(f"{', '.join(missing)} must be installed for ONNX; pip install 'lila-pixels[export]'")
