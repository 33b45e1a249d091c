"""Listing of files for both stages: suffixes, links, hidden files, order, and where data sets are searched."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lila_cues.datasets import open_dataset
from lila_cues.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_dataset, list_files, list_inputs, walk_files
from lila_train.evaluation.davis.task import open_davis
from lila_train.evaluation.dense.normals import open_nyu
from lila_train.evaluation.dense.segmentation import ADE_150_LABELS, open_ade
from lila_train.inference.tracking import open_frames
from stores.errors import LilaError

JUNK = ("._b.jpg", "._b.mp4", ".DS_Store", "Thumbs.db", ".hidden.jpg", ".cache/c.mp4", "__MACOSX/._a.jpg")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def names_of(*sources: Path, out: Path | None = None) -> list[str]:
    return [str(file.name) for file in list_inputs(sources, unique_names=False, out=out)]


def test_inputs_are_listed_and_named(tmp_path: Path) -> None:
    (tmp_path / "b/c").mkdir(parents=True)
    for name in ("a.png", "b/a.jpg", "b/c/v.mp4", "b/notes.txt"):
        (tmp_path / name).touch()
    found = list_inputs([tmp_path])
    assert [(m.path.name, str(m.name), m.is_video) for m in found] == [
        ("a.png", "a", False),
        ("a.jpg", "b/a", False),
        ("v.mp4", "b/c/v", True),
    ]
    assert [str(m.name) for m in list_inputs([tmp_path / "b/a.jpg", tmp_path / "b/c"])] == ["a", "v"]
    assert [str(m.name) for m in list_inputs([tmp_path / "**/*.*"])] == ["a", "b/a", "b/c/v"]
    assert [str(m.name) for m in list_inputs([tmp_path / "b/*.jp*", tmp_path / "b/*.jpg"])] == ["a"]


def test_missing_inputs_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "a.mp4", "notes.txt"):
        (tmp_path / name).touch()
    for source, message in (
        ("none", "no file or folder at"),
        ("notes.txt", "expected an image or a video, found a .txt file"),
        ("empty", "no image or video under"),
        ("*.webp", "no image or video matches"),
        ("*.*", "would both be written as a"),
    ):
        with pytest.raises(LilaError, match=message):
            list_inputs([tmp_path / source])


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
def test_both_stages_take_the_same_files(tmp_path: Path, suffix: str) -> None:
    root = touch(tmp_path, f"clip/00000{suffix.upper()}")
    assert names_of(root) == ["clip/00000"]
    dataset = open_dataset("videos" if suffix in VIDEO_SUFFIXES else "frames", root)
    assert dataset.clips() == [f"clip/00000{suffix.upper()}" if suffix in VIDEO_SUFFIXES else "clip"]


def test_linked_folders_are_followed_and_nothing_is_listed_twice(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside", "x.mp4", "deep/y.mp4")
    root = touch(tmp_path / "root", "b/a.mp4", ".store/z.mp4")
    link(root / "a_sibling", "b")
    link(root / "b/parent", "..")
    link(root / "b/self", ".")
    link(root / "c", outside)
    link(root / "d", outside)
    link(root / "e", outside / "deep")
    link(root / "f", ".store")
    link(outside / "back", root)
    expected = ["b/a", "c/x", "c/deep/y", "f/z"]
    assert names_of(root) == expected
    assert names_of(root / "**/*.mp4") == expected
    assert [name.removesuffix(".mp4") for name in open_dataset("videos", root).clips()] == expected
    link(tmp_path / "entry", root)
    assert names_of(tmp_path / "entry") == expected


def test_a_link_to_a_folder_above_lists_the_rest_of_it_once(tmp_path: Path) -> None:
    touch(tmp_path, "root/a.png", "other/b.png")
    link(tmp_path / "root/up", "..")
    assert names_of(tmp_path / "root") == ["a", "up/other/b"]


def test_links_that_lead_nowhere_are_listed_and_pipes_are_not(tmp_path: Path) -> None:
    link(tmp_path / "gone.mp4", "nowhere.mp4")
    link(tmp_path / "loop.png", "loop.png")
    link(tmp_path / "folder", "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.mp4").mkdir()
    assert names_of(tmp_path) == names_of(tmp_path / "*.*") == ["gone", "loop"]


def test_hidden_files_are_ignored_everywhere(tmp_path: Path) -> None:
    image, label = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    touch(tmp_path / "clips", "a.mp4", *JUNK)
    assert open_dataset("videos", tmp_path / "clips").clips() == ["a.mp4"]
    assert names_of(tmp_path / "clips") == names_of(tmp_path / "clips/*.*") == ["a"]
    assert names_of(tmp_path / "clips/**") == ["a"]
    frames = tmp_path / "davis/JPEGImages/480p/cat"
    masks = tmp_path / "davis/Annotations/480p/cat"
    for folder, array, suffix in ((frames, image, "jpg"), (masks, label, "png")):
        touch(folder, "._00000.jpg", "._00000.png", *JUNK)
        Image.fromarray(array).save(folder / f"00000.{suffix}")
    touch(tmp_path / "davis/ImageSets/2017", "val.txt").joinpath("val.txt").write_text("cat\n")
    assert open_davis(tmp_path / "davis").sequences["cat"].frames == (frames / "00000.jpg",)
    assert open_frames(frames).count == 1
    assert open_dataset("frames", frames.parent).read("cat", lambda n_frames: [0], np.asarray).n_frames == 1
    for split in ("training", "validation"):
        touch(tmp_path / "ade/images" / split, "a.jpg", *JUNK)
        touch(tmp_path / "ade/annotations" / split, "a.png")
    assert len(open_ade(ADE_150_LABELS, 150, tmp_path / "ade", None).val) == 1
    for split in ("train", "test"):
        touch(tmp_path / "nyu" / split, "._a.mat", "a.mat", *JUNK)
    assert len(open_nyu(tmp_path / "nyu", None).val) == 1


def test_frames_are_in_natural_order_and_the_clips_of_a_store_in_that_of_characters(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"{folder}/frame_{n}.jpg" for folder in ("c2", "c10") for n in ("1", "10", "2", "01", "10²", "x"))
    )
    expected = [f"frame_{n}" for n in ("01", "1", "2", "10", "10²", "x")]
    assert [path.stem for path in list_files(tmp_path / "c2", {".jpg"})] == expected
    assert names_of(tmp_path) == [f"{folder}/{name}" for folder in ("c2", "c10") for name in expected]
    assert names_of(tmp_path / "*/*.jpg") == names_of(tmp_path)
    assert open_dataset("frames", tmp_path).clips() == ["c2", "c10"]
    touch(tmp_path, "v2.mp4", "v10.mp4")
    assert open_dataset("videos", tmp_path).clips() == ["v10.mp4", "v2.mp4"]


def test_a_folder_of_frames_is_tracked_in_natural_order(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (4, 4), (20 * number, 0, 0)).save(tmp_path / f"frame_{number}.png")
    assert [int(picture[0, 0, 0]) for picture in open_frames(tmp_path).frames] == [20 * n for n in range(12)]


def test_the_results_are_no_input(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "a.png", "out/a_pca.png", "deep/b.png")
    assert names_of(root, out=root / "out") == names_of(root / "**/*.png", out=root / "out") == ["a", "deep/b"]
    link(tmp_path / "elsewhere", root / "out")
    assert names_of(root, out=tmp_path / "elsewhere") == ["a", "deep/b"]
    for out in (root, root / "deep/.."):
        with pytest.raises(LilaError, match=r"in would receive its own results; pass another folder with --out"):
            list_inputs([root], out=out)
    assert names_of(root / "a.png", out=root) == ["a"]


@pytest.mark.usefixtures("closed_folders")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "closed/a.png")
    for read in (lambda: list_inputs([tmp_path]), lambda: list_files(tmp_path / "closed", {".png"})):
        with pytest.raises(LilaError, match=r"closed, found one that cannot be listed \(permission denied\); change"):
            read()
    assert list_files(tmp_path / "absent", {".png"}) == []


def test_data_sets_are_searched_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LILA_DATA", raising=False)
    with pytest.raises(
        LilaError, match=r"no folder at data/ade20k \(LILA_DATA is not set\); pass --data .*or set LILA_DATA"
    ):
        find_dataset("ade20k", None, "--data")
    (tmp_path / "data/ade20k").mkdir(parents=True)
    monkeypatch.setenv("LILA_DATA", "disk")
    assert find_dataset("ade20k") == tmp_path / "data/ade20k"
    (tmp_path / "disk/ade20k").mkdir(parents=True)
    assert find_dataset("ade20k") == tmp_path / "disk/ade20k"
    (tmp_path / "mine").mkdir()
    assert find_dataset("ade20k", Path("mine")) == tmp_path / "mine"
    with pytest.raises(LilaError, match="data set ade20k, found no folder at absent; pass --root"):
        find_dataset("ade20k", Path("absent"))
    with pytest.raises(LilaError, match="found no folder at disk/nyuv2 and data/nyuv2; pass --root"):
        find_dataset("nyuv2")


def test_a_folder_is_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "z.jpg", "a/b/c.JPG", "a/d.jpg", "a/e.txt")
    assert list(walk_files(tmp_path, {".jpg"})) == ["z.jpg", "a/d.jpg", "a/b/c.JPG"]
