"""DAVIS folders: both layouts read, every kind of broken folder refused with the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lila_cues import images
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.task import open_davis
from lila_train.evaluation.protocols import open_task
from stores.errors import LilaError


def write_sequence(root: Path, name: str, masks: list[np.ndarray], palette: bool = True) -> None:
    frames, annotations = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
    frames.mkdir(parents=True)
    annotations.mkdir(parents=True)
    for number, mask in enumerate(masks):
        height, width = mask.shape
        Image.new("RGB", (width, height), (10 * number, 90, 200)).save(frames / f"{number:05d}.jpg")
        picture = Image.fromarray(mask)
        if palette:
            picture.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
        picture.save(annotations / f"{number:05d}.png")


def write_list(root: Path, text: str, layout: str = "2017") -> Path:
    path = root / "ImageSets" / layout / "val.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mask_of(value: int) -> np.ndarray:
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4, 3:6] = value
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sequence(tmp_path, "cat", [mask_of(2), mask_of(255), mask_of(1)])
    write_list(tmp_path, "cat\n")
    return tmp_path


def test_2017_layout_gives_palette_indices_with_void(folder: Path):
    data = open_davis(folder)
    ((name, sequence),) = data.sequences.items()
    assert (data.layout, name, len(sequence.frames)) == ("DAVIS-2017", "cat", 3)
    assert [path.name for path in sequence.frames] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    for path, value in zip(sequence.masks, (2, 255, 1), strict=True):
        np.testing.assert_array_equal(data.labels(path), mask_of(value))
    assert images.read_image(sequence.frames[0]).shape == (6, 8, 3)


@pytest.mark.parametrize("line", ["cat", "/JPEGImages/480p/cat/00000.jpg /Annotations/480p/cat/00000.png\n" * 2])
def test_2016_layout_gives_one_object(tmp_path: Path, line: str):
    write_sequence(tmp_path, "cat", [mask_of(255)] * 2, palette=False)
    write_list(tmp_path, line, "480p")
    data = open_davis(tmp_path)
    assert list(data.sequences) == ["cat"]
    np.testing.assert_array_equal(data.labels(data.sequences["cat"].masks[1]), mask_of(1))


def test_the_year_is_the_user_s_choice_where_a_folder_lists_both(folder: Path):
    write_sequence(folder, "ant", [mask_of(2), mask_of(1)])
    with pytest.raises(LilaError, match=r"480p/val.txt or ImageSets/2016/val.txt, found ImageSets/2017/val.txt of the"):
        open_davis(folder, year=2016)
    write_list(folder, "ant\n", "2016")
    assert (list(open_davis(folder).sequences), open_davis(folder).year) == (["cat"], None)
    data = open_davis(folder, year=2016)
    assert (list(data.sequences), data.year) == (["ant"], 2016)
    np.testing.assert_array_equal(data.labels(data.sequences["ant"].masks[0]), mask_of(1))  # two objects are one
    task = open_task("davis-knn@lila", folder, EvalConfig(year=2016))
    assert task.config.evaluation_id(task.protocol) == "davis-knn@lila+year=2016"
    (folder / "ImageSets/2017/val.txt").unlink()
    assert open_task("davis-lp@lila", folder, EvalConfig()).config.year == 2016  # never under the name of 2017
    with pytest.raises(LilaError, match=r"2017/val.txt, found ImageSets/2016/val.txt of the other year in .*; leave"):
        open_davis(folder, year=2017)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_any_encoding_and_suffixes_of_any_case(folder: Path, encoding: str):
    (folder / "ImageSets/2017/val.txt").write_bytes("cat\r\n".encode(encoding))
    for path in (folder / "JPEGImages/480p/cat").iterdir():
        path.rename(path.with_suffix(".JPG"))
    (sequence,) = open_davis(folder).sequences.values()
    assert [path.name for path in sequence.frames] == ["00000.JPG", "00001.JPG", "00002.JPG"]


def test_limit_keeps_the_first_sequences_of_the_list(folder: Path):
    write_sequence(folder, "ant", [mask_of(1)])
    write_list(folder, "cat\nant\n")
    assert list(open_davis(folder, limit=1).sequences) == ["cat"]
    assert len(open_davis(folder).sequences) == 2


def test_real_davis_is_read(shared: Path):
    data = open_davis(shared / "data/davis")
    assert list(data.sequences) == ["blackswan", "camel", "car-shadow", "cows", "dog"]
    labels = data.labels(data.sequences["dog"].masks[29])
    assert labels.shape == (480, 854)
    assert set(np.unique(labels)) == {0, 1}


def test_a_folder_of_another_layout_is_refused(tmp_path: Path):
    with pytest.raises(
        LilaError, match=r"ImageSets/2017/val.txt or ImageSets/480p/val.txt or .*, found none of them in"
    ):
        open_davis(tmp_path)


def test_an_empty_list_is_refused(folder: Path):
    write_list(folder, "\n \n")
    with pytest.raises(LilaError, match=r"one sequence name per line in .*val\.txt, found none"):
        open_davis(folder)


def test_a_listed_sequence_without_a_folder_is_refused(folder: Path):
    write_list(folder, "cat\ndog\n")
    with pytest.raises(LilaError, match=r"the folder .*JPEGImages/480p/dog of the sequence dog"):
        open_davis(folder)


def test_a_sequence_without_frames_is_refused(folder: Path):
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p/none").mkdir()
    write_list(folder, "none")
    with pytest.raises(LilaError, match=r"frames 00000\.jpg, .* in .*none, found none"):
        open_davis(folder)


@pytest.mark.parametrize("lost", ["JPEGImages/480p/cat/00001.jpg", "Annotations/480p/cat/00002.png"])
def test_a_frame_without_its_mask_is_refused(folder: Path, lost: str):
    (folder / lost).unlink()
    with pytest.raises(LilaError, match=rf"a frame and a mask for every number, found no .*{lost}"):
        open_davis(folder)


def test_a_gap_in_the_numbers_is_refused(folder: Path):
    for lost in ("JPEGImages/480p/cat/00001.jpg", "Annotations/480p/cat/00001.png"):
        (folder / lost).unlink()
    with pytest.raises(LilaError, match=r"without a gap in .*cat, found no frame 00001"):
        open_davis(folder)


def test_a_file_that_is_not_numbered_is_refused(folder: Path):
    (folder / "JPEGImages/480p/cat/cover.jpg").touch()
    with pytest.raises(LilaError, match=r"named by frame number in .*cat, found cover"):
        open_davis(folder)


def test_a_grey_level_in_a_binary_mask_is_refused(tmp_path: Path):
    write_sequence(tmp_path, "cat", [mask_of(7)], palette=False)
    write_list(tmp_path, "cat", "480p")
    data = open_davis(tmp_path)
    with pytest.raises(LilaError, match=r"only 0 and 255 .* found 7 in .*cat/00000\.png"):
        data.labels(data.sequences["cat"].masks[0])


def test_a_color_mask_is_refused(folder: Path):
    path = folder / "Annotations/480p/cat/00000.png"
    Image.new("RGB", (8, 6)).save(path)
    with pytest.raises(LilaError, match=r"found mode RGB in .*cat/00000\.png"):
        images.read_mask(path)


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "an empty file"), (b"not a picture", "a file in no known image format")]
)
def test_an_unreadable_image_is_refused(folder: Path, content: bytes, found: str):
    path = folder / "JPEGImages/480p/cat/00001.jpg"
    path.write_bytes(content)
    with pytest.raises(LilaError, match=rf"cat/00001\.jpg: expected an image, found {found}"):
        images.read_image(path)


def test_a_truncated_image_is_refused(folder: Path):
    path = folder / "Annotations/480p/cat/00001.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(LilaError, match=r"cat/00001\.png: expected an image, found one that cannot be decoded"):
        images.read_mask(path)
