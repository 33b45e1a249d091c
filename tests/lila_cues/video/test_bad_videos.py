"""A file that is not an intact video is refused with one sentence, and nothing else is printed."""

from __future__ import annotations

import random
from pathlib import Path

import av
import pytest

from lila_cues.video.reader import VideoFrames, read_clip
from stores.errors import LilaError
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip


def open_video(path: Path) -> None:
    """Read the video as a clip and as a stream, expecting the same verdict."""
    verdicts = []
    for read in (lambda: read_clip(path, lambda n_frames: [0]), lambda: list(VideoFrames(path))):
        try:
            read()
            verdicts.append("")
        except LilaError as error:
            verdicts.append(str(error))
    assert bool(verdicts[0]) == bool(verdicts[1]), verdicts
    if verdicts[0]:
        raise LilaError(verdicts[0])


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video with detail in every frame."""
    return barcodes.write(tmp_path_factory.mktemp("intact") / "a.mp4", Clip(frames=60, size=(120, 160))).read_bytes()


def flip(data: bytes, seed: int) -> bytes:
    """Flip one bit of the encoded frames."""
    damaged = bytearray(data)
    start, end = data.index(b"mdat") + 800, data.index(b"moov") - 8
    damaged[random.Random(seed).randrange(start, end)] ^= 1 << seed % 8
    return bytes(damaged)


BAD = {
    "empty": (lambda intact: b"", "an empty file"),
    "text": (lambda intact: b"not a video at all\n" * 50, "a file that cannot be opened"),
    "without its index": (lambda intact: intact[: len(intact) // 2], "a file that cannot be opened"),
    "zeros": (lambda intact: bytes(4000), "a file that cannot be opened"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_video_is_refused(
    tmp_path: Path, intact: bytes, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, reason = BAD[name]
    path = tmp_path / "bad.mp4"
    path.write_bytes(make(intact))
    with pytest.raises(LilaError, match=f"bad.mp4: expected a video, found {reason}.*copy it again or take it out"):
        open_video(path)
    assert capfd.readouterr() == ("", "")


def test_an_audio_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LilaError, match="expected a video, found only audio in it"):
        open_video(barcodes.write_sound(tmp_path / "song.mp4"))


def test_an_unknown_codec_is_refused(tmp_path: Path, intact: bytes) -> None:
    path = tmp_path / "odd.mp4"
    path.write_bytes(intact.replace(b"avc1", b"qqqq"))
    with pytest.raises(LilaError, match="expected a video, found one in a format that no decoder here knows"):
        open_video(path)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(LilaError, match="expected a video, found one without a single frame"):
        open_video(path)


def test_a_change_of_size_is_refused(tmp_path: Path) -> None:
    parts = [barcodes.write(tmp_path / f"{side}.ts", Clip(frames=6, size=(side, 96))) for side in (64, 80)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(
        LilaError, match="expected frames of one size, found 96×64 and, from frame 6 on, 96×80; cut the video"
    ):
        open_video(path)


def test_fewer_frames_than_announced_are_refused(tmp_path: Path) -> None:
    """An index before the frames, and a cut between two frames: no decoder notices it."""
    path = barcodes.write(tmp_path / "a.mp4", Clip(frames=9, container={"movflags": "faststart"}))
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0)]
    path.write_bytes(path.read_bytes()[: positions[6]])
    with pytest.raises(LilaError, match="expected an intact video, found 6 of the 9 frames it announces"):
        open_video(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    barcodes.write(path, Clip(frames=20))

    def shrink(n_frames: int) -> list[int]:
        barcodes.write(path, Clip(frames=n_frames - 4))
        return [0]

    with pytest.raises(LilaError, match="expected the same number of frames at each reading, found 16, then 12; copy"):
        read_clip(path, shrink)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LilaError, match="expected a video file, found nothing"):
        open_video(tmp_path / "absent.mp4")
    with pytest.raises(LilaError, match="expected a video file, found a folder"):
        open_video(tmp_path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "flv"])
def test_a_truncated_copy_is_refused(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    container = {"movflags": "faststart"} if suffix == "mp4" else {}
    clip = Clip(frames=60, container=container, codec="libvpx-vp9" if suffix == "webm" else "libx264")
    path = barcodes.write(tmp_path / f"a.{suffix}", clip)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    with pytest.raises(LilaError, match=r"expected (a|an intact) video, found"):
        open_video(path)
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_is_detected_almost_always(tmp_path: Path, intact: bytes) -> None:
    """decord conceals such damage; a flip that leaves a valid stream cannot be detected."""
    found = [error_for(tmp_path / "flipped.mp4", flip(intact, seed)) for seed in range(24)]
    noticed = [reason for reason in found if "expected an intact video, found" in reason]
    assert len(noticed) >= 20
    assert all("damage near frame" in reason for reason in noticed)


def error_for(path: Path, content: bytes) -> str:
    """The error for a file with that content, empty where it is read."""
    path.write_bytes(content)
    try:
        open_video(path)
    except LilaError as error:
        return str(error)
    return ""
