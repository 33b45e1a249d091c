"""Every frame that is read is the requested one."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from lila_cues.datasets import read_images
from lila_cues.video import decoders, reader
from lila_cues.video.decoders import EXACT, decoder_version, require_decoder, require_torchcodec
from lila_cues.video.reader import DecodedClip, VideoFrames, count_frames, read_clip
from stores.errors import LilaError
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip, numbers

UNEVEN = [0, 100, 130, 500, 510, 900, 1000, 1500, 1501, 1700, 2600, 2700, 2710, 2900, 3600]
NOT_CODED = bytes.fromhex("000001b650019f")  # a packet of MPEG-4 that says: the frame before once more
NO_B_FRAMES = {"x265-params": "log-level=none:bframes=0"}  # of one frame with B-frames x265 makes bad time stamps

VIDEOS = {  # file, clip, whether decord is exact on it
    "h264, short groups, B-frames": ("a.mp4", Clip(), True),
    "h264, one long group": ("a.mp4", Clip(gop=250, b_frames=3), True),
    "h264 without B-frames in mkv": ("a.mkv", Clip(b_frames=0), True),
    "h264, variable rate": ("a.mp4", Clip(frames=15, ticks=UNEVEN, gop=5), True),
    "h264, variable rate in mkv": ("a.mkv", Clip(frames=15, ticks=UNEVEN, gop=5), True),
    "h264 in mkv, from second 50 on": ("a.mkv", Clip(frames=20, ticks=range(150_000, 152_000, 100)), True),
    "h264, 24 px wide": ("a.mp4", Clip(size=(64, 24)), True),
    "h264, odd size": ("a.mp4", Clip(size=(65, 97), pixels="yuv444p"), False),
    "h264, one frame": ("a.mp4", Clip(frames=1), True),
    "h264, turned by 90°": ("a.mp4", Clip(rotation=90), True),
    "h264, turned by 180°": ("a.mp4", Clip(rotation=180), True),
    "h264, open groups": ("a.mp4", Clip(options={"x264-params": "open-gop=1:bframes=3"}), True),
    "h264, one key frame and intra refresh": (
        "a.mp4",
        Clip(options={"x264-params": "intra-refresh=1:bframes=0"}),
        False,
    ),
    "h264, interlaced": ("a.mp4", Clip(options={"x264-params": "interlaced=1"}), True),
    "h264 in a transport stream": ("a.ts", Clip(), False),
    "h264, a name like a URL": ("12:30:45.mp4", Clip(), True),
    "motion jpeg": ("a.mp4", Clip(codec="mjpeg", pixels="yuvj420p", b_frames=0), False),
    "vp8": ("a.webm", Clip(codec="libvpx", b_frames=0), False),
    "mpeg-4 in mp4": ("a.mp4", Clip(codec="mpeg4"), False),
    "mpeg-4 in avi": ("a.avi", Clip(codec="mpeg4", b_frames=0), False),
    "vp9": ("a.webm", Clip(codec="libvpx-vp9", b_frames=0), True),
    "vp9 of odd height": ("a.webm", Clip(codec="libvpx-vp9", b_frames=0, size=(65, 96)), False),
    "hevc": ("a.mp4", Clip(codec="libx265"), False),
    "hevc, variable rate": ("a.mov", Clip(codec="libx265", frames=15, ticks=UNEVEN, gop=5), False),
    "hevc, turned by 270°": ("a.mp4", Clip(codec="libx265", rotation=270), False),
    "hevc, one frame": ("a.mp4", Clip(codec="libx265", frames=1, options=NO_B_FRAMES), False),
}


def turned(clip: Clip, images: np.ndarray) -> np.ndarray:
    """Undo the rotation that the container asks for: degrees anticlockwise."""
    return np.rot90(images, k=-(clip.rotation // 90), axes=(1, 2))


@pytest.fixture(params=("pyav", *EXACT))
def decoder(request: pytest.FixtureRequest) -> str:
    """Each decoder in turn; torchcodec where it is installed and finds FFmpeg's libraries."""
    if request.param == "torchcodec":
        try:
            require_torchcodec()
        except LilaError as error:
            pytest.skip(str(error))
    return str(request.param)


def read(path: Path, indices: Sequence[int], decoder: str = "pyav") -> DecodedClip:
    return read_clip(path, lambda n_frames: indices, decoder=decoder)


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_is_the_requested_one(tmp_path: Path, name: str, decoder: str) -> None:
    file, clip, by_decord = VIDEOS[name]
    path = barcodes.write(tmp_path / file, clip)
    by_torchcodec = "transport stream" not in name and "intra refresh" not in name
    if not {"pyav": True, "decord": by_decord, "torchcodec": by_torchcodec}[decoder]:
        with pytest.raises(LilaError, match=f"expected a file on which {decoder} is exact .*; pass --decoder pyav"):
            read(path, [0], decoder)
        return
    requested = random.Random(0).choices(range(clip.frames), k=12)
    for index in random.Random(1).sample(range(clip.frames), min(clip.frames, 3)):
        assert numbers(turned(clip, read(path, [index], decoder).frames)) == [index], "after a seek"
    assert numbers(turned(clip, read(path, requested, decoder).frames)) == requested
    found = read(path, range(clip.frames), decoder)
    assert found.n_frames == clip.frames
    assert found.size == found.frames.shape[1:3]
    assert numbers(turned(clip, found.frames)) == list(range(clip.frames))
    seconds = np.array(clip.ticks if clip.ticks else range(0, 100 * clip.frames, 100)) / 3000
    np.testing.assert_allclose(
        found.times, seconds - seconds[0], atol=0.02 if file.endswith(("webm", "mkv", "avi")) else 1e-6
    )
    assert np.array_equal(np.stack(list(VideoFrames(path))), found.frames), "the stream gives the same frames"


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path: Path, codec: str, decoder: str) -> None:
    full = barcodes.write(tmp_path / "full.mp4", Clip(codec=codec))
    cut = barcodes.cut_and_copy(full, tmp_path / "cut.mp4", start=18)
    if decoder == "decord":
        with pytest.raises(LilaError, match=r"expected a file on which decord is exact .*with an edit list; pass"):
            read(cut, [0], decoder)
        return
    assert numbers(read(cut, range(22), decoder).frames) == list(range(18, 40))
    assert numbers(read(cut, [21, 3, 20], decoder).frames) == [39, 21, 38]
    assert read(cut, [0], decoder).n_frames == len(list(VideoFrames(cut))) == 22


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    opened: list[Path] = []
    open_container = reader.open_container

    def counted(path: Path) -> av.container.InputContainer:
        opened.append(path)
        return open_container(path)

    monkeypatch.setattr(reader, "open_container", counted)
    return opened


def test_a_video_is_decoded_once_and_again_only_where_the_count_was_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, asked = count_opened(monkeypatch), list[int]()

    def last(n_frames: int) -> list[int]:
        asked.append(n_frames)
        return [n_frames - 1]

    path = barcodes.write(tmp_path / "a.mp4")
    assert numbers(read_clip(path, last).frames) == [39]
    assert (len(opened), asked) == (2, [40]), "one pass that demuxes, one that decodes"
    repeating = barcodes.insert_packet(barcodes.write(tmp_path / "a.avi", Clip(codec="mpeg4", b_frames=0)), NOT_CODED)
    assert count_frames(repeating) == 41
    assert numbers(read_clip(repeating, last).frames) == [39]
    assert asked == [40, 41, 40]


def test_frames_are_reduced_as_they_are_decoded(tmp_path: Path) -> None:
    seen: list[int] = []

    def keep(frame: np.ndarray) -> np.ndarray:
        seen.append(barcodes.number(frame))
        return frame[:8, :8]

    found = read_clip(barcodes.write(tmp_path / "a.mp4"), lambda n: [7, 3, 3, 20], keep)
    assert seen == [3, 7, 20]
    assert (found.frames.shape, found.size, found.names) == (
        (4, 8, 8, 3),
        (64, 96),
        ["00007", "00003", "00003", "00020"],
    )


TEN_BITS = {
    f"h264, 10 bits, {flag}": ("a.mp4", Clip(pixels="yuv422p10le", options={"x264-params": flag}), False)
    for flag in ("interlaced=1", "interlaced=0")
}


@pytest.mark.parametrize("name", VIDEOS | TEN_BITS)
def test_frames_are_those_of_ffmpegs_command(tmp_path: Path, name: str, ffmpeg: Callable[[Path], bytes]) -> None:
    file, clip, _ = (VIDEOS | TEN_BITS)[name]
    path = barcodes.write(tmp_path / file, clip)
    frames = read(path, range(clip.frames)).frames
    assert np.array_equal(frames, np.frombuffer(ffmpeg(path), np.uint8).reshape(frames.shape))


@pytest.fixture
def ffmpeg() -> Callable[[Path], bytes]:
    """Decode a video to RGB with FFmpeg's command; skipped where it is not installed."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs the ffmpeg command")
    options = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return lambda path: (
        subprocess.run(
            ["ffmpeg", "-v", "error", "-i", f"file:{path}", *options], capture_output=True, check=True
        ).stdout
    )


def test_the_empty_packets_of_theora_are_passed_over(tmp_path: Path, ffmpeg: Callable[[Path], bytes]) -> None:
    path = tmp_path / "a.ogv"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=3", "-c:v", "libtheora", str(path)]
    if subprocess.run(["ffmpeg", "-v", "error", *source], check=False).returncode:
        pytest.skip("needs an ffmpeg command that writes Theora")
    with av.open(str(path)) as container:
        assert any(not packet.size and packet.pts is not None for packet in container.demux(video=0))
    frames = read_clip(path, range).frames
    assert np.array_equal(frames, np.stack(list(VideoFrames(path))))
    assert np.array_equal(frames, np.frombuffer(ffmpeg(path), np.uint8).reshape(frames.shape))


def test_a_frame_that_decord_repeats_is_decoded_by_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = barcodes.write(tmp_path / "a.mp4", Clip(frames=12))
    assert numbers(read(path, [3, 3, 4], "decord").frames) == [3, 3, 4]
    decord = decoders.load_decord()
    video = decord.VideoReader(str(path))

    class Repeating:
        """decord on a damaged tail: the last good frame repeated."""

        def __init__(self, path: str, num_threads: int):
            pass

        def __len__(self) -> int:
            return 12

        def get_batch(self, indices: list[int]) -> object:
            return video.get_batch([min(index, 9) for index in indices])

    monkeypatch.setattr(decord, "VideoReader", Repeating)
    assert numbers(read(path, [9, 10, 11], "decord").frames) == [9, 10, 11]


def test_pyav_reads_what_decord_cannot_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("too small")

    monkeypatch.setattr(decoders.load_decord(), "VideoReader", fail)
    assert numbers(read(barcodes.write(tmp_path / "a.mp4"), [7], "decord").frames) == [7]


@pytest.mark.parametrize("requested", [[3], [-1], []])
def test_frames_outside_the_clip_raise_index_error(tmp_path: Path, requested: list[int], decoder: str) -> None:
    path = barcodes.write(tmp_path / "a.mp4", Clip(frames=3))
    with pytest.raises(IndexError, match="frames 0 to 2"):
        read(path, requested, decoder)


def test_a_decoder_that_is_not_installed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    with pytest.raises(LilaError, match="expected decord for --decoder decord, found none; `pip install decord`"):
        require_decoder("decord")
    path = barcodes.write(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    message = "expected torchcodec with FFmpeg's shared libraries for --decoder torchcodec, found none that loads"
    for ask in (lambda: require_decoder("torchcodec"), lambda: read(path, [0], "torchcodec")):
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
    assert numbers(read(barcodes.write(tmp_path / "a.mp4"), [7], "torchcodec").frames) == [7]


def test_the_provenance_names_decoders_and_versions() -> None:
    assert decoder_version("decord").startswith("decord 0.")
    assert all("av " in decoder_version(decoder) for decoder in ("pyav", *EXACT))


def test_image_files_are_frames(tmp_path: Path) -> None:
    import cv2

    paths = [tmp_path / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        cv2.imwrite(str(path), barcodes.picture(index)[..., ::-1])

    def read(*indices: int) -> DecodedClip:
        return read_images(paths, 8.0, lambda n_frames: indices, np.asarray)

    found = read(3, 1, 0, 2)
    assert (found.n_frames, found.size, found.names) == (4, (64, 96), ["3", "1", "0", "2"])
    assert numbers(found.frames) == [3, 1, 0, 2]
    assert found.times.tolist() == [0.375, 0.125, 0, 0.25]
    with pytest.raises(IndexError, match="frames 0 to 3"):
        read(4)
    cv2.imwrite(str(paths[2]), np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(LilaError, match=r"2\.png: expected 96×64 like the frames before it, found 12×10"):
        read(0, 2)
    for content, reason in ((b"", "an empty file"), (b"text", "a file in no known image format")):
        paths[1].write_bytes(content)
        with pytest.raises(LilaError, match=f"expected an image, found {reason}"):
            read(1)
