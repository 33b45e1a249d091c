"""Encoding errors stay within the stated bounds; values that cannot be represented are missing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stores import StoreSpec, encodings
from stores.encodings import (
    Blosc,
    Cast,
    ChecksumError,
    FixedPoint,
    PerMapInt8,
    decode,
    encode,
    error_bound,
)
from stores.spec import DEPTH, FEATURES, FLOW, RGB
from tests.stores import worlds

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
MAPS = arrays.arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3), elements=FLOATS)


@settings(deadline=None)
@given(MAPS)
def test_flow_error_is_half_a_step_or_the_value_is_missing(values: np.ndarray) -> None:
    decoded = decode(FLOW, encode(FLOW, values)[0])
    fits = np.abs(values) <= 32766 / 64
    assert np.isnan(decoded[~np.isfinite(values)]).all()
    assert (np.abs(decoded[fits] - values[fits].astype(np.float64)) <= 1 / 128).all()
    beyond = decoded[~fits]
    assert (np.isnan(beyond) | (np.abs(beyond) > 511.9)).all()


@settings(deadline=None)
@given(MAPS)
def test_depth_error_is_relative_or_the_value_is_missing(values: np.ndarray) -> None:
    decoded = decode(DEPTH, encode(DEPTH, values)[0])
    fits = np.abs(values) <= 65504
    assert np.isnan(decoded[~fits]).all()
    exact = values[fits].astype(np.float64)
    assert (np.abs(decoded[fits] - exact) <= np.maximum(np.abs(exact) / 2048, 2.0**-25)).all()


@settings(deadline=None)
@given(MAPS)
def test_feature_error_is_half_a_step_of_the_map(values: np.ndarray) -> None:
    stored, scales = encode(FEATURES, values)
    decoded = decode(FEATURES, stored, scales)
    finite = np.abs(values) <= 1e38
    largest = np.where(finite, np.abs(values.astype(np.float64)), 0).max(axis=(-2, -1), keepdims=True)
    error = np.abs(decoded - values.astype(np.float64), where=finite, out=np.zeros(values.shape))
    assert np.isnan(decoded[~finite]).all()
    assert (error <= largest / 254 * (1 + 1e-4) + 2e-43).all()


@pytest.mark.parametrize("encoding", [FLOW, DEPTH, FixedPoint(1.0, "int8")])
def test_stated_bounds_hold(encoding: FixedPoint | Cast) -> None:
    values = np.random.default_rng(0).normal(0, 20, 10_000).astype(np.float32)
    error = np.abs(decode(encoding, encode(encoding, values)[0]) - values.astype(np.float64))
    bound = error_bound(encoding, values)
    assert (error <= bound).all()
    assert error.max() > 0.5 * bound.max()  # the bound is not idle


def test_stated_bound_of_per_map_int8_holds() -> None:
    values = np.random.default_rng(0).normal(0, 2, (3, 8, 30, 30)).astype(np.float32)
    stored, scales = encode(FEATURES, values)
    error = np.abs(decode(FEATURES, stored, scales) - values).max(axis=(-2, -1))
    assert (error <= error_bound(FEATURES, scales)).all()
    assert (error > 0.8 * error_bound(FEATURES, scales)).all()


EDGES = np.array(
    [0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 3e38, -1e38, 1e-45, 65504, 65520, 511.99, -512, 0.5, 1.5],
    np.float32,
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("encoding", [FLOW, DEPTH, FEATURES, FixedPoint(1 / 127, "int8")])
def test_a_tensor_is_encoded_to_the_bits_of_an_array(encoding: encodings.Encoding, device: str) -> None:
    random = np.random.default_rng(0).normal(0, 1, (3, len(EDGES), 400)) * np.logspace(-4, 4, 400)
    random *= np.logspace(-40, 34, len(EDGES))[:, None]
    values = np.concatenate([np.tile(EDGES, (3, 1))[..., None], random.astype(np.float32)], axis=-1)[:, :, None]
    on_host, scales = encode(encoding, values)
    on_device, device_scales = encode(encoding, torch.from_numpy(values).to(device))
    assert on_device.cpu().numpy().tobytes() == on_host.tobytes()
    if scales is not None:
        assert device_scales.cpu().numpy().tobytes() == scales.tobytes()


def test_colors_are_lossless() -> None:
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(decode(RGB, encode(RGB, values)[0]), values)
    assert not error_bound(RGB, values).any()


EVERY_INT8 = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16)
EVERY_HALF = np.arange(2**16).astype(np.uint16).view(np.float16)
SCALES = np.array([0, 2.0**-149, 1e-40, 0.1, 1 / 3, 1e38 / 127], np.float32)


@pytest.mark.parametrize(
    ("encoding", "stored", "scales"),
    [
        (RGB, EVERY_INT8.view(np.uint8), None),
        (DEPTH, np.where(np.isnan(EVERY_HALF), np.nan, EVERY_HALF).astype(np.float16), None),  # one NaN, as encoded
        (FLOW, np.arange(-(2**15), 2**15).astype(np.int16), None),
        (FixedPoint(0.1, "int8"), EVERY_INT8, None),
        (FEATURES, np.repeat(EVERY_INT8, len(SCALES), axis=0), SCALES),
    ],
)
def test_torch_decodes_the_same_bits(
    encoding: encodings.Encoding, stored: np.ndarray, scales: np.ndarray | None
) -> None:
    decoded = decode(encoding, stored, scales)
    other = decode(encoding, torch.from_numpy(stored), None if scales is None else torch.from_numpy(scales)).numpy()
    assert other.dtype == decoded.dtype
    np.testing.assert_array_equal(other.view(np.uint8), decoded.view(np.uint8))


@pytest.mark.parametrize("encoding", [Cast("float16", Blosc("lz4", 5, "bitshuffle")), FixedPoint(0.25), PerMapInt8()])
def test_encoding_to_json_and_back(encoding: encodings.Encoding) -> None:
    spec = replace(worlds.SPEC, depth=encoding)
    assert StoreSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_flipped_bit_of_a_chunk_is_detected(content: bytes, data: st.DataObject) -> None:
    chunk = np.frombuffer(content, np.uint8)
    payload = bytearray(Blosc().encode(chunk))
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ChecksumError, match="its checksum does not match"):
        Blosc().decode_into(bytes(payload), np.empty_like(chunk))


def test_too_few_bytes_for_a_chunk() -> None:
    with pytest.raises(ChecksumError, match="3 bytes are too few for a chunk"):
        Blosc().decode_into(bytes(3), np.empty(1, np.uint8))
