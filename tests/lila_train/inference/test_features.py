"""`lila-train features`: formats, batches, PCA bases, resuming from the cache, bad files among good ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import torch
import xarray as xr
import zarr
from click.testing import Result
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import lila_train
from lila_cues.images import read_image, resize, to_tensor
from lila_cues.video.reader import VideoFrames
from lila_cues.viz.pictures import Picture, write_label_png
from lila_train.cli import app
from lila_train.inference.compute import FeatureComputer
from lila_train.inference.config import FeatureConfig
from lila_train.model.lila import Lila
from stores.errors import LilaError
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip
from tests.lila_train.inference.models import small_model, write_test_video, write_weights

FORMATS = ["--format", "npz", "--format", "safetensors", "--format", "zarr", "--format", "pca"]
SEVERAL = "npz, safetensors, zarr or pca, or several with commas between"


def features(weights: Path, out: Path, *arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, ["features", *words, "--weights", str(weights), "--out", str(out)])


def done(weights: Path, out: Path, *arguments: object) -> None:
    result = features(weights, out, *arguments)
    assert result.exception is None, result.exception


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of one size, one of another, a video."""
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (37, 53)), ("b.png", (37, 53)), ("sub/c.png", (48, 24))):
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name)
    write_test_video(root / "v.mp4")
    return root


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that went through the network."""
    sizes: list[int] = []
    original = FeatureComputer.untiled

    def counting(self: FeatureComputer, pictures: Sequence[Picture]) -> Tensor:
        sizes.append(len(pictures))
        return original(self, pictures)

    monkeypatch.setattr(FeatureComputer, "untiled", counting)
    return sizes


def test_every_format_holds_the_features_of_the_model(folder: Path, weights: Path, tmp_path: Path) -> None:
    done(weights, tmp_path, folder, *FORMATS)
    os.umask(umask := os.umask(0))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*") if path.is_file()} == {0o666 & ~umask}
    model = lila_train.load(weights)
    for name in ("a", "sub/c"):
        expected = model.features(read_image(folder / f"{name}.png"))
        kept = [
            np.load(tmp_path / f"{name}.npz")["features"],
            safetensors.numpy.load_file(tmp_path / f"{name}.safetensors")["features"],
            zarr.open_array(tmp_path / f"{name}.zarr/features", mode="r")[...],
        ]
        for found in kept:
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, expected, atol=4e-3, rtol=2e-3)
        assert read_image(tmp_path / f"{name}_pca.png").shape == (*expected.shape[1:], 3)
    frames = list(VideoFrames(folder / "v.mp4"))
    array = zarr.open_array(tmp_path / "v.zarr/features", mode="r")
    assert array.shape == (7, 8, 36, 50)
    for index in (0, 6):
        expected = model.features(frames[index])
        for found in (np.load(tmp_path / f"v/{index:05d}.npz")["features"], array[index]):
            np.testing.assert_allclose(found, expected, atol=4e-3, rtol=2e-3)
    assert [p.shape for p in VideoFrames(tmp_path / "v_pca.mp4")] == [(36, 50, 3)] * 7


@pytest.mark.gpu
def test_a_gpu_gives_the_features_of_a_cpu(weights: Path, folder: Path, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        done(weights, tmp_path / device, folder / "a.png", "--format", "npz", "--device", device)
    expected, found = (np.load(tmp_path / device / "a.npz")["features"] for device in ("cpu", "cuda"))
    np.testing.assert_allclose(found, expected, atol=0.02)
    loaded = lila_train.load(weights, device="cuda").features(read_image(folder / "a.png"))
    np.testing.assert_allclose(loaded, expected, atol=0.02)


def test_batches_change_nothing(folder: Path, weights: Path, tmp_path: Path, computed: list[int]) -> None:
    done(weights, tmp_path / "one", folder, "--format", "npz", "--batch", 1)
    computed.clear()
    done(weights, tmp_path / "four", folder, "--format", "npz", "--batch", 4)
    assert computed == [2, 1, 4, 3]
    for path in (tmp_path / "one").rglob("*.npz"):
        other = tmp_path / "four" / path.relative_to(tmp_path / "one")
        np.testing.assert_allclose(np.load(path)["features"], np.load(other)["features"], atol=4e-3)


@pytest.mark.parametrize(
    ("device", "batch", "free", "shape", "size", "tile"),
    [
        ("cpu", None, 0, (480, 854), 1, None),
        ("cpu", 4, 0, (480, 854), 4, None),
        ("cuda", None, 80e9, (480, 854), 2, None),
        ("cuda", None, 80e9, (224, 224), 20, None),
        ("cuda", None, 80e9, (2049, 2048), 1, 512),
        ("cuda", None, 8 * 32 * 300**2, (224, 224), 1, None),
        ("cuda", None, 8 * 32 * 300**2, (400, 400), 1, 300),
        ("cuda", 4, 8 * 32 * 300**2, (150, 200), 3, None),
    ],
)
def test_a_pass_follows_the_free_memory(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    batch: int | None,
    free: float,
    shape: tuple[int, int],
    size: int,
    tile: int | None,
) -> None:
    """The model has 8 channels per pixel and patches of 8 px; a tile has at most 64 of them along a side."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), 0))
    monkeypatch.setattr(Lila, "device", torch.device(device))
    computer = FeatureComputer(small_model(), FeatureConfig(), batch)
    assert (computer.pass_size(shape), computer.tile(shape)) == (size, tile)


def test_memory_that_does_not_suffice_makes_passes_smaller(
    weights: Path, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer pictures at once, then tiles; the oracle is asked for these at once."""
    rng, forward, limit = np.random.default_rng(0), Lila.forward, 288 * 160
    for name, height in (("a", 128), ("b", 128), ("c", 128), ("d", 288)):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, 10, 3), dtype=np.uint8))
        coarse.resize((160, height), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")

    def limited(self: Lila, images: Tensor, output_size: None = None) -> Tensor:
        if images[:, 0].numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(Lila, "forward", limited)
    pictures = tmp_path / "*.png"
    done(weights, tmp_path / "one", pictures, "--format", "npz", "--batch", 1)
    done(weights, tmp_path / "tiles", tmp_path / "d.png", "--format", "npz", "--tile", 175)
    done(weights, tmp_path / "small", tmp_path / "d.png", "--format", "npz", "--tile", 74)
    computed.clear()
    limit = 2 * 128 * 160
    done(weights, tmp_path / "less", pictures, "--format", "npz,pca", "--batch", 3)
    assert computed == [3, 1, 1, 1], "half of three pictures is one, and less than d"
    limit = 10_000
    done(weights, tmp_path / "least", tmp_path / "d.png", "--format", "npz,pca")
    same = {"less/a": "one/a", "less/b": "one/b", "less/c": "one/c", "less/d": "tiles/d", "least/d": "small/d"}
    for found, expected in same.items():
        kept, asked = (np.load(tmp_path / f"{name}.npz")["features"] for name in (found, expected))
        np.testing.assert_allclose(kept, asked, atol=4e-3)
    limit = 1000
    result = features(weights, tmp_path / "none", pictures)
    assert "expected memory for 71² pixels at once on cpu, found too little" in str(result.exception)


def test_completed_files_are_not_computed_again(
    folder: Path, weights: Path, tmp_path: Path, computed: list[int]
) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    shutil.copytree(folder, media)
    done(weights, out, media, "--format", "npz")
    assert sum(computed) == 3 + 7
    computed.clear()
    done(weights, out, media, "--format", "npz")
    assert computed == []
    Image.new("RGB", (16, 16)).save(media / "a.png")
    done(weights, out, media, "--format", "npz")
    assert computed == [1]
    assert np.load(out / "a.npz")["features"].shape == (8, 16, 16)


def test_an_interrupted_video_is_resumed(
    folder: Path, weights: Path, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = (folder / "v.mp4", *FORMATS, "--batch", 1)
    done(weights, tmp_path / "straight", *once)
    count = len(computed)
    original = FeatureComputer.untiled

    def stopping(self: FeatureComputer, pictures: Sequence[Picture]) -> Tensor:
        if len(computed) >= count + 6 + 4:
            raise KeyboardInterrupt
        return original(self, pictures)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureComputer, "untiled", stopping)
        assert features(weights, tmp_path / "out", *once).exit_code != 0
    kept = len(list((tmp_path / "out/v").glob("*.npz")))
    assert 0 < kept < 7
    assert not (tmp_path / "out/v_pca.mp4").exists()
    computed.clear()
    done(weights, tmp_path / "out", *once)
    assert len(computed) == 6 + 7 - kept
    for path in (tmp_path / "straight/v").glob("*.npz"):
        np.testing.assert_array_equal(np.load(path)["features"], np.load(tmp_path / "out/v" / path.name)["features"])
    films = [list(VideoFrames(tmp_path / name / "v_pca.mp4")) for name in ("straight", "out")]
    assert np.abs(np.stack(films[0]).astype(int) - np.stack(films[1])).mean() < 1  # H.264 keeps no value exactly
    arrays = [zarr.open_array(tmp_path / name / "v.zarr/features", mode="r")[...] for name in ("straight", "out")]
    np.testing.assert_array_equal(*arrays)


SUFFIXES = (".npz", ".safetensors", ".png", "")  # of results that are the same each time


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


OTHER_LINES = '{"name": ["a"]}\n{"name": "../a"}\n{"name": "/a"}\n{"name": "v", "state": "done", "frames": "x"}\n'
DAMAGE = {  # what happens to the results of a.png and v.mp4, and how many frames are computed again
    "nothing": (lambda out: None, 0),
    "an image's npz cut": (lambda out: cut(out / "a.npz"), 1),
    "an image's safetensors cut": (lambda out: cut(out / "a.safetensors"), 1),
    "an image's chunk cut": (lambda out: cut(out / "a.zarr/features/c/0/0/0"), 1),
    "an image's array not described": (lambda out: (out / "a.zarr/features/zarr.json").write_text("{"), 1),
    "an image's group not described": (lambda out: (out / "a.zarr/zarr.json").write_text("{"), 1),
    "an image's array described otherwise": (lambda out: (out / "a.zarr/features/zarr.json").write_text("[1]"), 1),
    "an image's picture cut": (lambda out: cut(out / "a_pca.png"), 1),
    "an image's picture empty": (lambda out: (out / "a_pca.png").write_bytes(b""), 1),
    "a video's picture cut": (lambda out: cut(out / "v_pca.mp4"), 0),
    "the journal of others": (lambda out: (out / "files.jsonl").write_text(OTHER_LINES), 8),
    "the record nested": (lambda out: (out / "features.json").write_text("[" * 100_000), 8),
    "an image's picture gone": (lambda out: (out / "a_pca.png").unlink(), 1),
    "a frame's npz cut": (lambda out: cut(out / "v/00003.npz"), 1),
    "a frame's npz empty": (lambda out: (out / "v/00003.npz").write_bytes(b""), 1),
    "a frame's safetensors cut": (lambda out: cut(out / "v/00003.safetensors"), 0),  # from the npz
    "a frame's chunk cut": (lambda out: cut(out / "v.zarr/features/c/3/0/0/0"), 0),
    "a line of the journal": (lambda out: (out / "files.jsonl").write_bytes(b"\xff{\n[1]\n"), 8),
    "the journal empty": (lambda out: (out / "files.jsonl").write_text(""), 8),
    "the journal cut": (lambda out: (out / "files.jsonl").write_text((out / "files.jsonl").read_text()[:-20]), 0),
    "the settings cut": (lambda out: cut(out / "features.json"), 8),
    "a byte order mark": (lambda out: mark(out / "files.jsonl", out / "features.json"), 0),
}


def mark(*paths: Path) -> None:
    for path in paths:
        path.write_text(path.read_text(), "utf-8-sig")


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_results_are_computed_again(
    folder: Path, weights: Path, tmp_path: Path, computed: list[int], name: str
) -> None:
    damage, again = DAMAGE[name]
    command = (weights, tmp_path / "out", folder / "a.png", folder / "v.mp4", "--pca-from", folder / "a.png", *FORMATS)
    done(*command)
    results = (path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix in SUFFIXES)
    intact = {path: path.read_bytes() for path in results}
    damage(tmp_path / "out")
    for expected in (again, 0):
        computed.clear()
        done(*command)
        assert len(computed) - 1 == expected, "beside the basis"
        assert {path: path.read_bytes() for path in intact} == intact


def test_an_empty_list_of_formats_is_refused() -> None:
    with pytest.raises(LilaError, match=f"--format must be {SEVERAL}, found nothing"):
        FeatureConfig(format=())


def test_other_settings_are_refused_before_a_network_is_loaded(
    folder: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(weights, tmp_path, folder / "a.png", "--size", 24, "--format", "npz,pca")
    before = (tmp_path / "a.npz").read_bytes()
    monkeypatch.setattr("lila_train.model.lila.load", None)
    for arguments in ([], ["--size", 32], ["--size", 24, "--dtype", "float32"], ["--size", 24, "--tile", 16]):
        result = features(weights, tmp_path, folder / "a.png", "--format", "npz,pca", *arguments)
        assert isinstance(result.exception, LilaError)
        assert "holds results of other settings" in str(result.exception)
    assert "config.size: 24, not none" in str(
        features(weights, tmp_path, folder / "a.png", "--format", "npz,pca").exception
    )
    other = write_weights(tmp_path / "other.safetensors", small_model(1))
    assert "(model.weights_sha256: " in str(
        features(other, tmp_path, folder / "a.png", "--size", 24, "--format", "npz,pca").exception
    )
    assert (tmp_path / "a.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--format", "hdf5"],
            "--format must be npz, safetensors, zarr or pca, or several with commas between, found hdf5",
        ),
        (["--precision", "int8"], "--precision must be float32, bfloat16 or float16, found int8"),
        (["--dtype", "float64"], "--dtype must be float16 or float32, found float64"),
        (["--size", "0"], "--size must be a short side in pixels, or HxW such as 480x854, found 0"),
        (["--stride", "0"], "--stride must be a whole number above 0, found 0"),
    ],
)
def test_unknown_choices_are_refused(
    folder: Path, weights: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = features(weights, tmp_path, folder / "a.png", *arguments)
    assert isinstance(result.exception, LilaError)
    assert str(result.exception) == message


def test_overwrite_deletes_the_features_alone_and_starts_again(folder: Path, weights: Path, tmp_path: Path) -> None:
    done(weights, tmp_path, folder, *FORMATS)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "v/notes.txt").touch()
    done(weights, tmp_path, folder / "a.png", "--format", "npz", "--size", 24, "--overwrite")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".lock", "features.json", "files.jsonl", "a.npz", "notes.txt", "v/notes.txt"}


def test_folders_of_others_and_of_version_0_1_are_refused(folder: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").touch()
    result = features(weights, tmp_path / "out", folder / "a.png", "--overwrite")
    assert "expected an empty folder or results of this command in" in str(result.exception)
    done(weights, tmp_path / "old", folder / "a.png", "--format", "npz")
    (tmp_path / "old/features.json").write_text('{"model": "1-tiny-2", "formats": ["npz"], "size": null}')
    result = features(weights, tmp_path / "old", folder / "a.png", "--format", "npz")
    assert "written by 0.1; start again with --overwrite" in str(result.exception)
    done(weights, tmp_path / "old", folder / "a.png", "--format", "npz", "--overwrite")


def test_bad_files_are_reported_after_the_others_are_done(folder: Path, weights: Path, tmp_path: Path) -> None:
    media = tmp_path / "media"
    shutil.copytree(folder, media)
    (media / "aa.png").write_text("hello")
    (media / "w.mp4").write_bytes((media / "v.mp4").read_bytes()[:200])
    for source, name in (("a.png", f"{251 * 'x'}.png"), ("v.mp4", f"{251 * 'y'}.mp4"), ("a.png", "\udcff\n.png")):
        shutil.copy(media / source, media / name)
    (media / "z.png").symlink_to("nowhere")
    result = features(weights, tmp_path / "out", media, "--batch", 3)
    assert isinstance(result.exception, LilaError)
    assert str(result.exception).startswith(f"5 of 10 files done, in {tmp_path / 'out'}; ")
    assert "aa.png: expected an image, found" in str(result.exception)
    assert "w.mp4: expected a video, found a file that cannot be opened" in str(result.exception)
    assert str(result.exception).count("file name too long while writing") == 2
    assert "z.png: expected an image, found" in str(result.exception)
    for name in ("a_pca.png", "b_pca.png", "\udcff\n_pca.png", "sub/c_pca.png", "v_pca.mp4"):
        assert (tmp_path / "out" / name).exists()


AS_THEY_ARE = {  # video, and the sentence that it gets, "" where its 22 frames are done
    "an edit list hides 18 of 40 frames": (
        lambda root: barcodes.cut_and_copy(barcodes.write(root / "long.mp4"), root / "v.mp4", start=18),
        "",
    ),
    "frames of two sizes": (
        lambda root: join(root / "v.ts", *(barcodes.write(root / f"{h}.ts", Clip(22, size=(h, 96))) for h in (64, 80))),
        "v.ts: expected frames of one size, found 96×64 and, from frame 22 on, 96×80; cut the video where its size "
        "changes; the results of the 22 frames before it are in ",
    ),
    "damage that the decoder conceals": (
        lambda root: barcodes.zero_packet(barcodes.write(root / "v.mp4", Clip(b_frames=0)), 22),
        "v.mp4: expected an intact video, found damage near frame 22 (invalid data found when processing input); "
        "copy it again or take it out of the folder; the results of the 22 frames before it are in ",
    ),
}


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_what_can_be_read_of_a_video_is_kept_and_named(weights: Path, tmp_path: Path, name: str) -> None:
    make, sentence = AS_THEY_ARE[name]
    video, mask, out = make(tmp_path), tmp_path / "mask.png", tmp_path / "features"
    write_label_png(mask, np.eye(64, 96, dtype=np.uint8))
    tracked = ["track", str(video), "--mask", str(mask), "--weights", str(weights), "--out", str(tmp_path / "tracked")]
    for result, names in (
        (features(weights, out, video, *FORMATS), ("v/*.npz", "v/*.safetensors", "v_pca.mp4")),
        (CliRunner().invoke(app, tracked), ("[0-9]*.png", "overlay.mp4")),
    ):
        assert sentence in str(result.exception) if sentence else result.exception is None, result.exception
        folder = tmp_path / "tracked" if "overlay.mp4" in names else out
        for kept in names:
            count = len(list(folder.glob(kept)))
            assert count == 22 or (count == 1 and len(list(VideoFrames(folder / kept))) == 22)


def test_size_and_frames_are_limited(folder: Path, weights: Path, tmp_path: Path) -> None:
    done(weights, tmp_path, folder / "v.mp4", folder / "sub/c.png", "--size", 20, "--max-frames", 3)
    assert read_image(tmp_path / "c_pca.png").shape == (40, 20, 3)
    assert [p.shape for p in VideoFrames(tmp_path / "v_pca.mp4")] == [(20, 28, 3)] * 3


def test_zarr_groups_are_data_sets_of_xarray(folder: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(weights, out, folder / "v.mp4", folder / "a.png", "--every", 3, "--stride", 2, "--size", "40x60")
    model, frames = lila_train.load(weights), list(VideoFrames(folder / "v.mp4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video, image = (xr.open_zarr(out / f"{name}.zarr") for name in "va")
    assert video.features.dims == ("time", "channel", "y", "x")
    assert image.features.dims == ("channel", "y", "x")
    assert image.features.shape == (8, 20, 30)
    np.testing.assert_allclose(video.time, [0, 0.12, 0.24])
    np.testing.assert_array_equal(video.frame, [0, 3, 6])
    np.testing.assert_allclose(video.y[:2], [0.4, 2.2], atol=1e-6)  # of 36 rows
    np.testing.assert_allclose(video.x[-1], 50 - 0.5 - 50 / 60, atol=1e-6)
    expected = model(to_tensor(resize(frames[3], (40, 60))), output_size=(20, 30))[0]
    np.testing.assert_allclose(video.features[1], expected, atol=4e-3, rtol=2e-3)
    assert video.attrs["source"] == str((folder / "v.mp4").resolve())
    assert (video.attrs["model_encoder"], video.attrs["frame_rate"]) == ("tiny", 25)
    assert json.loads(video.attrs["settings"])["every"] == 3
    assert [p.shape for p in VideoFrames(out / "v_pca.mp4")] == [(20, 30, 3)] * 3
    assert VideoFrames(out / "v_pca.mp4").rate == Fraction(25, 3)


def test_a_stride_in_tiles_keeps_pixels_of_the_whole_map(weights: Path, tmp_path: Path) -> None:
    Image.effect_noise((150, 90), 90).save(tmp_path / "a.png")
    for stride in (1, 4):
        arguments = ("--tile", 64, "--stride", stride, "--format", "npz")
        done(weights, tmp_path / f"by{stride}", tmp_path / "a.png", *arguments)
    whole, coarse = (np.load(tmp_path / f"by{stride}/a.npz") for stride in (1, 4))
    assert coarse["features"].shape == (8, 22, 38)
    near = np.rint([coarse["y"].repeat(38), np.tile(coarse["x"], 22)]).astype(int)
    found, pixels = coarse["features"].reshape(8, -1), whole["features"][:, *near]
    assert np.abs(found - pixels).mean() < 0.3 * np.abs(found - pixels[:, ::-1]).mean()
    model = lila_train.load(weights)
    exact = model.features(read_image(tmp_path / "a.png"), tile=64)
    places = [((np.arange(new) + 0.5) * old / new).astype(int) for new, old in ((22, 90), (38, 150))]
    np.testing.assert_allclose(coarse["features"], exact[:, places[0][:, None], places[1]], atol=4e-3, rtol=2e-3)


def test_a_disk_that_is_short_is_refused_before_the_first_frame(
    folder: Path, weights: Path, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 images and a video of 7 frames take 0.8 × 8 channels × 2 bytes a pixel, and a little for the pictures."""
    (tmp_path / "many").mkdir()
    for number in range(100):
        (tmp_path / f"many/{number}.png").symlink_to(folder / "a.png")
    free = 4e6
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=int(free)))
    command = (weights, tmp_path / "out", tmp_path / "many", folder / "v.mp4", "--dtype", "float16")
    for options in (("--dtype", "float32"), ("--format", "npz,zarr")):
        result = features(*command[:1], tmp_path / options[1], *command[2:4], *options)
        assert re.search(
            r"expected [\d.]+ MB free in .* for the features of 107 frames \([\d.]+ kB for 37×53 px, 8 channels, "
            r"float\d\d\), found 4\.0 MB; pass --stride 4 \(1/16 of the bytes\), a smaller --size, --every N",
            str(result.exception),
        )
    assert computed == []
    result = features(*command)
    assert result.exception is None, result.exception
    assert "107 frames: about 3." in result.output
    written = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written < free
    free = 0  # what is done needs no room
    done(*command)


POINTS = {
    "csv": "x;y;frame;file\n3;4;0;a.png\n10.5;7;2;v.mp4\n49;35;2;v\n0;0;0;v.mp4\n",
    "json": '{"points": [{"x": 3, "y": 4, "frame": 0, "file": "a.png"}, {"x": 10.5, "y": 7, "frame": 2, "file": "v"},'
    '{"x": 49, "y": 35, "frame": 2, "file": "v"}, {"x": 0, "y": 0, "frame": 0, "file": "v"}]}',
}


@pytest.mark.parametrize("form", POINTS)
def test_features_at_points_alone(folder: Path, weights: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / f"points.{form}").write_text(POINTS[form])
    media = (folder / "a.png", folder / "v.mp4")
    arguments = (*media, "--points", tmp_path / f"points.{form}", "--format", "zarr,npz,safetensors")
    for _ in range(2):
        done(weights, tmp_path / "out", *arguments, "--dtype", "float32")
    model, frames = lila_train.load(weights), list(VideoFrames(folder / "v.mp4"))
    expected = np.concatenate([model.at(frames[0], [[0, 0]]), model.at(frames[2], [[10.5, 7], [49, 35]])])
    video, image = xr.open_zarr(tmp_path / "out/v.zarr"), np.load(tmp_path / "out/a.npz")
    np.testing.assert_allclose(video.features, expected, atol=1e-5)
    np.testing.assert_array_equal(video.row, [3, 1, 2])
    np.testing.assert_array_equal(video.frame, [0, 2, 2])
    np.testing.assert_allclose(image["features"], model.at(read_image(folder / "a.png"), [[3, 4]]), atol=1e-5)
    kept = safetensors.numpy.load_file(tmp_path / "out/v.safetensors")
    np.testing.assert_array_equal(kept["features"], video.features)
    assert not list((tmp_path / "out").glob("*_pca*"))
    (tmp_path / f"points.{form}").write_text(POINTS[form].replace("49", "48"))
    result = features(weights, tmp_path / "out", *arguments, "--dtype", "float32")
    assert "holds results of other settings (points: " in str(result.exception)


def test_points_of_every_kept_frame(folder: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("3, 4\n10, 7\n")
    points = ("--points", tmp_path / "p.csv", "--every", 3, "--size", 72, "--format", "npz", "--dtype", "float32")
    done(weights, tmp_path / "out", folder / "v.mp4", *points)
    found, frames = np.load(tmp_path / "out/v.npz"), list(VideoFrames(folder / "v.mp4"))
    np.testing.assert_array_equal(found["frame"], [0, 0, 3, 3, 6, 6])
    expected = lila_train.load(weights).at(resize(frames[6], (72, 100)), [[6.5, 8.5], [20.5, 14.5]])
    np.testing.assert_allclose(found["features"][4:], expected, atol=1e-5)


BAD_POINTS = {
    "a,b\n1,2\n": "found point 0 as",
    "": "found nothing|found an empty file",
    "x,y\n1,nan\n": r'found point 0 as {"x": "1", "y": "nan"}',
    "x,y,frame\n1,2,0.5\n": "found point 0 as",
    "x,y\n1,2\n53,2\n": r"point 1: expected x up to 52 and y up to 36 in frame 0 of .*a.png, found \(53, 2\)",
    "x,y,file\n1,2,c.png\n": "point 0: expected one of the inputs as file, found c.png",
    "x,y,frame\n1,2,7\n": "expected frame 7 in .*a.png, found no such frame",
}


@pytest.mark.parametrize("text", BAD_POINTS)
def test_bad_points_are_named(folder: Path, weights: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    result = features(weights, tmp_path / "out", folder / "a.png", "--points", tmp_path / "p.csv")
    assert isinstance(result.exception, LilaError)
    assert re.search(BAD_POINTS[text], str(result.exception)), result.exception


def test_a_size_beyond_memory_is_refused(weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30_000, 1)).save(tmp_path / "line.png")
    result = features(weights, tmp_path / "out", tmp_path / "line.png", "--size", 480)
    assert "would have 480×14400000 px; pass a smaller --size" in str(result.exception)
    done(weights, tmp_path / "out2", tmp_path / "line.png", "--tile", 512, "--max-frames", 1, "--format", "pca")


def test_a_shared_basis_gives_equal_colors_to_equal_pixels(folder: Path, weights: Path, tmp_path: Path) -> None:
    whole = Image.open(folder / "a.png")
    whole.crop((0, 0, 53, 20)).save(tmp_path / "part.png")
    both = [tmp_path / "part.png", folder / "a.png"]
    done(weights, tmp_path / "own", *both, "--format", "pca")
    done(weights, tmp_path / "shared", *both, "--format", "pca", "--pca-from", folder / "a.png")
    apart = {
        out: np.abs(
            read_image(tmp_path / out / "part_pca.png")[:8].astype(int) - read_image(tmp_path / out / "a_pca.png")[:8]
        ).mean()
        for out in ("own", "shared")
    }
    assert apart["shared"] < apart["own"]
    result = features(weights, tmp_path / "shared", *both, "--format", "pca", "--pca-from", folder / "b.png")
    assert "(pca_from: " in str(result.exception)
    done(weights, tmp_path / "film", folder / "b.png", "--format", "pca", "--pca-from", folder / "v.mp4")


def test_results_inside_the_input_folder_are_no_inputs(weights: Path, tmp_path: Path) -> None:
    for name in ("a", "sub/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((40, 30), 90).save(tmp_path / f"{name}.png")
    for _ in range(2):  # with the results of the first run beside the images
        sources = (tmp_path / "*.png", "--pca-from", tmp_path, "--pca-from", tmp_path / "sub/a.png")
        done(weights, tmp_path / "out", *sources, "--format", "pca")
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["a_pca.png"]
    result = features(weights, tmp_path, tmp_path)
    assert "would receive its own results; pass another folder with --out" in str(result.exception)


def test_half_precision_is_close(folder: Path, weights: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        done(weights, out, folder / "a.png", "--format", "npz", "--precision", precision, "--dtype", "float32")
    exact, half = (np.load(tmp_path / p / "a.npz")["features"] for p in ("float32", "bfloat16"))
    assert exact.dtype == np.float32
    cosine = (exact * half).sum(axis=0) / np.sqrt((exact**2).sum(axis=0) * (half**2).sum(axis=0))
    assert 0.98 < np.median(cosine) < 1


def test_a_panorama_is_cut_into_tiles(weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (4, 300, 3), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    done(weights, tmp_path / "out", tmp_path / "wide.png", "--tile", 128, "--format", "zarr,pca")
    found = zarr.open_array(tmp_path / "out/wide.zarr/features", mode="r")[...]
    assert found.shape == (8, 40, 3000)
    assert np.isfinite(found).all()
    assert read_image(tmp_path / "out/wide_pca.png").shape == (40, 3000, 3)
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".lock"]
