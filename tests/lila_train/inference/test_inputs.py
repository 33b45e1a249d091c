"""Videos in and out, and what cannot be read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from stores.errors import LilaError
from tests.lila_train.inference.models import write_test_video


def test_unreadable_videos_are_named(tmp_path: Path) -> None:
    for name, content in (("text.mp4", b"hello"), ("empty.mp4", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LilaError, match="expected a video, found"):
            VideoFrames(tmp_path / name)


def test_a_file_without_a_video_stream_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(LilaError, match="expected a video, found only audio in it"):
        VideoFrames(tmp_path / "sound.mp4")


def test_a_written_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    found = VideoFrames(write_test_video(tmp_path / "v.mp4", frames=5, size=(37, 51)))
    assert found.count == 5
    assert found.rate == 25
    assert [p.shape for p in found] == [(38, 52, 3)] * 5


def test_a_truncated_video_raises(tmp_path: Path) -> None:
    whole = write_test_video(tmp_path / "v.mkv", frames=60, size=(64, 96)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 8])
    with pytest.raises(LilaError, match=r"expected (a|an intact) video, found"):
        list(VideoFrames(tmp_path / "cut.mkv"))


@pytest.mark.parametrize("name", ["v.mkv", "v.avi"])
def test_a_video_that_ends_early_without_an_error_raises(tmp_path: Path, name: str) -> None:
    whole = write_test_video(tmp_path / name, frames=60, size=(64, 96))
    assert len(list(VideoFrames(whole))) == 60
    cut = whole.with_stem("cut")
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(LilaError, match=r"cut.*: expected an intact video, found (\d\.\d of the 2\.4 sec|damage near)"):
        list(VideoFrames(cut))


def test_a_damaged_video_raises_with_the_frame_number(tmp_path: Path) -> None:
    content = bytearray(write_test_video(tmp_path / "v.mp4", frames=60, size=(64, 96)).read_bytes())
    hole = slice(2 * len(content) // 5, len(content) // 2)
    content[hole] = b"\xff" * (hole.stop - hole.start)
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(LilaError, match=r"v\.mp4: expected an intact video, found damage near frame \d+"):
        list(VideoFrames(tmp_path / "v.mp4"))


def test_an_aborted_video_leaves_no_file(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", Fraction(25))

    def fail() -> None:
        with writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
