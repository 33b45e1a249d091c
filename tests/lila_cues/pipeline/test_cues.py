"""Extra cues: surface normals of scenes whose geometry is known, and a store that keeps them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import stores
from lila_cues.pipeline.build import build_local, open_store, store_spec
from lila_cues.pipeline.cues import DERIVED, CueExtractor, surface_normals
from lila_cues.pipeline.frames import ClipFrames
from lila_cues.pipeline.task import Worker, load_recompute
from lila_cues.sampling import select_frames
from lila_cues.viz import inspection
from stores.encodings import FixedPoint
from stores.errors import LilaError, StoreError
from stores.spec import FrameMaps, StoreSpec
from stores.verify import check_documents, check_recomputed, check_task
from tests.lila_cues import barcodes, small_networks
from tests.stores import worlds

FIELD_OF_VIEW_DEG = 60.0
HEIGHT, WIDTH = 24, 32
WITH_NORMALS = small_networks.CONFIG.replace(extra_cues=("normals",))


def inverse_depth_of_plane(normal: torch.Tensor, distance: float) -> torch.Tensor:
    """1/Z of the plane n·X = −distance through a pinhole camera, by intersecting each pixel's ray with it."""
    focal = WIDTH / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2)
    v, u = torch.meshgrid(torch.arange(HEIGHT) - (HEIGHT - 1) / 2, torch.arange(WIDTH) - (WIDTH - 1) / 2, indexing="ij")
    rays = torch.stack((u / focal, v / focal, torch.ones_like(u)))
    depth = -distance / (normal[:, None, None] * rays).sum(0)
    assert (depth > 0).all()
    return 1 / depth


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(0.1, 50))
def test_a_plane_has_one_normal_wherever_one_looks_and_however_far_it_is(x: float, y: float, scale: float) -> None:
    normal = F.normalize(torch.tensor([x, y, -1.0]), dim=0)
    found = surface_normals(scale * inverse_depth_of_plane(normal, 3.0)[None], FIELD_OF_VIEW_DEG)
    torch.testing.assert_close(found, normal.view(1, 3, 1, 1).expand_as(found), atol=1e-4, rtol=1e-4)


def test_normals_are_of_unit_length_and_face_the_camera_whatever_depth_is() -> None:
    torch.manual_seed(0)
    found = surface_normals(torch.rand(3, HEIGHT, WIDTH) * 100)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3, HEIGHT, WIDTH))
    assert (found[:, 2] <= 0).all()
    far = surface_normals(torch.zeros(1, HEIGHT, WIDTH))
    assert torch.equal(far[0, :, 3, 4], torch.tensor([0, 0, -1.0]))


def test_an_unknown_cue_is_refused() -> None:
    with pytest.raises(LilaError, match="expected --extra-cues to be some of normals, found depth"):
        store_spec(small_networks.CONFIG.replace(extra_cues=("normals", "depth")), 8, 24)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    videos = tmp_path_factory.mktemp("videos")
    for index in range(2):
        barcodes.write(videos / f"{index}.mp4", barcodes.Clip(frames=20, size=(72, 96)))
    options, networks = small_networks.run_options(videos), small_networks.networks()
    path = tmp_path_factory.mktemp("normals") / "s.zarr"
    store = open_store(path, WITH_NORMALS, options, networks.facts(WITH_NORMALS, "cpu"), ["0.mp4", "1.mp4"])
    with Worker(WITH_NORMALS, options, networks, 1) as worker:
        assert [report.complete for report in build_local(store, worker, range(store.n_tasks))] == [2]
    return store


def test_a_build_keeps_the_normals_of_its_depth(built: stores.CueStore) -> None:
    depth, normals = built.read("depth", 0), built.read("normals", 0)
    again = surface_normals(torch.from_numpy(depth)).numpy()
    assert normals.shape == (depth.shape[0], 3, *depth.shape[1:])
    assert np.median(np.abs(normals - again)) < 1 / 127
    assert (np.abs(normals - again) < 0.1).mean() > 0.99  # depth was rounded to float16 before `again`


def test_everything_that_looks_into_a_store_knows_them(built: stores.CueStore) -> None:
    pair = built.pair(1, 0)
    np.testing.assert_array_equal(pair["normals"], built.read("normals", 1)[list(pair.frames)])
    assert built.pair(1, 0, cues=["depth"]).extra == {}
    np.testing.assert_array_equal(built.dask("normals")[1].compute(), built.read("normals", 1))
    assert built.xarray()["normals"].attrs["units"].startswith("unit normals")
    assert findings(built) == []
    assert inspection.pair_row(built, 0, 0).figures[-1].name == "normals, t"


def findings(store: stores.CueStore) -> list[str]:
    """What is damaged; a status array behind the ledger is not."""
    found = [*check_documents(store), *(each for task in range(store.n_tasks) for each in check_task(store, task))]
    return [str(each) for each in found if each.kind != "note"]


def test_a_deep_check_computes_them_again(built: stores.CueStore) -> None:
    again = load_recompute(built, networks=small_networks.networks())(0)
    turned = replace(again, extra={"normals": -again["normals"]})
    for cues, expected in ((again, 0), (turned, 1)):
        found = [each for each in check_recomputed(built, 0, cues) if "normals" in str(each)]
        assert len(found) == expected


def test_a_store_without_them_is_refused(built: stores.CueStore, tmp_path: Path) -> None:
    plain, spec = store_spec(small_networks.CONFIG, 8, 24), store_spec(WITH_NORMALS, 8, 24)
    stores.create(tmp_path / "s.zarr", plain, ["a"], {}, {})
    with pytest.raises(StoreError, match="extra"):
        stores.open_or_create(tmp_path / "s.zarr", spec, ["a"], {}, {})
    assert StoreSpec.from_dict(spec.to_dict()) == spec
    assert "extra" not in plain.to_dict()


@pytest.mark.parametrize(("value", "wrong"), [(0.5, False), (1.0, False), (-1.5, True)])
def test_values_beyond_the_limits_are_found(tmp_path: Path, value: float, wrong: bool) -> None:
    coarse = FixedPoint(1 / 60, "int8")  # has room for 2.1
    spec = replace(worlds.SPEC, extra=(replace(DERIVED["normals"].maps, encoding=coarse),))
    store = worlds.create(tmp_path / "s.zarr", 1, spec)
    shape = store.arrays["normals"].shape
    with store.lock_task(0) as writer:
        assert writer is not None
        cues = replace(worlds.cues(0), extra={"normals": np.full(shape, value, np.float32)})
        worlds.add(store, writer, 0, cues)
    assert ["values beyond -1 to 1" in found for found in findings(store)] == [True] * wrong


@pytest.mark.parametrize("name", ["../etc", "Depth", "", "a/b"])
def test_a_name_cannot_lead_out_of_the_store(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        FrameMaps(name, ("x",), "", DERIVED["normals"].maps.encoding, (0.0, 1.0), 0.1)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    maps = replace(DERIVED["normals"].maps, name="depth")
    with pytest.raises(StoreError, match="two parts of a store have the same name"):
        stores.create(tmp_path / "s.zarr", replace(worlds.SPEC, extra=(maps,)), ["a"], {}, {})


def test_each_network_takes_images_of_its_size() -> None:
    """Depth comes back to the cue grid, and flow too, in its pixels; the encoder's grid is finer."""
    config = small_networks.CONFIG.replace(encoder_size=60, depth_size=40, flow_size=64)
    extractor = CueExtractor(small_networks.networks(), config, "cpu")
    assert extractor.sizes == {"cue": (32, 32), "encoder": (64, 64), "depth": (40, 40), "flow": (64, 64)}
    gray = np.arange(config.frames, dtype=np.uint8)[:, None, None, None] * np.uint8(20)  # brighter in every frame
    images = {size: gray.repeat(size[0], 1).repeat(size[1], 2).repeat(3, 3) for size in extractor.sizes.values()}
    chosen = select_frames(0, "a", 20, config.frames, config.pairs, 1)
    frames = ClipFrames(
        "a", chosen, np.zeros(config.frames), np.zeros((config.frames, 48, 48, 3), np.uint8), images, None
    )
    (found,) = extractor.predict([frames])
    assert extractor.geometry.encoder == (8, 8)
    assert found.raw.shape == (6, 5, 8, 8)
    q = torch.from_numpy(gray.reshape(-1)) / 25.5
    torch.testing.assert_close(found.inverse_depth, q[:, None, None].expand(-1, 32, 32))
    change = torch.from_numpy(np.diff(chosen.pair_frames.astype(int)).reshape(-1)) * 20 / 255
    expected = torch.stack([change, -2 * change], dim=1)[:, :, None, None].expand(-1, -1, 32, 32)
    torch.testing.assert_close(found.forward, expected * 32 / 64)  # half as many pixels
