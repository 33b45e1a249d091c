"""LILA: a frozen encoder and a trained decoder; one image in, one feature vector per pixel out.

`load` opens the weights of a run or a published file. A model is shared as a Hugging Face repository, or as a folder
with the same files: `model.push_to_hub("me/my-lila")`, `model.save_pretrained("folder")`, `Lila.from_pretrained(…)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from lila_cues import devices
from lila_cues.images import AnyImage, to_float, to_tensor
from lila_cues.networks import FrozenEncoder, WeightSource, encoder_from_tensors, load_encoder, restore_encoder
from lila_cues.networks.weights import file_sha256, float32_default, seeded, tensors_sha256
from lila_train.model import checkpoint, released, sharing
from lila_train.model.checkpoint import Provenance
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.model.init import init_pca
from lila_train.model.prepared import PreparedImage, require_finite
from lila_train.model.resize import Size, size_of, whole_patches
from lila_train.model.tiling import Region, Tiling, slabs
from stores.errors import LilaError

Fit = Literal["pad", "resize"]

MIN_VALUE, MAX_VALUE = -0.5, 1.5  # of float images: beyond [0, 1] by no more than a resize overshoots
MAX_UNTILED_PIXELS = 2048**2  # beyond it the caller must ask for tiles: all tokens of an image attend to each other
DINOV2_LICENSE = "apache-2.0"  # of the encoder inside published files


@float32_default()
def load(
    weights: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    encoder: str | None = None,
    encoder_weights: str | Path | None = None,
    fit: Fit | None = None,
) -> Lila:
    """Load a trained LILA model.

    Args:
        weights: `lila_vit_tiny`, which comes with this package; the folder of a run or its weights.safetensors, a
            folder of `save_pretrained`, a published .pt file, or a published name (`lila_dinov2_vits14`,
            `lila_dinov2_vitb14`, `lila_dinov2_vitl14`, `lila_dinov2_vitl14_kts`), downloaded once and its hash checked.
        device: where the model computes; "auto" is a GPU where there is one.
        dtype: type of the parameters; float32 if None. torch.bfloat16 or torch.float16 halve the model's size.
        encoder: name of the encoder, such as dinov2_vits14_reg, for a .pt file that holds a decoder alone.
        encoder_weights: a local file of the encoder's weights. By default the encoder is taken from the published file,
            or from where the run had it: the package, the Hugging Face hub or a local file.
        fit: how an image whose sides are not multiples of the patch size is brought to the encoder (see `Lila`): as the
            model was saved if None, else "pad".

    Returns:
        The model in eval mode, its parameters without gradients (`model.decoder.requires_grad_(True)` trains them):
        `model(images)` maps b×3×H×W (uint8, or float in [0, 1]) to b×d×H×W.

    Raises:
        LilaError: no such file or name, another format, a decoder alone without the name of its encoder, weights of
            another backbone, or an encoder whose SHA-256 differs from the recorded one.
    """
    if sharing.is_shared(weights):
        return Lila.from_pretrained(weights, device=device, dtype=dtype, encoder_weights=encoder_weights, fit=fit)
    device = devices.choose(device, mps=True) if isinstance(device, str) else device
    path, sha256 = released.find(weights)
    provenance = None
    if path.suffix == ".safetensors":
        saved = checkpoint.read(path)
        provenance = saved.provenance
        widths, tensors = provenance.widths, saved.decoder
        if encoder not in (None, provenance.encoder.network):
            raise LilaError(
                f"expected no other encoder than {provenance.encoder.network}, with which {path} was trained, found "
                f"{encoder}; leave it out"
            )
        vit = restore_encoder(provenance.encoder, encoder_weights, device)
        released.check_encoder(weights, provenance.encoder, vit)
    else:
        published = released.read(path)
        widths, tensors = published.widths, published.decoder
        network = released.encoder_name(encoder, weights, published)
        if encoder_weights is None and published.encoder:
            sha256 = sha256 or file_sha256(path)
            source = WeightSource(network, "file", str(path.resolve()), None, sha256, DINOV2_LICENSE)
            vit = encoder_from_tensors(network, published.encoder, source).to(device)
        else:
            vit = load_encoder(network, encoder_weights, device)
    if vit.width != widths.encoder:
        raise LilaError(
            f"the decoder in {path} reads {widths.encoder} channels, the encoder {vit.name} gives "
            f"{vit.width}; these weights belong to another backbone"
        )
    decoder = Decoder(widths)
    decoder.load_state_dict(tensors)
    model = _for_inference(Lila(vit, decoder, fit or "pad"), device, dtype)
    model.provenance = provenance
    return model


def _for_inference(model: Lila, device: torch.device, dtype: torch.dtype | None) -> Lila:
    """Return the model on a device, in eval mode and without gradients of its parameters."""
    if isinstance(dtype, str):
        raise LilaError(f"expected dtype=torch.float16, torch.bfloat16 or torch.float32, found the text {dtype!r}")
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


class GridAndMap(NamedTuple):
    """Both feature maps of a batch: the encoder's grid, and the decoder's map at the images' size."""

    grid: Float[Tensor, "b e h w"]
    map: Float[Tensor, "b d H W"]


class Lila(nn.Module, ModelHubMixin):
    """Pixel features of images of any size.

    Args:
        encoder: the frozen vision transformer.
        decoder: the trained DPT decoder.
        fit: how sides that are not multiples of the patch size are treated: "pad" repeats the last row and column and
            crops the features, "resize" stretches the image to the nearest multiples and decodes at its own size.
    """

    provenance: Provenance | None = None  # of the decoder's training run, where it is known

    def __init__(self, encoder: FrozenEncoder, decoder: Decoder, fit: Fit = "pad") -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.fit = fit

    @classmethod
    @float32_default()
    def from_encoder(
        cls,
        encoder: str,
        *,
        weights: str | Path | None = None,
        init: Literal["default", "pca"] = "default",
        images: AnyImage | Sequence[AnyImage] | None = None,
        decoder_width: int | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        fit: Fit = "pad",
    ) -> Lila:
        """Return an untrained model on any plain ViT of timm.

        Args:
            encoder: name of the encoder, as for `lila-cues build --encoder`: of timm, such as
                vit_small_patch14_dinov2, or a short one, such as dinov2_vits14 or tiny.
            weights: a local file of its weights, or "random:SEED"; None downloads them from the hub.
            init: "pca" starts the decoder as a linear upsampler of the encoder (docs/method.md), by the principal
                components of its tokens on `images`; "default" as PyTorch does, whose features mean nothing untrained.
            images: pictures of your data for init="pca", as `features` takes them; a few dozen give stable components.
            decoder_width: inner width of the decoder, of which a feature has half; None: by the encoder's width.
            seed: of the decoder's random weights.
            device, dtype, fit: as in `load`.

        Raises:
            LilaError: no such encoder or weights, no images for init="pca", or images without it.
        """
        pictures = images if isinstance(images, Sequence) else [] if images is None else [images]
        if init not in ("default", "pca") or bool(pictures) != (init == "pca"):
            raise LilaError(
                f'expected init="pca" with images=, pictures whose principal components the decoder starts from, or '
                f'init="default" without, found init="{init}" with {len(pictures)} images'
            )
        device = devices.choose(device, mps=True) if isinstance(device, str) else device
        vit = load_encoder(encoder, weights, device)
        with seeded(seed):
            decoder = Decoder(DecoderWidths.of_encoder(vit.width, decoder_width))
        model = _for_inference(cls(vit, decoder, fit), device, None)
        if pictures:
            with torch.no_grad():
                tokens = [vit(model._fit(cls._checked(each).to(device)))[2] for each in pictures]
            init_pca(decoder, torch.cat([each.movedim(1, -1).flatten(0, 2) for each in tokens]))
        settings = {"init": init, "seed": seed}
        model.provenance = Provenance(vit.source, decoder.widths, 0, settings, {}, checkpoint.versions())
        return _for_inference(model, device, dtype)

    def forward(
        self,
        images: Shaped[Tensor, "b 3 H W"],
        output_size: tuple[int, int] | None = None,
        return_grid: bool = False,
    ) -> Float[Tensor, "b d y x"] | GridAndMap:
        """Return features of RGB images: zero mean and unit variance over the d channels.

        Args:
            images: uint8, or floats in [0, 1] that are not normalized. The values are not checked here, since a look at
                them would wait for the device and break compilation.
            output_size: size (y, x) of the features; the images' own if None.
            return_grid: also return the encoder's grid, as `encode` gives it, from the same pass.

        Raises:
            LilaError: not a batch of RGB images.
        """
        fitted = self._fit(images)
        tokens, (height, width) = self.encoder(fitted), size_of(images)
        if self.fit == "resize":
            features = self.decoder(tokens, output_size or (height, width))
        elif output_size in (None, (height, width)):
            features = self.decoder(tokens, size_of(fitted))
        else:
            features = self._sampled(tokens, size_of(fitted), (height, width), output_size)
        if torch.compiler.is_compiling() and self.fit == "pad" and output_size is None:
            # inductor leaves out a slice that keeps all, and its cache then serves that graph to other sizes
            features = F.pad(features, (0, width - features.shape[-1], 0, height - features.shape[-2]))
        rows, columns = output_size or (height, width)
        features = features[..., :rows, :columns].contiguous()
        return GridAndMap(tokens[-1], features) if return_grid else features

    def encode(self, images: Shaped[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """Return the encoder's last tokens after the final LayerNorm, on its own grid."""
        return self.encoder.grid(self._fit(images))

    def pyramid(self, images: Shaped[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b f _ _"]]:
        """Return the decoder's fused maps, finest first, as a detection or segmentation head takes them.

        Their cells are a quarter, half, one and two patches wide: strides 4, 8, 16 and 32 px with patches of 16 px, and
        3.5, 7, 14 and 28 px with patches of 14; f is `decoder.widths.inner`.
        """
        return self.decoder.pyramid(self.encoder(self._fit(images)))

    def prepare(self, image: AnyImage) -> PreparedImage:
        """Compute what an image's features are read from, to look up points many times: see `PreparedImage.at`."""
        with torch.no_grad():
            batch = self._checked(image)
            fitted = self._fit(batch.to(self.device))
            tokens = self.encoder(fitted)
            size = size_of(batch) if self.fit == "resize" else size_of(fitted)
            return PreparedImage(self.decoder, self.decoder.coarse(tokens), size, size_of(batch), tokens[-1])

    def at(self, image: AnyImage, points: ArrayLike | Tensor) -> Float[Tensor, "n d"]:
        """Return the features of an image at n points (x, y) in pixels, without those of the other pixels.

        Equal to `features(image)[:, y, x]` at whole numbers, the pixels' centers. For many looks at one image,
        `prepare` it once. LilaError for a point outside of the image.
        """
        return self.prepare(image).at(points)

    @torch.no_grad()
    def features(
        self,
        image: AnyImage | list[AnyImage] | tuple[AnyImage, ...],
        *,
        tile: int | None = None,
        overlap: int | None = None,
        out: Any = None,
    ) -> Any:
        """Return the features d×H×W of one image, or a list of them of a list of images of any sizes.

        Args:
            image: a PIL image, an array H×W×3 or a tensor 3×H×W, or a list or tuple of them.
            tile: side of square tiles in pixels, for images that do not fit into memory. Tiles overlap and are blended;
                they do not see beyond their border, so values differ a little from those of the untiled image.
            overlap: least overlap of two tiles in pixels; a quarter of a tile by default.
            out: array of shape d×H×W to fill, such as a memory map or a Zarr array.

        Returns:
            `out` if it is given; a tensor on the model's device for a tensor, a float32 array for anything else.

        Raises:
            LilaError: not an image, floats beyond [−0.5, 1.5], too many pixels without tiles, an impossible overlap,
                `out` of another shape, or weights that give NaN or infinity.
        """
        if isinstance(image, list | tuple):
            if out is not None:
                raise LilaError(f"expected one image to fill out=, found a list of {len(image)}; pass them one by one")
            return [self.features(one, tile=tile, overlap=overlap) for one in image]
        batch = self._checked(image)
        height, width = size_of(batch)
        shape = (self.decoder.widths.out, height, width)
        if tile is None and height * width > MAX_UNTILED_PIXELS:
            raise LilaError(
                f"expected an image of at most {MAX_UNTILED_PIXELS / 1e6:.1f} million pixels to compute in one piece, "
                f"found {height}×{width}; pass tile=, of {64 * self.encoder.patch_size} px for example"
            )
        if out is not None and tuple(out.shape) != shape:
            raise LilaError(f"expected an array of shape {shape} to fill, found {tuple(out.shape)}")
        as_tensor = isinstance(image, Tensor)
        parts: Iterable[tuple[Region, Tensor]]

        def compute(part: Tensor) -> Tensor:
            return require_finite(self(part.to(self.device)), "the model")

        if tile is None:
            untiled = compute(batch)[0]
            if out is None:
                return untiled if as_tensor else untiled.float().cpu().numpy()
            parts = [((slice(None), slice(None)), untiled)]
        else:
            tiling = Tiling.of(tile, overlap, self.encoder.patch_size)
            parts = slabs(batch, compute, tiling)
        if out is None:
            out = torch.empty(shape, device=self.device) if as_tensor else np.empty(shape, np.float32)
        for (rows, columns), part in parts:
            out[:, rows, columns] = part if isinstance(out, Tensor) else part.float().cpu().numpy()
        return out

    def _sampled(self, tokens: Sequence[Tensor], fitted: Size, size: Size, output_size: Size) -> Tensor:
        """Decode a padded image at another size: its coarse map is sampled at the centers of the output's pixels."""
        coarse = self.decoder.coarse(tokens)
        axes = [  # places of the output's rows and columns in the padded image, from -1 to 1
            (2 * ((torch.arange(new, device=coarse.device) + 0.5) * old / new - 0.5) / max(1, padded - 1) - 1)
            for new, old, padded in zip(output_size, size, fitted, strict=True)
        ]
        y, x = torch.meshgrid(*axes, indexing="ij")
        places = torch.stack([x, y], dim=-1).to(coarse.dtype).expand(len(coarse), -1, -1, -1)

        def resize(coarse: Tensor, size: Size, begin: int, end: int) -> Tensor:
            return F.grid_sample(coarse, places[:, begin:end], padding_mode="border", align_corners=True)

        return self.decoder.tail(coarse, output_size, resize)

    @staticmethod
    def _checked(image: AnyImage) -> Shaped[Tensor, "1 3 H W"]:
        """Return one image as a batch; LilaError for floats that are no RGB in [0, 1]."""
        batch = to_tensor(image)
        if batch.is_floating_point():
            low, high = (float(value) for value in batch.aminmax())
            if not (low >= MIN_VALUE and high <= MAX_VALUE):  # nor NaN
                raise LilaError(
                    f"expected RGB in [0, 1], found values from {low:.4g} to {high:.4g}; pass uint8, or floats "
                    "divided by 255 and not normalized: the model subtracts mean and std itself"
                )
        return batch

    def _fit(self, images: Tensor) -> Tensor:
        """Return the images as floats, with sides that are multiples of the patch size."""
        images = to_float(images).to(self.encoder.mean.dtype)
        patch, (height, width) = self.encoder.patch_size, size_of(images)
        if self.fit == "resize":
            size = whole_patches((height, width), patch)
            return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        # (p - h % p) % p, since inductor fails on -h % p where the image size changes
        padding = (0, (patch - width % patch) % patch, 0, (patch - height % patch) % patch)
        return F.pad(images, padding, mode="replicate")

    @property
    def out_channels(self) -> int:
        """The number d of channels of a pixel's feature vector."""
        return self.decoder.widths.out

    @property
    def patch_size(self) -> int:
        """Side of the encoder's patches in pixels."""
        return self.encoder.patch_size

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of RGB in [0, 1] that the model subtracts from images itself."""
        return tuple(round(value, 6) for value in self.encoder.mean.flatten().tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of RGB in [0, 1] by which the model divides images itself."""
        return tuple(round(value, 6) for value in self.encoder.std.flatten().tolist())

    @property
    def config(self) -> dict[str, Any]:
        """What the model is made of, as JSON values."""
        widths = asdict(self.decoder.widths) | {"levels": list(self.decoder.widths.levels)}
        return {"encoder": self.encoder.name, "patch_size": self.patch_size, "fit": self.fit, "decoder": widths}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def identity(self) -> str:
        """Identifies the model in caches: hash of the decoder's values, the encoder's name and its file's hash."""
        encoder = self.encoder.source
        return f"{tensors_sha256(self.decoder.state_dict())[:16]}-{encoder.network}-{(encoder.sha256 or '')[:16]}"

    def generate_model_card(self, repo_id: str = "YOUR/MODEL") -> ModelCard:
        """Return the repository's README.md: what the model is, how to use it, its encoder and the licenses."""
        return sharing.model_card(self, repo_id)

    def _save_pretrained(self, save_directory: Path) -> None:
        sharing.save(self, save_directory)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        encoder_weights: str | Path | None = None,
        fit: Fit | None = None,
        **hub_options: Any,
    ) -> Lila:
        """Load a model from a folder of `save_pretrained` or a repository of the hub.

        Args:
            pretrained_model_name_or_path: the folder, or a repository's name such as "me/my-lila".
            device, dtype, encoder_weights, fit: as in `load`; `fit` is as the model was saved if None.
            hub_options: `revision`, `cache_dir`, `force_download`, `local_files_only` and `token`, as of
                `huggingface_hub.snapshot_download`.

        Raises:
            LilaError: no model there, the hub cannot be reached, or as `load`.
        """
        files = sharing.fetch(pretrained_model_name_or_path, **hub_options)
        weights, encoder_weights = files.weights, encoder_weights or files.encoder
        return load(weights, device=device, dtype=dtype, encoder_weights=encoder_weights, fit=fit or files.fit)


class NormalizedLila(nn.Module):
    """A model that is called as the published code's own: images normalized by ImageNet's mean and deviation.

    It returns both maps, `(grid, map)`; the model itself takes RGB in [0, 1] and returns the map alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Lila) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> GridAndMap:
        maps: GridAndMap = self.model(images * self.std + self.mean, return_grid=True)
        return maps
