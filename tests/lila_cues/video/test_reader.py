"""Every frame that is read is the requested one."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lila_cues.video import decoders
from lila_cues.video.decoders import DecordReader, ImageReader, PyavReader, TorchcodecReader, require_torchcodec
from lila_cues.video.probe import probe
from lila_cues.video.reader import DECODERS, decoder_version, open_video, require_decoder
from stores.errors import LilaError
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip, numbers

UNEVEN = [0, 100, 130, 500, 510, 900, 1000, 1500, 1501, 1700, 2600, 2700, 2710, 2900, 3600]
NO_B_FRAMES = {"x265-params": "log-level=none:bframes=0"}  # of one frame with B-frames x265 makes bad time stamps

VIDEOS = {
    "h264, short groups, B-frames": ("a.mp4", Clip(), DecordReader),
    "h264, one long group": ("a.mp4", Clip(gop=250, b_frames=3), DecordReader),
    "h264 without B-frames in mkv": ("a.mkv", Clip(b_frames=0), DecordReader),
    "h264, variable rate": ("a.mp4", Clip(frames=15, ticks=UNEVEN, gop=5), DecordReader),
    "h264, odd size": ("a.mp4", Clip(size=(65, 97), pixels="yuv444p"), PyavReader),
    "h264, one frame": ("a.mp4", Clip(frames=1), DecordReader),
    "h264, turned by 90°": ("a.mp4", Clip(rotation=90), DecordReader),
    "h264, turned by 180°": ("a.mp4", Clip(rotation=180), DecordReader),
    "h264, open groups": ("a.mp4", Clip(options={"x264-params": "open-gop=1:bframes=3"}), DecordReader),
    "h264, one key frame and intra refresh": (
        "a.mp4",
        Clip(options={"x264-params": "intra-refresh=1:bframes=0"}),
        PyavReader,
    ),
    "h264, interlaced": ("a.mp4", Clip(options={"x264-params": "interlaced=1"}), DecordReader),
    "h264 in a transport stream": ("a.ts", Clip(), PyavReader),
    "motion jpeg": ("a.mp4", Clip(codec="mjpeg", pixels="yuvj420p", b_frames=0), PyavReader),
    "vp8": ("a.webm", Clip(codec="libvpx", b_frames=0), PyavReader),
    "mpeg-4 in mp4": ("a.mp4", Clip(codec="mpeg4"), PyavReader),
    "mpeg-4 in avi": ("a.avi", Clip(codec="mpeg4", b_frames=0), PyavReader),
    "vp9": ("a.webm", Clip(codec="libvpx-vp9", b_frames=0), DecordReader),
    "hevc": ("a.mp4", Clip(codec="libx265"), PyavReader),
    "hevc, variable rate": ("a.mov", Clip(codec="libx265", frames=15, ticks=UNEVEN, gop=5), PyavReader),
    "hevc, turned by 270°": ("a.mp4", Clip(codec="libx265", rotation=270), PyavReader),
    "hevc, one frame": ("a.mp4", Clip(codec="libx265", frames=1, options=NO_B_FRAMES), PyavReader),
}


def turned(clip: Clip, images: np.ndarray) -> np.ndarray:
    """Undo the rotation that the container asks for: degrees anticlockwise."""
    return np.rot90(images, k=-(clip.rotation // 90), axes=(1, 2))


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> str:
    """Each decoder in turn; torchcodec where it is installed and finds FFmpeg's libraries."""
    if request.param == "torchcodec":
        torchcodec()
    return str(request.param)


def torchcodec() -> None:
    """Skip where torchcodec does not load."""
    try:
        require_torchcodec()
    except LilaError as error:
        pytest.skip(str(error))


def expected_reader(decoder: str, by_decord: type, name: str) -> type:
    """decord reads what it is exact on; torchcodec all but what no seek decodes right; PyAV the rest."""
    by_torchcodec = PyavReader if "transport stream" in name or "intra refresh" in name else TorchcodecReader
    return {"decord": by_decord, "pyav": PyavReader, "torchcodec": by_torchcodec}[decoder]


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_is_the_requested_one(tmp_path: Path, name: str, decoder: str) -> None:
    file, clip, by_decord = VIDEOS[name]
    path = barcodes.write(tmp_path / file, clip)
    requested = random.Random(0).choices(range(clip.frames), k=12)
    with open_video(path, decoder) as reader:
        assert type(reader) is expected_reader(decoder, by_decord, name)
        assert len(reader) == clip.frames
        for index in random.Random(1).sample(range(clip.frames), min(clip.frames, 12)):
            assert numbers(turned(clip, reader.read([index]))) == [index], "after a seek"
        assert numbers(turned(clip, reader.read(requested))) == requested
        assert numbers(turned(clip, reader.read(range(clip.frames)))) == list(range(clip.frames))
        seconds = np.array(clip.ticks if clip.ticks else range(0, 100 * clip.frames, 100)) / 3000
        np.testing.assert_allclose(reader.times, seconds, atol=0.02 if file.endswith(("webm", "mkv", "avi")) else 1e-6)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path: Path, codec: str, decoder: str) -> None:
    full = barcodes.write(tmp_path / "full.mp4", Clip(codec=codec))
    with open_video(barcodes.cut_and_copy(full, tmp_path / "cut.mp4", start=18), decoder) as reader:
        assert isinstance(reader, TorchcodecReader if decoder == "torchcodec" else PyavReader)
        assert probe(tmp_path / "cut.mp4").edited
        assert not probe(full).edited
        assert numbers(reader.read(range(len(reader)))) == list(range(18, 40))
        assert numbers(reader.read([21, 3, 20])) == [39, 21, 38]


def test_a_still_video_is_read_and_a_repeated_tail_is_decoded_again(tmp_path: Path) -> None:
    path = barcodes.write(tmp_path / "still.mp4", Clip(frames=12))
    with open_video(path) as reader:
        assert numbers(reader.read([3, 3, 4])) == [3, 3, 4]
        reader._video = Repeating(reader._video)  # type: ignore[attr-defined]
        assert numbers(reader.read([9, 10, 11])) == [9, 10, 11]


class Repeating:
    """decord on a damaged tail: the last good frame repeated."""

    def __init__(self, video: object):
        self.video = video

    def get_batch(self, indices: list[int]) -> object:
        return self.video.get_batch([min(index, 9) for index in indices])  # type: ignore[attr-defined]


def test_reading_forward_continues_and_reading_back_restarts(tmp_path: Path) -> None:
    with open_video(barcodes.write(tmp_path / "a.mp4", Clip(codec="libx265")), "pyav") as reader:
        assert [numbers(reader.read(part)) for part in ([2, 5], [6], [30], [1, 39])] == [[2, 5], [6], [30], [1, 39]]


def test_frames_outside_the_clip_raise_index_error(tmp_path: Path) -> None:
    with open_video(barcodes.write(tmp_path / "a.mp4", Clip(frames=3))) as reader:
        for requested in ([3], [-1], []):
            with pytest.raises(IndexError, match="frames 0 to 2"):
                reader.read(requested)


def test_pyav_reads_where_decord_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lila_cues.video.decoders.find_spec", lambda name: None)
    with open_video(barcodes.write(tmp_path / "a.mp4")) as reader:
        assert isinstance(reader, PyavReader)
        assert numbers(reader.read([7])) == [7]


def test_a_torchcodec_that_does_not_load_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = barcodes.write(tmp_path / "a.ts")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    message = "expected torchcodec with FFmpeg's shared libraries for --decoder torchcodec, found none that loads"
    for ask in (lambda: require_decoder("torchcodec"), lambda: open_video(path, "torchcodec")):
        with pytest.raises(LilaError, match=message):
            ask()


@pytest.mark.parametrize("frames", [None, 39])
def test_pyav_reads_where_torchcodec_cannot_open_or_counts_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int | None
) -> None:
    class Other:
        def __init__(self, *arguments: object, **options: object):
            if frames is None:
                raise ValueError("no such stream")

        def __len__(self) -> int:
            return frames or 0

    monkeypatch.setattr(decoders, "require_torchcodec", lambda: SimpleNamespace(VideoDecoder=Other))
    with open_video(barcodes.write(tmp_path / "a.mp4"), "torchcodec") as reader:
        assert isinstance(reader, PyavReader)
        assert numbers(reader.read([7])) == [7]


def test_the_provenance_names_decoders_and_versions() -> None:
    assert decoder_version("decord").startswith("decord 0.")
    assert all("av " in decoder_version(decoder) for decoder in DECODERS)
    with pytest.raises(LilaError, match="expected a decoder among decord, pyav, torchcodec, found 'ffmpeg'"):
        require_decoder("ffmpeg")


def test_image_files_are_frames(tmp_path: Path) -> None:
    import cv2

    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        cv2.imwrite(str(path), barcodes.picture(index)[..., ::-1])
    with ImageReader(paths, rate=8.0) as reader:
        assert numbers(reader.read([3, 1])) == [3, 1]
        assert reader.times.tolist() == [0, 0.125, 0.25, 0.375]
    cv2.imwrite(str(paths[2]), np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(LilaError, match=r"2\.png: expected 96×64 like the frames before it, found 12×10"):
        ImageReader(paths).read([0, 2])
    for content, found in ((b"", "an empty file"), (b"text", "a file in no known image format")):
        paths[1].write_bytes(content)
        with pytest.raises(LilaError, match=f"expected an image, found {found}"):
            ImageReader(paths).read([1])
