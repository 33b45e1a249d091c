"""Data sets: clip ids from files in their usual places, and one sentence where they are missing."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from lila_cues.datasets import DATASETS, Dataset, open_dataset
from lila_cues.video.clip import DecodedClip
from stores.errors import LilaError
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip, numbers


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and no LILA_DATA."""
    monkeypatch.delenv("LILA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_images(folder: Path, indices: range | list[int], pattern: str = "{:05d}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        cv2.imwrite(str(folder / pattern.format(index)), barcodes.picture(index)[..., ::-1])


def read(dataset: Dataset, clip_id: str, *indices: int) -> DecodedClip:
    return dataset.read(clip_id, lambda n_frames: indices, np.asarray)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "demo"])
def test_missing_data_are_an_error_that_names_places_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(LilaError, match=f"expected the data set {name}, found no folder at data/{name} .*pass --root"):
        open_dataset(name)
    monkeypatch.setenv("LILA_DATA", str(tmp_path / "disk"))
    with pytest.raises(LilaError, match=f"{tmp_path}/disk/{name} and data/{name}; pass --root .* or set LILA_DATA"):
        open_dataset(name)
    with pytest.raises(LilaError, match=f"no folder at {tmp_path}/elsewhere; name the folder"):
        open_dataset(name, tmp_path / "elsewhere")


def test_the_size_of_frames_is_read_from_a_header_or_an_image(tmp_path: Path) -> None:
    write_images(tmp_path / "clips" / "b", range(2))
    barcodes.write(tmp_path / "clips" / "a.mp4", Clip(frames=2, size=(64, 80)))
    touch(tmp_path / "clips" / "c" / "0.png", tmp_path / "clips" / "d.mp4")
    (tmp_path / "clips" / "e").mkdir()
    dataset = open_dataset("videos", tmp_path / "clips")
    assert dataset.frame_size("a.mp4") == (64, 80)
    assert dataset.frame_size("b") == barcodes.picture(0).shape[:2]
    for clip_id, found in (("c", "an empty file"), ("d.mp4", "an empty file"), ("e", "a folder")):
        with pytest.raises(LilaError, match=f"{clip_id}.*found {found}"):
            dataset.frame_size(clip_id)


def test_data_are_found_in_lila_data_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "data" / "videos" / "near.mp4", tmp_path / "disk" / "videos" / "far.mp4")
    assert open_dataset("videos").clips() == ["near.mp4"]
    monkeypatch.setenv("LILA_DATA", str(tmp_path / "disk"))
    assert open_dataset("videos").clips() == ["far.mp4"]


def test_an_unknown_data_set_is_an_error() -> None:
    with pytest.raises(LilaError, match=r"expected a data set among demo, videos, .*, found 'ucf101'"):
        open_dataset("ucf101")


@pytest.mark.parametrize("name", ["videos", "frames", "kinetics", "davis", "youtube-vos"])
def test_an_empty_folder_is_an_error(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "root" / "readme.txt")
    with pytest.raises(LilaError, match=r"(?s)expected .*, found (none|no such folder).*pass --root"):
        open_dataset(name, tmp_path / "root").clips()


@pytest.mark.parametrize("name", ["videos", "frames", "kinetics"])
@pytest.mark.usefixtures("closed_folders")
def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "closed").mkdir()
    with pytest.raises(LilaError, match=r"closed, found one that cannot be listed \(permission denied\); change its"):
        open_dataset(name, tmp_path).clips()


def test_videos_are_listed_in_order_of_folder_and_name(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(
        root / "b.MP4", root / "a" / "z.webm", root / "a" / ".hidden.mp4", root / ".trash" / "x.mp4", root / "notes.txt"
    )
    barcodes.write(root / "a" / "c.mp4", Clip(frames=4))
    dataset = open_dataset("videos", root)
    assert dataset.clips() == ["b.MP4", "a/c.mp4", "a/z.webm"]
    clip = read(dataset, "a/c.mp4", 2)
    assert numbers(clip.frames) == [2]
    assert clip.names == ["00002"]


@pytest.mark.parametrize("clip_id", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4", ""])
def test_a_clip_id_that_leaves_the_root_is_an_error(tmp_path: Path, clip_id: str) -> None:
    with pytest.raises(LilaError, match="expected a clip id within"):
        read(open_dataset("videos", tmp_path), clip_id, 0)


def test_frames_are_folders_of_images_in_natural_order(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_images(root / "deep" / "clip", [2, 10, 9], "img{}.png")
    write_images(root / "solo", [5], "a.jpg")
    dataset = open_dataset("frames", root)
    assert dataset.clips() == ["deep/clip", "solo"]
    clip = read(dataset, "deep/clip", 0, 1, 2)
    assert numbers(clip.frames) == [2, 9, 10]
    assert clip.names == ["img2", "img9", "img10"]
    with pytest.raises(LilaError, match="expected a folder of frames, found none"):
        read(dataset, "absent", 0)
    (root / "bare").mkdir()
    with pytest.raises(LilaError, match="bare: expected images, found none"):
        read(dataset, "bare", 0)
    with pytest.raises(LilaError, match="found only images without a folder of their own"):
        open_dataset("frames", root / "solo").clips()


DAVIS_LISTS = {  # of bear and bus
    "names": b"bear\nbus\n",
    "paths": b"/JPEGImages/480p/bus/0.jpg /A/bus/0.png\n/JPEGImages/480p/bear/0.jpg x\n",
    "backslashes": b"JPEGImages\\480p\\bus\\0.jpg\r\nJPEGImages\\480p\\bear\\0.jpg\r\n",
    "a mark, CRLF": b"\xef\xbb\xbfbear\r\n\r\n bus \r\n",
    "UTF-16": "bear\nbus\n".encode("utf-16"),
    "slashes": b"bear/\nbus/\n",
    "semicolons": b"bear;\nbus;\n",
    "in one line": b"bear, bus, bear",
}


@pytest.mark.parametrize("content", DAVIS_LISTS.values(), ids=DAVIS_LISTS)
@pytest.mark.parametrize("unpacked", ["", "DAVIS"])
def test_davis_offers_its_training_sequences(tmp_path: Path, content: bytes, unpacked: str) -> None:
    home = tmp_path / "root" / unpacked
    for sequence in ("bear", "bus", "camel"):
        write_images(home / "JPEGImages" / "480p" / sequence, range(2), "{:05d}.jpg")
    dataset = open_dataset("davis", tmp_path / "root")
    assert dataset.clips() == ["bear", "bus", "camel"]
    touch(home / "ImageSets" / "480p" / "train.txt")
    (home / "ImageSets" / "480p" / "train.txt").write_bytes(content)
    dataset = open_dataset("davis", tmp_path / "root")
    assert dataset.clips() == ["bear", "bus"]
    assert numbers(read(dataset, "bus", 0, 1).frames) == [0, 1]


@pytest.mark.parametrize("place", ["train_all_frames", "train_all_frames/train_all_frames"])
def test_youtube_vos_skips_its_broken_frame(tmp_path: Path, place: str) -> None:
    write_images(tmp_path / "root" / place / "JPEGImages" / "ef45ce3035", [98, 100], "{:05d}.jpg")
    (tmp_path / "root" / place / "JPEGImages" / "ef45ce3035" / "00099.jpg").write_bytes(b"broken")
    dataset = open_dataset("youtube-vos", tmp_path / "root")
    assert dataset.clips() == ["ef45ce3035"]
    clip = read(dataset, "ef45ce3035", 0, 1)
    assert numbers(clip.frames) == [98, 100]
    np.testing.assert_allclose(clip.times, [0, 1 / 30])


def test_youtube_vos_with_every_fifth_frame_only_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "root" / "train" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(LilaError, match=r"train, which has every fifth frame only; unpack train_all_frames\.zip"):
        open_dataset("youtube-vos", tmp_path / "root")


IDS = ["-0aBcDeFgHi", "__qwertyuio", "a_000001_0X"]
CSV = "label,youtube_id,time_start,time_end,split\nbowling,-0aBcDeFgHi,10,20,train\nfishing,a_000001_0X,0,10,train\n"
JSON = {
    "-0aBcDeFgHi": {"annotations": {"label": "bowling", "segment": [10.0, 20.0]}, "subset": "train"},
    "a_000001_0X": {"annotations": {"label": "fishing", "segment": [0, 10]}, "subset": "train"},
    "__qwertyuio": {"annotations": {"label": "fishing", "segment": [0, 10]}, "subset": "validate"},
}


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("train/bowling alley", "{}_000010_000020.mp4"),
        ("k400/train", "{}_000010_000020.mp4"),
        ("videos_train/bowling", "{}.mkv"),
        ("Kinetics-600/videos/train", "{}_000010_000020.mp4"),
        ("anything", "{}.mp4"),
    ],
)
@pytest.mark.parametrize("listed", ["", "annotations/train.csv", "kinetics700_2020_train.json", "train.csv"])
def test_kinetics_in_its_usual_layouts(tmp_path: Path, layout: str, file: str, listed: str) -> None:
    root = tmp_path / "kinetics"
    names = [file.format(video) for video in IDS]
    touch(*(root / layout / name for name in names))
    if layout != "anything":
        touch(root / "val" / "bowling" / "never_000001_000011.mp4", root / "replacement" / "r" / names[1])
    if listed:
        touch(root / listed)
        (root / listed).write_text(json.dumps(JSON) if listed.endswith("json") else CSV)
    expected = [f"{layout}/{name}" for name in (names if not listed else [names[0], names[2]])]
    assert open_dataset("kinetics", root).clips() == expected


def test_kinetics_reads_the_replacement_of_a_corrupt_clip(tmp_path: Path) -> None:
    name = "-0aBcDeFgHi_000010_000020.mp4"
    touch(tmp_path / "k400" / "train" / name)
    repaired = tmp_path / "k400" / "replacement" / "replacement_for_corrupted_k400" / name
    touch(repaired)
    barcodes.write(repaired, Clip(frames=5))
    dataset = open_dataset("kinetics", tmp_path)
    assert numbers(read(dataset, f"k400/train/{name}", 4).frames) == [4]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "a,b\n1,2\n"),
        ("train.csv", "\ufeff"),
        ("train.csv", "label,youtube_id,split\nx,_aaaaaaaa_1,val\n"),
        ("train.json", "[1, 2]"),
        ("train.json", "{}"),
        ("train.json", "{"),
    ],
)
def test_a_list_in_another_format_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    touch(tmp_path / "train" / "x_000001_000011.mp4")
    (tmp_path / name).write_text(content)
    with pytest.raises(LilaError, match=f"{name}: expected a list of Kinetics .* restore it, or take it away"):
        open_dataset("kinetics", tmp_path).clips()


def test_the_demo_is_rendered_when_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, int]] = []

    def render(root: Path, seed: int) -> None:
        calls.append((root, seed))
        touch(root / "train" / "scene.mp4", root / "heldout" / "other.mp4")

    monkeypatch.setattr("lila_cues.demo.dataset.render_demo", render)
    dataset = open_dataset("demo", seed=3)
    assert not calls
    assert dataset.clips() == ["scene.mp4"]
    assert calls == [(tmp_path / "data" / "demo", 3)]
    assert os.listdir("data/demo") != []


COPIES = {  # files of a training folder, and which of them the log names as one clip
    "in two classes": (["a/_aaaaaaaa_1_000010_000020.mp4", "b/_aaaaaaaa_1_000010_000020.mp4"], True),
    "in two containers": (["a/_aaaaaaaa_1.mkv", "a/_aaaaaaaa_1.mp4"], True),
    "with and without zeros": (["a/_aaaaaaaa_1_000010_000020.mp4", "a/_aaaaaaaa_1_10_20.mp4"], True),
    "from second 0 on": (["a/_aaaaaaaa_1_000000_000010.mp4", "a/_aaaaaaaa_1_0_10.mp4"], True),
    "short ids": (["a/v_000010_000020.mp4", "b/v_000010_000020.webm"], True),
    "two times of a video": (["a/_aaaaaaaa_1_000010_000020.mp4", "a/_aaaaaaaa_1_000030_000040.mp4"], False),
    "two ids": (["a/_aaaaaaaa_1.mp4", "a/_aaaaaaaa_2.mp4"], False),
}


@pytest.mark.parametrize("name", COPIES)
def test_videos_of_one_stem_are_told_apart_by_their_path(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files, said = COPIES[name]
    touch(*(tmp_path / "train" / file for file in files), tmp_path / "train" / "a" / "x.txt")
    dataset = open_dataset("kinetics", tmp_path)
    assert dataset.clips() == [f"train/{file}" for file in files]
    assert [dataset.path(clip) for clip in dataset.clips()] == [tmp_path / "train" / file for file in files]
    message = f"copies of other clips: 1 (such as train/{files[0]} and train/{files[1]}); each file is built"
    assert (message in caplog.text) == said
    assert "1 .txt" in caplog.text


def test_a_repaired_copy_in_the_folder_of_a_class_is_for_that_class_alone(tmp_path: Path) -> None:
    clips = [f"train/{name}/_aaaaaaaa_1.mp4" for name in "ab"]
    touch(*(tmp_path / clip for clip in clips), tmp_path / "replacement" / "b" / "_aaaaaaaa_1.mp4")
    dataset = open_dataset("kinetics", tmp_path)
    assert [dataset.path(clip) for clip in clips] == [
        tmp_path / clips[0],
        tmp_path / "replacement" / "b" / "_aaaaaaaa_1.mp4",
    ]


LISTS = {  # a training list of Kinetics, which holds _aaaaaaaa_1 and bbbbbbbbbbb
    "plain": b"label,youtube_id,time_start,time_end,split\nx,_aaaaaaaa_1,10,20,train\ny,bbbbbbbbbbb,1,11,train\n",
    "byte order mark": "\ufefflabel,youtube_id\nx,_aaaaaaaa_1\ny,bbbbbbbbbbb\n".encode(),
    "UTF-16": "label,youtube_id\nx,_aaaaaaaa_1\ny,bbbbbbbbbbb\n".encode("utf-16"),
    "semicolons, CRLF": b"label;youtube_id\r\nx, y;_aaaaaaaa_1\r\ny;bbbbbbbbbbb\r\n",
    "spaces": b"label, youtube_id , split\nx, _aaaaaaaa_1, train\ny, bbbbbbbbbbb, train \n",
    "UTF-16 without a mark": "label,youtube_id\nx,_aaaaaaaa_1\ny,bbbbbbbbbbb\n".encode("utf-16-le"),
    "UTF-16, high byte first": "label,youtube_id\nx,_aaaaaaaa_1\ny,bbbbbbbbbbb\n".encode("utf-16-be"),
    "UTF-32": "label,youtube_id\nx,_aaaaaaaa_1\ny,bbbbbbbbbbb\n".encode("utf-32"),
    "from a spreadsheet": b"sep=;\r\n\r\nYouTube_ID;Split\r\n_aaaaaaaa_1;Train\r\nbbbbbbbbbbb;Train\r\n;\r\n",
    "bars": b"label|youtube_id\nx|_aaaaaaaa_1\ny|bbbbbbbbbbb\n",
    "short rows": b"label,youtube_id,split\nz\nx,_aaaaaaaa_1\ny,bbbbbbbbbbb,train\n\0",
    "JSON with a mark": '\ufeff{"_aaaaaaaa_1": {"subset": "training"}, "bbbbbbbbbbb": {}}'.encode(),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_read_as_they_are(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / f"train.{'json' if 'JSON' in name else 'csv'}").write_bytes(LISTS[name])
    clips = ["train/_aaaaaaaa_1_000010_000020.mp4", "train/bbbbbbbbbbb_1_11.MP4"]
    for clip in (*clips, "train/ccccccccccc.mp4"):
        (tmp_path / clip).parent.mkdir(exist_ok=True)
        (tmp_path / clip).touch()
    assert open_dataset("kinetics", tmp_path).clips() == clips
    assert "left out 1 of 3 clips that" in caplog.text
    for clip in clips:
        (tmp_path / clip).unlink()
    with pytest.raises(LilaError, match=r"expected clips that .* lists, found 1 others in .*train; restore it"):
        open_dataset("kinetics", tmp_path).clips()
