"""The model on any image: accepted types and sizes, tiles, refusals."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image

import lila_train
from lila_cues.images import to_float
from lila_cues.networks import load_encoder
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.model.lila import MAX_UNTILED_PIXELS, Fit, Lila
from lila_train.model.tiling import Tiling
from stores.errors import LilaError
from tests.lila_train.inference.models import small_model, write_weights


@pytest.fixture(scope="module")
def model() -> Lila:
    return small_model()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft blobs: what a tile sees is not noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // 12), max(1, width // 12), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 9), (32, 48), (45, 31)])
def test_any_size_gives_features_of_that_size(model: Lila, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        found = model(torch.rand(2, 3, *size))
    assert found.shape == (2, 8, *size)
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(found.mean(dim=1), 0, atol=1e-5)


def test_a_loaded_model_builds_no_graph_unless_asked(weights: Path) -> None:
    loaded = lila_train.load(weights)
    images = torch.rand(1, 3, 24, 32)
    assert not loaded(images).requires_grad
    head = torch.nn.Linear(8, 2)
    head(loaded.features(images).movedim(0, -1)).sum().backward()  # refused for tensors of inference mode
    assert head.weight.grad is not None
    loaded(images.requires_grad_()).square().sum().backward()
    assert images.grad is not None


def test_the_default_dtype_of_other_code_changes_nothing(weights: Path) -> None:
    image = picture(24, 32)
    expected = lila_train.load(weights).features(image)
    torch.set_default_dtype(torch.bfloat16)
    try:
        loaded = lila_train.load(weights)
        assert {tensor.dtype for tensor in (*loaded.parameters(), *loaded.buffers())} == {torch.float32}
        np.testing.assert_array_equal(loaded.features(image), expected)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("scale", [255.0, -3.0])
def test_floats_that_are_no_rgb_are_refused(model: Lila, scale: float) -> None:
    image = picture(24, 32).astype(np.float32) / 255 * scale
    with pytest.raises(LilaError, match=r"expected RGB in \[0, 1\], found values from .*; pass uint8"):
        model.features(image)
    with pytest.raises(LilaError, match="not normalized"):
        model.features(torch.tensor(image).movedim(-1, 0))


def test_arrays_pictures_and_tensors_give_the_same(model: Lila) -> None:
    array = picture(40, 56)
    expected = model.features(array)
    assert isinstance(expected, np.ndarray)
    assert expected.shape == (8, 40, 56)
    assert expected.dtype == np.float32
    tensor = torch.tensor(array).permute(2, 0, 1)
    with torch.inference_mode():
        np.testing.assert_array_equal(model(tensor[None])[0], expected)
    for other in (Image.fromarray(array), array / np.float32(255), (array * np.uint16(257))):
        np.testing.assert_allclose(model.features(other), expected, atol=1e-3)
    for given in (tensor, tensor[None], tensor.float() / 255):
        found = model.features(given)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_gray_and_alpha_become_rgb(model: Lila) -> None:
    gray = picture(24, 24)[..., 0]
    expected = model.features(np.repeat(gray[..., None], 3, axis=2))
    for other in (gray, gray[..., None], Image.fromarray(gray), Image.fromarray(gray).convert("LA")):
        np.testing.assert_allclose(model.features(other), expected, atol=1e-4)
    layer = np.dstack([picture(24, 24), np.full((24, 24), 255, np.uint8)])
    layer[:8, :, 3] = 0
    white = layer[..., :3].copy()
    white[:8] = 255
    for given in (layer, Image.fromarray(layer), (layer / 255).astype(np.float32)):
        np.testing.assert_allclose(model.features(given), model.features(white), atol=1e-3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(2, 3, 8, 8), "expected one image as a tensor 3×H×W, found 2×3×8×8"),
        (torch.rand(3, 0, 8), "expected one image as a tensor"),
        (np.zeros((3, 20, 20), np.uint8), "channels come last"),
        (np.zeros((0, 20, 3), np.uint8), "expected an image as an array"),
        (np.zeros((4, 4, 3), np.int64), "expected uint8, uint16 or floats"),
    ],
)
def test_non_images_are_refused(model: Lila, image: torch.Tensor | np.ndarray, message: str) -> None:
    with pytest.raises(LilaError, match=message):
        model.features(image)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), "expected RGB images of shape b×3×H×W, found 3×8×8"),
        (torch.rand(1, 4, 8, 8), "expected RGB images of shape b×3×H×W, found 1×4×8×8"),
        (torch.rand(0, 3, 8, 8), "expected RGB images of shape b×3×H×W, found 0×3×8×8"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), r"expected uint8 or floating-point images, found torch\.int64"),
    ],
)
def test_non_batches_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(LilaError, match=message):
        to_float(images)


@pytest.mark.parametrize("size", [(100, 260), (260, 100), (90, 90)])
def test_tiles_are_close_to_the_untiled_image_and_show_no_seam(model: Lila, size: tuple[int, int]) -> None:
    image = picture(*size)
    untiled, tiled = model.features(image), model.features(image, tile=96)
    cosine = (untiled * tiled).mean(axis=0)
    assert np.median(cosine) > 0.9
    assert np.percentile(cosine, 5) > 0.7
    np.testing.assert_allclose(tiled.std(axis=0), 1, atol=1e-3)
    abutting = model.features(image, tile=96, overlap=0)
    for axis in (1, 2):
        smooth, seamed = (_steps(found, axis) / _steps(untiled, axis) for found in (tiled, abutting))
        assert smooth.max() < 1.6
        assert seamed.max() > smooth.max() or size[axis - 1] <= 96


def _steps(features: np.ndarray, axis: int) -> np.ndarray:
    """The mean change from each row (or column) to the next."""
    return np.abs(np.diff(features, axis=axis)).mean(axis=(0, 3 - axis))


def test_a_tile_as_large_as_the_image_changes_nothing(model: Lila) -> None:
    image = picture(45, 70)
    np.testing.assert_allclose(model.features(image, tile=80), model.features(image), atol=1e-3)


def test_features_fill_a_given_array(model: Lila, tmp_path: Path) -> None:
    image = picture(64, 120)
    disk = np.lib.format.open_memmap(tmp_path / "f.npy", "w+", np.float16, (8, 64, 120))
    assert model.features(image, tile=48, out=disk) is disk
    np.testing.assert_allclose(np.asarray(disk, np.float32), model.features(image, tile=48), atol=2e-3)
    with pytest.raises(LilaError, match=r"expected an array of shape \(8, 64, 120\) to fill"):
        model.features(image, out=np.zeros((8, 64, 64)))


def test_tiles_cover_every_pixel_with_weights_that_add_up_to_one() -> None:
    for length in (1, 40, 96, 97, 104, 150, 500, 1001):
        for overlap in (0, 8, 24, 88):
            tiling = Tiling.of(90, overlap, 8)
            assert tiling.tile == 96
            starts, total = tiling.starts(length), np.zeros(length + 96)
            assert all(start % 8 == 0 for start in starts)
            assert all(b - a <= 96 - overlap for a, b in pairwise(starts))
            for start, weights in zip(starts, tiling.weights(length), strict=True):
                total[start : start + 96] += weights.numpy()
            np.testing.assert_allclose(total[:length], 1, atol=1e-6)
    with pytest.raises(LilaError, match="expected tiles of 96 px to overlap by 0 to 88 px, found an overlap of 89"):
        Tiling.of(96, 89, 8)


def test_too_large_an_image_asks_for_tiles(model: Lila) -> None:
    panorama = torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 400, 30_000)
    assert panorama[0].numel() > MAX_UNTILED_PIXELS
    with pytest.raises(LilaError, match="pass tile=, of 512 px for example"):
        model.features(panorama)


def test_a_checkpoint_loads_and_gives_the_same(model: Lila, tmp_path: Path) -> None:
    loaded = lila_train.load(write_weights(tmp_path / "weights.safetensors", model))
    image = picture(30, 41)
    np.testing.assert_array_equal(loaded.features(image), model.features(image))


def test_weights_of_another_backbone_are_refused(model: Lila, weights: Path, tmp_path: Path) -> None:
    other = load_encoder("vit_tiny_patch16_224", "random:0")
    safetensors.torch.save_file(other.vit.state_dict(), tmp_path / "encoder.safetensors")
    with pytest.raises(
        LilaError, match="expected weights that lila-train wrote, found a safetensors file of something"
    ):
        lila_train.load(tmp_path / "encoder.safetensors")
    with pytest.raises(LilaError, match=r"encoder\.safetensors"):
        lila_train.load(weights, encoder_weights=tmp_path / "encoder.safetensors")
    decoder = Decoder(DecoderWidths.of_encoder(other.width, inner=16))
    mixed = write_weights(tmp_path / "mixed.safetensors", Lila(model.encoder, decoder))
    with pytest.raises(LilaError, match="these weights belong to another backbone"):
        lila_train.load(mixed)


def test_half_precision_weights_take_any_image(model: Lila) -> None:
    half = small_model().to(torch.bfloat16)
    found = half(torch.randint(0, 256, (1, 3, 40, 24), dtype=torch.uint8))
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_model_takes_images_of_any_size(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Symbolic sizes, whole patches first; with one block of the encoder, since a block compiles for some seconds."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the compiler cannot look into its checks
    loaded = lila_train.load(weights)
    loaded.encoder.vit.blocks, loaded.encoder.taps = loaded.encoder.vit.blocks[:1], (0, 0, 0, 0)
    compiled = torch.compile(loaded, dynamic=True)
    for size in ((24, 32), (45, 31), (100, 70)):
        images = torch.rand(1, 3, *size)
        torch.testing.assert_close(compiled(images), loaded(images), atol=1e-4, rtol=0)


@pytest.mark.parametrize("fit", ["pad", "resize"])
@pytest.mark.parametrize("size", [(32, 48), (37, 50), (9, 70)])
def test_points_are_those_of_the_map(model: Lila, fit: Fit, size: tuple[int, int]) -> None:
    model = Lila(model.encoder, model.decoder, fit)
    image = torch.rand(3, *size)
    points = torch.stack([torch.randint(0, side, (60,)) for side in size[::-1]], dim=1)
    points[:4] = torch.tensor([[0, 0], [size[1] - 1, 0], [0, size[0] - 1], [size[1] - 1, size[0] - 1]])
    expected = model.features(image)[:, points[:, 1], points[:, 0]].T
    torch.testing.assert_close(model.at(image, points), expected, atol=2e-5, rtol=0)
    prepared = model.prepare(image)
    torch.testing.assert_close(prepared.at(points.tolist()), expected, atol=2e-5, rtol=0)
    assert torch.equal(prepared.grid, model.encode(image[None]))
    between = prepared.at([[3.5, 2.0]])
    assert between.mean().abs() < 1e-5
    assert 0 < (between - prepared.at([[3, 2]])).norm() < between.norm()


@pytest.mark.parametrize("points", [[[50.0, 0]], [[-0.1, 3]], [[0, 37]], [1, 2], [[1, 2, 3]], [[float("nan"), 1]]])
def test_points_outside_of_the_image_are_refused(model: Lila, points: list[object]) -> None:
    with pytest.raises(LilaError, match="expected points"):
        model.at(torch.rand(3, 37, 50), points)


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_features_have_the_size_that_is_asked_for(model: Lila, fit: Fit) -> None:
    model, images = Lila(model.encoder, model.decoder, fit), torch.rand(2, 3, 37, 50)
    native = model(images)
    assert torch.equal(model(images, output_size=(37, 50)), native)
    half, double = model(images, output_size=(19, 25)), model(images, output_size=(74, 100))
    assert half.shape == (2, 8, 19, 25)
    assert double.shape == (2, 8, 74, 100)
    shrunk = F.interpolate(double, (37, 50), mode="area")
    assert F.cosine_similarity(shrunk, native, dim=1).mean() > 0.9
    for features in (native, half, double, model(images, return_grid=True).map):
        assert features.is_contiguous()
        torch.testing.assert_close(features.mean(1), torch.zeros_like(features[:, 0]), atol=1e-5, rtol=0)


def test_the_pyramid_has_four_strides(model: Lila) -> None:
    maps = model.pyramid(torch.rand(1, 3, 64, 96))
    assert model.patch_size == 8
    assert [tuple(each.shape[2:]) for each in maps] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    assert {each.shape[1] for each in maps} == {model.decoder.widths.inner}


def test_a_list_of_images_of_any_kind_and_size_gives_a_list(model: Lila) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    images = [array, Image.fromarray(array), torch.rand(3, 16, 24)]
    found = model.features(images)
    assert [type(each) for each in found] == [np.ndarray, np.ndarray, torch.Tensor]
    assert [each.shape for each in found] == [(8, 20, 30), (8, 20, 30), (8, 16, 24)]
    np.testing.assert_array_equal(found[0], model.features(array))
    with pytest.raises(LilaError, match="expected one image to fill out="):
        model.features(images, out=np.empty((8, 20, 30)))


@pytest.mark.parametrize("wrong", [np.zeros((20, 30, 3), np.uint8), [torch.rand(3, 16, 16)], "image.png", None])
def test_the_model_says_what_it_takes(model: Lila, wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(LilaError, match=r"expected a tensor b×3×H×W, found a .*; `model.features` takes pictures"):
        model(wrong)


def test_the_name_of_a_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(LilaError, match=r"expected dtype=torch.float16.*found the text 'float16'"):
        Lila.from_encoder("tiny", dtype="float16")  # type: ignore[arg-type]


def test_a_model_says_what_it_is(model: Lila) -> None:
    assert model.out_channels == 8
    assert json.loads(json.dumps(model.config))["encoder"] == "tiny"
    assert model.config["decoder"]["out"] == 8
    assert (model.mean, model.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_an_untrained_model_stands_on_any_vit_by_name(tmp_path: Path) -> None:
    """Of timm, by its name and a local file; the decoder is that of its seed."""
    drawn = load_encoder("vit_tiny_patch16_224", "random:1")
    safetensors.torch.save_file(drawn.vit.state_dict(), tmp_path / "mine.safetensors")
    found = Lila.from_encoder("vit_tiny_patch16_224", weights=tmp_path / "mine.safetensors", decoder_width=16, seed=3)
    again = Lila.from_encoder("vit_tiny_patch16_224", weights="random:1", decoder_width=16, seed=3)
    other = Lila.from_encoder("vit_tiny_patch16_224", weights="random:1", decoder_width=16, seed=4)
    images = torch.rand(1, 3, 33, 40)
    assert found.encoder.source.origin == "file"
    assert found.patch_size == 16
    assert found(images).shape == (1, 8, 33, 40)
    torch.testing.assert_close(found(images), again(images))
    assert not torch.allclose(other(images), again(images), atol=0.1)
    assert Lila.from_encoder("tiny", dtype=torch.bfloat16)(images).dtype == torch.bfloat16


def test_a_model_that_starts_by_pca_upsamples_its_encoder() -> None:
    """Its features tell pixels apart as the encoder's grid does, which those of an untrained decoder do not."""
    pictures = [picture(64, 96, seed) for seed in range(4)]
    images = torch.from_numpy(np.stack(pictures)).movedim(-1, 1)

    def agreement(model: Lila) -> float:
        """Correlation of the cosine similarities of cells, by features and by the grid of the third tapped block."""
        grid = model.encoder(to_float(images))[2].flatten(2)
        cells = F.adaptive_avg_pool2d(model(images), (8, 12)).flatten(2)
        grid = grid - grid.mean((0, 2), keepdim=True)
        alike = [F.normalize(x, dim=1).mT @ F.normalize(x, dim=1) for x in (grid, cells)]
        return float(torch.corrcoef(torch.stack([x.flatten() for x in alike]))[0, 1])

    mixed = [pictures[0], Image.fromarray(pictures[1]), *images[2:]]
    untrained, started = Lila.from_encoder("tiny"), Lila.from_encoder("tiny", init="pca", images=mixed)
    assert started.out_channels == untrained.out_channels
    assert agreement(started) > 0.6
    assert agreement(untrained) < 0.4


@pytest.mark.parametrize(
    ("init", "images"), [("pca", None), ("default", [np.zeros((9, 9, 3), np.uint8)]), ("pac", None), ("pca", [])]
)
def test_pca_needs_images(init: Any, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(LilaError, match=f'expected init="pca" with images=, .* found init="{init}" with'):
        Lila.from_encoder("tiny", init=init, images=images)
    with pytest.raises(LilaError, match="expected a PIL image, an array H×W×3 or a tensor 3×H×W, found a str"):
        Lila.from_encoder("tiny", init="pca", images=["image.png"])  # type: ignore[list-item]
