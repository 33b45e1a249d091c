"""The demo's data on disk: layout, one rendering per folder, and videos that any reader opens."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lila_cues.demo.dataset import HELDOUT_FRAMES, render_demo
from lila_cues.demo.scenes import Truth
from lila_cues.video.reader import VideoFrames
from stores.errors import LilaError


def _snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*") if p.is_file()}


def test_clips_are_videos_with_ground_truth(demo: Path) -> None:
    for split, frames in (("train", 24), ("heldout", HELDOUT_FRAMES)):
        videos = sorted((demo / split).glob("*.mp4"))
        assert [v.stem for v in videos] == [f"{split}_000", f"{split}_001"]
        for video in videos:
            truth = Truth.load(demo / split / "truth" / f"{video.stem}.npz")
            assert np.stack(list(VideoFrames(video))).shape == (frames, 240, 320, 3) == (*truth.masks().shape, 3)
            with av.open(str(video)) as container:
                assert container.streams.video[0].codec_context.name in ("h264", "mpeg4")


def test_held_out_scenes_are_a_davis_folder(demo: Path) -> None:
    folder = demo / "heldout"
    names = (folder / "ImageSets" / "2017" / "val.txt").read_text().split()
    assert names == ["heldout_000", "heldout_001"]
    for name in names:
        truth = Truth.load(folder / "truth" / f"{name}.npz").masks()
        frames = sorted((folder / "JPEGImages" / "480p" / name).iterdir())
        masks = sorted((folder / "Annotations" / "480p" / name).iterdir())
        assert [p.name for p in frames] == [f"{i:05d}.jpg" for i in range(HELDOUT_FRAMES)]
        assert [p.name for p in masks] == [f"{i:05d}.png" for i in range(HELDOUT_FRAMES)]
        for index, path in enumerate(masks):
            with Image.open(path) as mask:
                assert mask.mode == "P"
                np.testing.assert_array_equal(np.asarray(mask), truth[index])
        with Image.open(frames[7]) as image:
            decoded = list(VideoFrames(folder / f"{name}.mp4"))[7].astype(float)
            assert np.abs(np.asarray(image).astype(float) - decoded).mean() < 2
        assert set(np.unique(truth[0])) == set(range(truth.max() + 1))
        assert 2 <= truth.max() <= 4


def test_an_encoded_frame_is_close_to_the_rendered_one(demo: Path) -> None:
    """The masks fit the decoded video: object edges are where the decoded frame has its edges."""
    video = np.stack(list(VideoFrames(demo / "train" / "train_000.mp4")))
    truth = Truth.load(demo / "train" / "truth" / "train_000.npz")
    step = np.abs(np.diff(video.astype(float), axis=2)).sum(axis=-1)
    border = np.diff(truth.layers.astype(int), axis=2) != 0
    assert step[border].mean() > 2 * step[~border].mean()


def test_a_second_rendering_does_nothing(demo: Path) -> None:
    before = _snapshot(demo)
    render_demo(demo, train=2, heldout=2, seed=5)
    assert _snapshot(demo) == before


def test_the_same_seed_writes_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    render_demo(tmp_path / "demo", train=1, heldout=0, seed=5)
    again = (tmp_path / "demo" / "train" / "train_000.mp4").read_bytes()
    assert again == (demo / "train" / "train_000.mp4").read_bytes()


def test_train_and_held_out_scenes_have_different_seeds(demo: Path) -> None:
    scenes = json.loads((demo / "demo.json").read_text())["scenes"]
    assert len({tuple(position) for position in scenes.values()}) == len(scenes) == 4


def test_other_settings_in_the_same_folder_are_refused(demo: Path) -> None:
    with pytest.raises(LilaError, match=r"other settings \(seed 5 instead of 6\); delete that folder"):
        render_demo(demo, train=2, heldout=2, seed=6)
    with pytest.raises(LilaError, match=r"train 2 instead of 3"):
        render_demo(demo, train=3, heldout=2, seed=5)


def test_an_interrupted_rendering_is_resumed(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "demo"
    with monkeypatch.context() as patch:
        patch.setattr("lila_cues.demo.dataset._render_clip", stop)
        with pytest.raises(KeyboardInterrupt):
            render_demo(root, train=1, heldout=0, seed=5)
    assert not (root / "demo.json").exists()
    with pytest.raises(LilaError, match="other settings"):
        render_demo(root, train=1, heldout=0, seed=6)
    render_demo(root, train=1, heldout=0, seed=5)
    assert json.loads((root / "demo.json").read_text())["settings"]["train"] == 1
    assert sorted(p.name for p in root.iterdir()) == ["demo.json", "heldout", "train"]


def test_a_folder_with_other_files_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LilaError, match=r"found other files and no demo\.json"):
        render_demo(tmp_path, train=1, heldout=0, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("content", ["not json", "[]", '{"settings": 3}'])
def test_a_broken_marker_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "demo.json").write_text(content)
    with pytest.raises(LilaError, match=r"as JSON in|other settings"):
        render_demo(tmp_path, train=1, heldout=0, seed=0)
