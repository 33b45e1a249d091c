"""Crops in batch equal crops one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lila_train.training.crops import Crops


def crops(*boxes: tuple[int, int, int, bool], base: tuple[int, int], size: int) -> Crops:
    top, left, side, hflip = (torch.tensor(column) for column in zip(*boxes, strict=True))
    return Crops(top, left, side, hflip, base, size)


def one_by_one(image: Tensor, top: int, left: int, side: int, hflip: bool, size: int) -> Tensor:
    crop = image[None, :, top : top + side, left : left + side]
    resized = F.interpolate(crop, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return resized.flip(-1) if hflip else resized


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 40), st.integers(0, 8), st.integers(0, 20), st.booleans(), st.integers(5, 50))
def test_images_are_cropped_and_resized_as_if_alone(side: int, top: int, left: int, hflip: bool, size: int) -> None:
    images = torch.rand(2, 3, 48, 60)
    found = crops((top, left, side, hflip), (0, 0, 48, False), base=(48, 60), size=size).resize_image(images)
    torch.testing.assert_close(found[0], one_by_one(images[0], top, left, side, hflip, size), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], one_by_one(images[1], 0, 0, 48, False, size), atol=1e-5, rtol=1e-4)


def test_maps_are_sampled_as_by_grid_sample() -> None:
    maps, (top, left, side) = torch.rand(1, 4, 20, 30), (12, 31, 40)
    found = crops((top, left, side, False), base=(60, 90), size=25).sample_map(maps)
    steps = (torch.arange(25) + 0.5) / 25 * side
    y, x = torch.meshgrid((top + steps) / 60 * 2 - 1, (left + steps) / 90 * 2 - 1, indexing="ij")
    grid = torch.stack((x, y), -1)[None]
    expected = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_image_and_map_stay_aligned() -> None:
    """A ramp in x gives the same values through both, flipped or not."""
    ramp = (torch.arange(96) + 0.5).expand(2, 1, 96, 96) / 96
    coarse = (torch.arange(48) + 0.5).expand(2, 1, 48, 48) / 48
    both = crops((10, 20, 64, False), (10, 20, 64, True), base=(96, 96), size=32)
    image, cue = both.resize_image(ramp), both.sample_map(coarse)
    torch.testing.assert_close(image[..., 1:-1], cue[..., 1:-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(image[0], image[1].flip(-1))


def test_a_constant_stays_constant() -> None:
    crop = crops((3, 5, 41, True), base=(48, 60), size=17)
    assert crop.resize_image(torch.full((1, 1, 48, 60), 0.7)).numpy() == pytest.approx(0.7)
    assert crop.sample_map(torch.full((1, 1, 12, 15), 0.7)).numpy() == pytest.approx(0.7)
