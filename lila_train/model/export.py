"""Export of a model as a file that runs without this project, for any batch and image size: ONNX or torch.export.

The input is `images`, b×3×H×W floats in [0, 1]; the output `features`, b×d×H×W.
"""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.model.lila import Lila
from lila_train.model.prepared import require_finite
from lila_train.model.resize import Size
from stores.atomic import atomic_path
from stores.errors import LilaError

TOLERANCE = 1e-3  # of features of unit variance

Run = Callable[[Float[np.ndarray, "b 3 H W"]], Float[np.ndarray, "b d H W"]]


@torch.no_grad()
def export(model: Lila, path: Path, sizes: Sequence[tuple[int, int, int]] | None = None) -> float:
    """Write the model to a .onnx or .pt2 file, run the file and return its largest difference to the model.

    Args:
        model: a model with `fit="pad"`.
        path: the file; its folder is created.
        sizes: (images, height, width) to compare at; by default some multiples of the patch size and some others.

    Raises:
        LilaError: another suffix, a package that is not installed, or a difference above TOLERANCE.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise LilaError(f"expected a file ending in .onnx or .pt2 (or .pt for the decoder alone), found {path}")
    needed = ("onnx", "onnxscript", "onnxruntime") if path.suffix == ".onnx" else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise LilaError(f"{', '.join(missing)} must be installed for ONNX; pip install 'lila-pixels[export]'")
    portable, patch = Portable(model).cpu().eval(), model.encoder.patch_size
    if sizes is None:
        sizes = [(1, 4 * patch, 6 * patch), (3, 5 * patch + 3, 3 * patch + 1), (2, 9 * patch - 1, 3 * patch)]
        if path.suffix == ".onnx":  # a .pt2 refuses images of one or two patches
            sizes += [(1, patch, 80 * patch), (1, 80 * patch, 1)]
    rng, difference = torch.Generator().manual_seed(0), 0.0
    with atomic_path(path) as temporary:
        _write(portable, temporary, model)
        run = load_exported(temporary)
        for count, height, width in sizes:
            images = torch.rand(count, 3, height, width, generator=rng)
            expected = require_finite(portable(images), "the model").numpy()
            difference = float(np.maximum(difference, np.abs(run(images.numpy()) - expected).max()))
        if not difference <= TOLERANCE:
            raise LilaError(
                f"the exported file gives features that differ from the model's by up to {difference:.2g}, expected "
                f"at most {TOLERANCE}; report this with the versions of torch and onnxruntime"
            )
    return difference


class Portable(nn.Module):
    """The model with a forward pass that does not branch on the image size, so that one graph serves all sizes.

    Images are padded and features cropped by selecting rows and columns, the last ones repeatedly: `F.pad` and slices
    would record whether there was anything to pad.
    """

    def __init__(self, model: Lila) -> None:
        super().__init__()
        if model.fit != "pad":
            raise LilaError(f"expected a model that pads its images, found fit={model.fit}; load it with fit='pad'")
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """Return what `Lila.forward` returns with `fit="pad"`, for floats in [0, 1]."""
        patch = self.encoder.patch_size
        height, width = images.shape[-2:]
        size = ((height + patch - 1) // patch * patch, (width + patch - 1) // patch * patch)
        tokens = self.encoder.tokens(_select(images, size))
        return _select(self.decoder(tokens, size), (height, width))


def _select(maps: Float[Tensor, "b c H W"], size: Size) -> Float[Tensor, "b c h w"]:
    """Crop to a size, or extend to it by the last row and column."""
    for axis, length in zip((2, 3), size, strict=True):
        places = torch.arange(length, device=maps.device).clamp(max=maps.shape[axis] - 1)
        maps = maps.index_select(axis, places)
    return maps


@torch.no_grad()
def _write(portable: Portable, path: Path, model: Lila) -> None:
    """Record the model's graph with symbolic batch size, height and width, and write it by the file's suffix."""
    encoder, dynamic = model.encoder, torch.export.Dim.DYNAMIC
    metadata = {"model": model.identity, "encoder": encoder.name, "patch_size": str(encoder.patch_size)}
    example = torch.zeros(2, 3, 5 * encoder.patch_size + 2, 7 * encoder.patch_size + 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its internals
        program = torch.export.export(portable, (example,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
        if path.suffix == ".pt2":
            buffer = io.BytesIO()  # as a path, it would report a full disk as an internal error
            torch.export.save(program, buffer, extra_files={"lila.json": json.dumps(metadata)})
            path.write_bytes(buffer.getvalue())
            return
        import onnx_ir

        exported = torch.onnx.export(program, dynamo=True, verbose=False, output_names=["features"])
        assert exported is not None
        graph = exported.model.graph
        exported.model.metadata_props.update(metadata)
        for value, channels in ((graph.inputs[0], 3), (graph.outputs[0], model.decoder.widths.out)):
            value.shape = onnx_ir.Shape(["batch", channels, "height", "width"])
        exported.save(path, external_data=False)


def load_exported(path: Path) -> Run:
    """Return a function that computes the features of images with an exported file: by onnxruntime or PyTorch."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: np.asarray(session.run(["features"], {"images": images})[0])
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()
