"""Models to and from Hugging Face repositories: safetensors and a model card; a folder serves as well.

`model.push_to_hub("me/my-lila")`, `Lila.from_pretrained("me/my-lila")`, `model.save_pretrained("folder")`.

`load`: from a name or a checkpoint to a model that runs.

LILA at work: a frozen encoder and a trained decoder, one image in, one feature vector per pixel out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lila_cues.images import AnyImage, as_batch, as_float
from lila_cues.networks import FrozenEncoder, WeightSource, encoder_from_tensors, load_encoder, restore_encoder
from lila_cues.networks.weights import file_sha256, tensors_sha256
from lila_train.model import checkpoint
from lila_train.model.checkpoint import Provenance
from lila_train.model.decoder import Decoder
from lila_train.model.released import ENCODER_OF_WIDTH, RELEASED_FILES, ReleasedCheckpoint, obtain, read_released
from lila_train.model.resize import size_of, whole_patches
from lila_train.model.tiling import Region, Tiling, slabs
from stores.errors import LilaError

WEIGHTS_FILE = "weights.safetensors"
ENCODER_FILE = "encoder.safetensors"  # only where the encoder is a file of the user's, that nobody else could find


class HubMixin(ModelHubMixin):
    """What makes a model one of a hub: how it is written to a folder, read from one, and described."""

    if TYPE_CHECKING:
        encoder: FrozenEncoder
        decoder: Decoder
        provenance: checkpoint.Provenance | None

    def _save_pretrained(self, save_directory: Path) -> None:
        source = self.encoder.source
        if source.origin == "file":
            source = _with_weights(self.encoder, save_directory / ENCODER_FILE)
        known = self.provenance or checkpoint.Provenance(source, self.decoder.widths, 0, {}, {}, checkpoint.versions())
        checkpoint.write(save_directory / WEIGHTS_FILE, self.decoder, replace(known, encoder=source))

    @classmethod
    def _from_pretrained(  # type: ignore[override]  # our own options in place of **model_kwargs
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        encoder_weights: str | Path | None = None,
        fit: Fit = "pad",
    ) -> Lila:

        def obtain(name: str) -> Path | None:
            if Path(model_id).is_dir():
                return found if (found := Path(model_id) / name).is_file() else None
            options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
            return _downloaded(model_id, name, options, force_download, local_files_only)

        weights = obtain(WEIGHTS_FILE)
        if weights is None:
            raise LilaError(f"expected {WEIGHTS_FILE} in {model_id}, found none; was it written by save_pretrained?")
        own = encoder_weights or obtain(ENCODER_FILE)
        return load(weights, device=device, dtype=dtype, encoder_weights=own, fit=fit)

    def generate_model_card(self, repo_id: str = "YOUR/MODEL") -> ModelCard:
        """README.md of the repository: what it is, how it is used, which encoder it needs and under which licence."""
        data = ModelCardData(
            license="apache-2.0",
            library_name="lila-pixels",
            pipeline_tag="image-feature-extraction",
            tags=["lila", "pixel-features", "dense-features", "self-supervised", "video"],
        )
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_card(self.encoder, self.decoder, repo_id)}")


def _with_weights(encoder: FrozenEncoder, path: Path) -> WeightSource:
    """Write the encoder's own weights beside the decoder's; the source that names them."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in encoder.vit.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, path)
    return replace(encoder.source, location=ENCODER_FILE, sha256=file_sha256(path))


def _downloaded(repo_id: str, name: str, options: dict[str, Any], force: bool, local_only: bool) -> Path | None:
    """A file of a repository, from the hub or its cache; None if the repository has none of that name."""
    try:
        return Path(hf_hub_download(repo_id, name, force_download=force, local_files_only=local_only, **options))
    except LocalEntryNotFoundError as error:
        if name == ENCODER_FILE:
            return None
        raise LilaError(
            f"{name} of {repo_id} is not at hand and the hub cannot be reached; pass a local folder"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LilaError(f"{repo_id} cannot be had from the hub ({reason}); is the name right, and public?") from error


def _card(encoder: FrozenEncoder, decoder: Decoder, repo_id: str) -> str:
    source = encoder.source
    parameters = sum(t.numel() for t in decoder.parameters())
    place = ENCODER_FILE if source.origin == "file" else f"{source.location} ({source.origin})"
    return f"""# LILA pixel features

A feature vector of {decoder.widths.out} numbers for every pixel of an image of any size: a DPT decoder
({parameters:,} parameters, in `{WEIGHTS_FILE}`) on the frozen encoder `{encoder.name}`, trained on unlabelled video by
LILA ([arXiv 2604.26488](https://arxiv.org/abs/2604.26488)).

```python
from lila_train import Lila

model = Lila.from_pretrained("{repo_id}")
features = model.features(image)  # a PIL image, an array H×W×3 or a tensor 3×H×W → d×H×W
```

| encoder | {encoder.name}, patch {encoder.patch_size}, {encoder.width} channels |
|---|---|
| its weights | {place} |
| SHA-256 | {source.sha256 or "none"} |
| their licence | {source.licence} |

The decoder is under the Apache License 2.0; the encoder keeps its own licence.
"""


Fit = Literal["pad", "resize"]

WHOLE_PIXELS = 4_194_304
"""The largest image that is computed in one piece unasked: 2048², whose tokens attend to each other all at once."""


class Lila(nn.Module, HubMixin):
    """Pixel features of images of any size.

    `fit` says how a size that is no multiple of the patch is met: `pad` repeats the last row and column and cuts the
    result, `resize` stretches the image to the nearest multiple and decodes at the original size. `provenance` is what
    is known of the run that made the decoder; None where nothing is.
    """

    provenance: Provenance | None = None

    def __init__(self, encoder: FrozenEncoder, decoder: Decoder, fit: Fit = "pad") -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.fit = fit

    @property
    def device(self) -> torch.device:
        """Where its weights are, and where it computes."""
        return next(self.parameters()).device

    @property
    def identity(self) -> str:
        """Tells one model from another: a hash of the decoder's values, the encoder's name and its file's hash."""
        encoder = self.encoder.source
        return f"{tensors_sha256(self.decoder.state_dict())[:16]}-{encoder.network}-{(encoder.sha256 or '')[:16]}"

    def forward(self, images: Shaped[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """Features for RGB images, uint8 or floats in [0, 1]: `b×d×H×W`, zero mean and unit variance over d."""
        height, width = size_of(images)
        fitted = self._fitted(self._as_float(images))
        tokens = self.encoder(fitted)
        if self.fit == "resize":
            return self.decoder(tokens, (height, width))
        return self.decoder(tokens, size_of(fitted))[..., :height, :width]

    def encode(self, images: Shaped[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """The encoder's own grid: tokens of its last block, after the final LayerNorm."""
        return self.encoder.grid(self._fitted(self._as_float(images)))

    @torch.inference_mode()
    def features(self, image: AnyImage, *, tile: int | None = None, overlap: int | None = None, out: Any = None) -> Any:
        """Features d×H×W of one image: a PIL image, an array H×W×3 or a tensor 3×H×W.

        A tensor gives a tensor on the model's device, anything else a float32 array. `tile` computes the image in tiles
        of so many pixels that overlap by `overlap` (a quarter of them) and are blended; tiles do not see what lies
        beyond them, so that values differ a little from those of the whole image. `out` is filled instead of a new
        array: any d×H×W array that slices can be assigned to, such as a memory map or a Zarr array.
        """
        batch = as_batch(image)
        found = self._parts(batch, tile, overlap)
        if out is None and tile is None:
            ((_, whole),) = found
            return whole if isinstance(image, Tensor) else whole.float().cpu().numpy()
        height, width = batch.shape[-2:]
        shape = (self.decoder.widths.out, height, width)
        if out is None:
            out = torch.empty(shape, device=self.device) if isinstance(image, Tensor) else np.empty(shape, np.float32)
        elif tuple(out.shape) != shape:
            raise LilaError(f"expected an array of shape {shape} to fill, found {tuple(out.shape)}")
        for (rows, columns), part in found:
            out[:, rows, columns] = part if isinstance(out, Tensor) else part.float().cpu().numpy()
        return out

    def _parts(
        self, batch: Shaped[Tensor, "1 3 H W"], tile: int | None, overlap: int | None
    ) -> Iterator[tuple[Region, Float[Tensor, "d h w"]]]:
        """The result with where it belongs: all at once, or slab by slab."""
        height, width = batch.shape[-2:]
        if tile is None:
            if height * width > WHOLE_PIXELS:
                raise LilaError(
                    f"expected an image of at most {WHOLE_PIXELS / 1e6:.1f} million pixels to compute in one piece, "
                    f"found {height}×{width}; pass tile=, of {64 * self.encoder.patch_size} px for example"
                )
            return iter([((slice(None), slice(None)), self(batch.to(self.device))[0])])
        tiling = Tiling.of(tile, overlap, self.encoder.patch_size)
        return slabs(batch, lambda part: self(part.to(self.device)), tiling)

    def _as_float(self, images: Tensor) -> Tensor:
        return as_float(images).to(self.encoder.mean.dtype)

    def _fitted(self, images: Tensor) -> Tensor:
        patch = self.encoder.patch_size
        height, width = images.shape[-2:]
        if self.fit == "resize":
            size = whole_patches((height, width), patch)
            return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(images, (0, -width % patch, 0, -height % patch), mode="replicate")


LICENCE = "apache-2.0"  # of DINOv2's weights, which published files hold


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    encoder_weights: str | Path | None = None,
    fit: Fit = "pad",
) -> Lila:
    """A model ready to be called on images: of `lila-train run`, or one that the paper's authors have published.

    `name_or_path`: the weights.safetensors of a run, a published .pt file, or the name of a published one
    (lila_dinov2_vits14, …vitb14, …vitl14, …vitl14_kts), which is downloaded when it is first needed. `dtype`:
    torch.bfloat16 or torch.float16 for a model of half the size; float32 if None.

    The encoder comes from inside a published file, or from where the run had it: the package, the hub, or a local
    file. `encoder_weights` names another place of it; its hash is checked where one is recorded. Raises LilaError where
    something is missing or of another backbone.
    """
    name = str(name_or_path)
    path, sha256 = obtain(name) if name in RELEASED_FILES else (_existing(name), None)
    provenance = None
    if path.suffix == ".safetensors":
        found = checkpoint.read(path)
        provenance, decoder = found.provenance, found.build_decoder()
        encoder = restore_encoder(provenance.encoder, encoder_weights, device)
    else:
        released = read_released(path)
        decoder, encoder_name = released.build_decoder(), _encoder_name(name, path, released)
        if encoder_weights is None and released.holds_encoder:
            source = WeightSource(encoder_name, "file", str(path.resolve()), None, sha256 or file_sha256(path), LICENCE)
            encoder = encoder_from_tensors(encoder_name, released.encoder, source).to(device)
        else:
            encoder = load_encoder(encoder_name, encoder_weights, device)
    if encoder.width != decoder.widths.encoder:
        raise LilaError(
            f"the decoder in {path} reads {decoder.widths.encoder} channels, the encoder {encoder.name} gives "
            f"{encoder.width}; these weights belong to another backbone"
        )
    model = Lila(encoder, decoder, fit).to(device=device, dtype=dtype).eval()
    model.provenance = provenance
    return model


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise LilaError(
            f"no weights at {name}; pass the weights.safetensors of a run (lila-train run writes it), a published .pt "
            f"file, or one of {', '.join(RELEASED_FILES)}"
        )
    return path


def _encoder_name(name: str, path: Path, released: ReleasedCheckpoint) -> str:
    """The encoder of a released file: by the file's own name, else by the width that its decoder reads."""
    if name in RELEASED_FILES:
        return RELEASED_FILES[name].encoder
    width = released.widths.encoder
    if width not in ENCODER_OF_WIDTH:
        raise LilaError(
            f"expected a decoder of an encoder of width {', '.join(map(str, ENCODER_OF_WIDTH))} in {path}, found one "
            f"of width {width}; published files decode DINOv2"
        )
    return ENCODER_OF_WIDTH[width]
