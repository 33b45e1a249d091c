"""Listing of files for both stages: suffixes, links, hidden files, order, and where data sets are searched."""

from __future__ import annotations

import logging
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

JUNK = (
    "._b.jpg",
    "._b.mp4",
    ".DS_Store",
    "Thumbs.db",
    ".hidden.jpg",
    ".cache/c.mp4",
    "__MACOSX/._a.jpg",
    "@eaDir/b.jpg/S.jpg",
    "thumbs.db",
    "$RECYCLE.BIN/d.jpg",
    "System Volume Information/d.mp4",
    "#recycle/e.mp4",
)


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
    os.mkfifo(tmp_path / "pipe.png")
    for source, message in (
        ("none", "no file or folder at"),
        ("notes.txt", "expected an image or a video, found a .txt file"),
        ("empty", "no image or video under"),
        ("*.webp", "no image or video matches"),
        ("*.*", "would both be written as a"),
        ("pipe.png", "expected a file or a folder at .*, found a pipe or a device"),
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


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    root = touch(tmp_path, "a.mp4", "b/0.png", "c.HEIC", "d.heic", "old/features.json", "old/v_pca.mp4", *JUNK)
    link(root / "b/gone", "nowhere")
    others = "2 .heic, 1 folder of results (old/), 1 link that leads nowhere (b/gone)"
    assert names_of(root) == ["a", "b/0"]
    assert open_dataset("videos", root).clips() == ["a.mp4"]
    counts = [set(record.getMessage().partition(": ")[2].split(", ")) for record in caplog.records]
    assert counts == [{*others.split(", ")}, {*others.split(", "), "1 .png"}]
    (root / "a.mp4").unlink()
    with pytest.raises(LilaError, match=r"or below, found none \(2 \.heic.* left out\); pass --root"):
        open_dataset("videos", root).clips()
    assert names_of(root / "old") == ["v_pca"]


FRAMES = {  # names of a folder of frames, and the sentence that they get
    "without a gap": (["9.png", "10.png", "11.jpg"], ""),
    "every fifth": (["00000.jpg", "00005.jpg", "00010.jpg"], ""),
    "no numbers": (["a.png", "b.png", "10².png"], ""),
    "a gap": (["f1.png", "f2.png", "f3.png", "f6.png", "f7.png"], "2 frames are missing in the numbers of its images"),
    "gaps of a step": (["0.png", "5.png", "10.png", "20.png"], "1 frame is missing in the numbers"),
    "a mask beside": (
        ["00000.jpg", "00000.png"],
        "one image for each frame in .*, found 00000.jpg and 00000.png; move",
    ),
    "a mask beside, by a word": (
        ["00000.png", "00000_mask.png"],
        "one image for each frame in .*, found 00000.png and 00000_mask.png; move",
    ),
    "labels beside": (
        ["f.1.jpg", "f.1.Label.png", "f.2.jpg"],
        "one image for each frame in .*, found f.1.Label.png and f.1.jpg; move",
    ),
    "two cameras": (["1.left.png", "1.right.png"], ""),
    "masks alone": (["1_mask.png", "2_mask.png"], ""),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_checked_by_name(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    names, sentence = FRAMES[name]
    for file in names:
        Image.new("RGB", (4, 4)).save(touch(tmp_path, f"c/{file}") / f"c/{file}")
    for read in (
        lambda: open_dataset("frames", tmp_path).read("c", lambda n_frames: [0], np.asarray).n_frames,
        lambda: open_frames(tmp_path / "c").count,
    ):
        caplog.clear()
        if sentence.startswith("one image"):
            with pytest.raises(LilaError, match=sentence):
                read()
        else:
            assert read() == len(names)
            assert [sentence in record.getMessage() for record in caplog.records] == [True] * bool(sentence)


@pytest.mark.parametrize(
    "name", ["n\nl", "tab\t", "x\udcff", "\udcfe/k", "a\\u000a", "b\\", "[bold]", "é", "\x1b[2J", "\x7f"]
)
def test_any_name_is_a_clip_that_a_store_can_hold(tmp_path: Path, name: str) -> None:
    for suffix, dataset in ((".mp4", "videos"), ("/0.png", "frames")):
        root = touch(tmp_path / dataset, name + suffix)
        opened = open_dataset(dataset, root)
        (clip,) = opened.clips()
        assert clip.encode().decode().isprintable()
        assert opened.path(clip) == root / (name + suffix.removesuffix("/0.png"))


def test_results_of_one_name_are_refused_before_the_work(tmp_path: Path) -> None:
    for names in (
        ("a.png", "a.jpg"),
        ("clip.mp4", "clip/00000.png"),
        ("clip/00000.png", "clip.mp4"),
        ("v.mov", "v.mkv"),
        ("b/c.mp4", "b/c.png"),
        ("d.mp4", "d.zarr/x.png"),
        ("e.png", "e_pca.png/deep/x.png"),
        ("f/g.jpg", "f/g.npz/v.mp4"),
    ):
        root = touch(tmp_path / names[0], *names)
        with pytest.raises(LilaError, match=r"would both be written as .*; rename one of them"):
            list_inputs([root])
    touch(tmp_path / "fine", "clip.mp4", "clip/frame.png", "clip.d/00000.png", "other.zarr/x.png")
    assert len(list_inputs([tmp_path / "fine"])) == 4


@pytest.mark.parametrize("mark", ["features.json", "track.json", "identity.json", "zarr.json"])
def test_results_of_earlier_commands_are_no_input(tmp_path: Path, mark: str) -> None:
    root = touch(tmp_path, "a/0.png", f"a/old/{mark}", "a/old/parts/0.png", "a/old/v.mp4", "v.mp4")
    assert names_of(root) == ["v", "a/0"]
    assert open_dataset("videos", root).clips() == ["v.mp4"]
    assert open_dataset("frames", root).clips() == ["a"]


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
    with pytest.raises(LilaError, match="data set ade20k, found no folder at absent; name the folder"):
        find_dataset("ade20k", Path("absent"))
    with pytest.raises(LilaError, match="found no folder at disk/nyuv2 and data/nyuv2; pass --root"):
        find_dataset("nyuv2")


def test_a_folder_is_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "z.jpg", "a/b/c.JPG", "a/d.jpg", "a/e.txt")
    assert list(walk_files(tmp_path, {".jpg"})) == ["z.jpg", "a/d.jpg", "a/b/c.JPG"]
