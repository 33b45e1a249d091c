"""From files to features: images of every kind, videos, folders, and what cannot be read."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lila_train.cli import app
from lila_train.decoder import Decoder, DecoderWidths
from lila_train.features import Extraction, extract, frame_count, names_of
from lila_train.media import VideoFrames, VideoWriter, media_under, read_image
from lila_train.model import Lila
from stores.errors import LilaError
from tests.train import world


@pytest.fixture(scope="module")
def model() -> Lila:
    torch.manual_seed(0)
    return Lila(world.encoder(), Decoder(DecoderWidths.of_encoder(192, inner=16))).eval()


def film(path: Path, frames: int = 7, size: tuple[int, int] = (36, 50)) -> Path:
    rng = np.random.default_rng(0)
    with VideoWriter(path, Fraction(25)) as writer:
        for _ in range(frames):
            writer.write(rng.integers(0, 256, (*size, 3), dtype=np.uint8).repeat(1, axis=0))
    return path


def test_an_image_gives_an_array_and_a_picture_of_its_size(model: Lila, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    extract(model, tmp_path / "a.png", Path("a"), Extraction(tmp_path / "out"), lambda: None)
    features = np.load(tmp_path / "out/a.npz")["features"]
    assert features.shape == (8, 37, 53)
    assert features.dtype == np.float16
    with torch.inference_mode():
        expected = model(torch.tensor(read_image(tmp_path / "a.png")).permute(2, 0, 1)[None])[0]
    np.testing.assert_allclose(features, expected.numpy(), atol=2e-3, rtol=2e-3)
    assert read_image(tmp_path / "out/a_pca.png").shape == (37, 53, 3)


def test_a_video_gives_an_array_per_frame_and_a_film_of_its_size(model: Lila, tmp_path: Path) -> None:
    path = film(tmp_path / "v.mp4")
    counted: list[int] = []
    extract(model, path, Path("v"), Extraction(tmp_path / "out", max_frames=5), lambda: counted.append(1))
    assert len(list((tmp_path / "out/v").glob("*.npz"))) == 5 == len(counted)
    pictures = list(VideoFrames(tmp_path / "out/v_pca.mp4"))
    assert [p.shape for p in pictures] == [(36, 50, 3)] * 5
    assert frame_count(path, Extraction(tmp_path)) == 7
    assert frame_count(path, Extraction(tmp_path, max_frames=3)) == 3


def test_size_is_the_short_side(model: Lila, tmp_path: Path) -> None:
    Image.new("RGB", (80, 40)).save(tmp_path / "a.png")
    extract(model, tmp_path / "a.png", Path("a"), Extraction(tmp_path / "out", size=20, arrays=False), lambda: None)
    assert read_image(tmp_path / "out/a_pca.png").shape == (20, 40, 3)
    assert not (tmp_path / "out/a.npz").exists()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_every_mode_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.full((6, 9), 128, np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_image(path)
    assert found.shape == (6, 9, 3)
    assert found.dtype == np.uint8
    if mode != "1":
        assert abs(int(found[3, 3, 0]) - 128) <= 2


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (8, 4, 3)


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(LilaError, match="cannot be read as an image"):
        read_image(tmp_path / "text.png")
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, "png")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:900])
    with pytest.raises(LilaError, match="cannot be read as an image"):
        read_image(tmp_path / "cut.png")
    for name, content in (("text.mp4", b"hello"), ("empty.mp4", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LilaError, match="cannot be read as a video"):
            VideoFrames(tmp_path / name)


def test_a_video_without_pictures_says_so(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(LilaError, match="no video stream"):
        VideoFrames(tmp_path / "sound.mp4")


def test_an_abandoned_film_leaves_nothing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(25))

    def fail() -> None:
        with writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_media_are_found_and_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a.png", "b/a.jpg", "b/notes.txt"):
        (tmp_path / name).touch()
    files = media_under(tmp_path)
    assert [p.name for p in files] == ["a.png", "a.jpg"]
    assert names_of(files, tmp_path) == [Path("a"), Path("b/a")]
    (tmp_path / "a.mp4").touch()
    with pytest.raises(LilaError, match="would both be written as a"):
        names_of(media_under(tmp_path), tmp_path)
    for path, message in (
        (tmp_path / "c", "no file or folder"),
        (tmp_path / "b/notes.txt", "expected an image or a video"),
    ):
        with pytest.raises(LilaError, match=message):
            media_under(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LilaError, match="no image or video under"):
        media_under(tmp_path / "empty")


def test_the_command_does_the_rest_when_one_file_is_bad(tmp_path: Path) -> None:
    from lila_train.run_folder import RunFolder
    from tests.train.test_trainer import SETTINGS, trainer

    run = trainer(world.build(tmp_path / "cues.zarr", clips=1), tmp_path / "run", SETTINGS)
    from lila_train import checkpoint

    checkpoint.write(RunFolder(tmp_path / "run").weights, run.learner.decoder, run.provenance())
    media = tmp_path / "media"
    media.mkdir()
    Image.new("RGB", (20, 20)).save(media / "good.png")
    (media / "bad.png").write_text("hello")
    arguments = ["features", str(media), "--weights", str(run.folder.weights), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, LilaError)
    assert str(result.exception).startswith("1 of 2 files done; ")
    assert (tmp_path / "out/good_pca.png").exists()
