"""Invalid data through the command: exit status 2 and an error that names the file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from lila_train import cli
from tests.lila_train.evaluation.dense.test_segmentation import save, stripes, write_coco
from tests.lila_train.evaluation.worlds import write_davis, write_spair

MASKS = Path("Annotations/480p/one")
FRAMES = Path("JPEGImages/480p/one")
PAIR = "PairAnnotation/test/0:cat.json"
LISTED = Path("curated/val2017/Coco164kFull_Stuff_Coarse.txt")


def davis(root: Path) -> Path:
    return write_davis(root, ("one",), count=4)


def coco(root: Path) -> Path:
    labels = stripes(0, 91, 156, 255)
    return write_coco(root, labels, np.repeat(labels[..., None], 3, axis=2), count=1)


def ade(root: Path) -> Path:
    labels = stripes(0, 1, 150)
    for split in ("training", "validation"):
        save(np.repeat(labels[..., None], 3, axis=2), root / f"images/{split}/a.jpg")
        save(labels, root / f"annotations/{split}/a.png")
    return root


def nyu(root: Path) -> Path:
    for split in ("train", "test"):
        save(np.zeros((8, 8, 3), np.uint8), root / split / "rgb/a.png")
        save(np.full((8, 8), 2000, np.uint16), root / split / "depth/a.png")
    return root


def spair(root: Path) -> Path:
    return write_spair(root, [("cat", [(3.0, 4.0)], [(5.0, 6.0)])])


def tapvid(root: Path, **changed: np.ndarray) -> Path:
    root.mkdir()
    arrays = {"video": np.zeros((3, 8, 8, 3), np.uint8), "points": np.full((2, 3, 2), 0.5, np.float32)}
    np.savez(root / "a.npz", **(arrays | {"occluded": np.zeros((2, 3), bool)} | changed))
    return root


def write_matlab_73(path: Path) -> None:
    """Write the header by which a MATLAB file of version 7.3 is known: HDF5 after 512 bytes of text."""
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(64))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def mask(root: Path, values: np.ndarray, name: str = "00002.png") -> None:
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette([0] * 768)
    picture.save(root / MASKS / name)


Spoil = Callable[[Path], None]
CASES: dict[str, tuple[str, Callable[[Path], Path], Spoil, str]] = {
    "ids beyond the annotated objects": (
        "davis-knn@lila",
        davis,
        lambda root: mask(root, np.full((48, 64), 5)),
        "Annotations/480p/one/00002.png",
    ),
    "a mask of another size": (
        "davis-knn@lila",
        davis,
        lambda root: mask(root, np.zeros((24, 64))),
        "Annotations/480p/one/00002.png",
    ),
    "a frame of another size": (
        "davis-knn@dino",
        davis,
        lambda root: save(np.zeros((48, 60, 3), np.uint8), root / FRAMES / "00001.jpg"),
        "JPEGImages/480p/one/00001.jpg",
    ),
    "a missing frame": (
        "davis-knn@lila",
        davis,
        lambda root: (root / FRAMES / "00001.jpg").unlink(),
        "JPEGImages/480p/one/00001.jpg",
    ),
    "a truncated frame": (
        "davis-knn@lila",
        davis,
        lambda root: truncate(root / FRAMES / "00003.jpg"),
        "JPEGImages/480p/one/00003.jpg",
    ),
    "no object to follow": (
        "davis-knn@lila",
        davis,
        lambda root: shutil.copy(_blank(root / "blank.png"), root / MASKS / "00000.png"),
        "Annotations/480p/one/00000.png",
    ),
    "another data set": ("davis-knn@lila", ade, lambda root: None, "ImageSets/2017/val.txt"),
    "an empty list": ("cocostuff27@lila", coco, lambda root: (root / LISTED).write_text("\n"), str(LISTED)),
    "a label out of range": (
        "cocostuff27@featup",
        coco,
        lambda root: save(stripes(0, 200, 0, 0), root / "annotations/train2017/000000000000.png"),
        "annotations/train2017/000000000000.png",
    ),
    "labels of another size": (
        "ade20k150",
        ade,
        lambda root: save(stripes(1, 2), root / "annotations/training/a.png"),
        "annotations/training/a.png",
    ),
    "labels in another form": (
        "ade20k151",
        ade,
        lambda root: save(np.zeros((40, 36, 3), np.uint8), root / "annotations/training/a.png"),
        "annotations/training/a.png",
    ),
    "validation labels of another size": (
        "ade20k150",
        ade,
        lambda root: save(stripes(1, 2)[:20], root / "annotations/validation/a.png"),
        "annotations/validation/a.png",
    ),
    "validation labels in another form": (
        "ade20k151",
        ade,
        lambda root: save(np.zeros((40, 36, 3), np.uint8), root / "annotations/validation/a.png"),
        "annotations/validation/a.png",
    ),
    "a truncated training image": (
        "ade20k150",
        ade,
        lambda root: truncate(root / "images/training/a.jpg"),
        "images/training/a.jpg",
    ),
    "training labels out of range": (
        "ade20k150",
        ade,
        lambda root: save(stripes(0, 1, 200), root / "annotations/training/a.png"),
        "labels of ADE20K, 0 to 150 or 255, found 200 in",
    ),
    "training depth in meters": (
        "nyuv2-normals@lila",
        nyu,
        lambda root: save(np.full((8, 8), 3, np.uint16), root / "train/depth/a.png"),
        "train/depth/a.png; a PNG holds millimeters",
    ),
    "training depth of another size": (
        "nyuv2-normals@probe3d",
        nyu,
        lambda root: save(np.full((8, 9), 2000, np.uint16), root / "train/depth/a.png"),
        "train/depth/a.png; restore",
    ),
    "arrays of two sizes in one training file": (
        "nyuv2-normals@lila",
        nyu,
        lambda root: scipy.io.savemat(
            root / "train/a.mat", {"img": np.ones((8, 8, 3)), "depth": np.ones((8, 9)), "norm": np.ones((8, 8, 3))}
        ),
        "train/a.mat, but it cannot be read (shapes (8, 8, 3), (8, 9) and (8, 8, 3))",
    ),
    "a truncated frame of the last sequence": (
        "davis-lp@lila",
        lambda root: write_davis(root, ("one", "two"), count=3),
        lambda root: truncate(root / "JPEGImages/480p/two/00002.jpg"),
        "JPEGImages/480p/two/00002.jpg",
    ),
    "a sequence without a frame to score": (
        "davis-knn@dino",
        lambda root: write_davis(root, ("one",), count=2),
        lambda root: None,
        "at least 3 frames to score in sequence one",
    ),
    "labels that count from 1": (
        "cocostuff27@lila",
        coco,
        lambda root: save(stripes(0, 90, 25, 1), root / "annotations/val2017/000000000000.png"),
        "annotations/val2017/000000000000.png, which occurs only where they count from 1, with 0 for void; subtract 1",
    ),
    "training labels that count from 0": (
        "ade20k150",
        ade,
        lambda root: save(stripes(0, 149, 255), root / "annotations/training/a.png"),
        "annotations/training/a.png, which occurs only where they count from 0, with 255 for void; add 1",
    ),
    "another kind of MATLAB file": (
        "nyuv2-normals@lila",
        nyu,
        lambda root: scipy.io.savemat(root / "train/a.mat", {"img": "x", "depth": [1], "norm": {}}),
        "expected img, depth and norm in",
    ),
    "masks that lost their palette": (
        "davis-knn@lila",
        davis,
        lambda root: mask(root, np.tile(np.repeat([0, 38, 75, 75], 16), (48, 1)), "00000.png"),
        "Annotations/480p/one/00000.png, found 38, 75; a palette was lost",
    ),
    "the labeled file of NYUv2": (
        "nyuv2-normals@lila",
        lambda root: root,
        lambda root: (root.mkdir(), (root / "nyu_depth_v2_labeled.mat").touch())[0],
        "found nyu_depth_v2_labeled.mat alone; nyu_depth_v2_labeled.mat has neither the splits nor GeoNet's normals",
    ),
    "a file of MATLAB 7.3": (
        "nyuv2-normals@lila",
        nyu,
        lambda root: write_matlab_73(root / "test/a.mat"),
        "test/a.mat, found one of MATLAB 7.3; nyu_depth_v2_labeled.mat has neither",
    ),
    "a missing image": (
        "ade20k150",
        ade,
        lambda root: (root / "annotations/validation/a.png").unlink(),
        "annotations/validation/a.png",
    ),
    "depth in 8 bits": (
        "nyuv2-normals@lila",
        nyu,
        lambda root: save(np.zeros((8, 8), np.uint8), root / "train/depth/a.png"),
        "train/depth/a.png",
    ),
    "normals of another data set": ("nyuv2-normals@probe3d", davis, lambda root: None, "train"),
    "depth of another data set": ("nyuv2-depth@linear", davis, lambda root: None, "GeoNet's .mat files, or rgb and"),
    "depth in meters": (
        "nyuv2-depth@linear",
        nyu,
        lambda root: save(np.full((8, 8), 3, np.uint16), root / "test/depth/a.png"),
        "test/depth/a.png; a PNG holds millimeters",
    ),
    "frames of another data set": ("davis-stability", ade, lambda root: None, "ImageSets/2017/val.txt"),
    "pairs of another data set": ("spair71k-knn", davis, lambda root: None, "Layout/large/test.txt, found none in"),
    "a pair without its points": (
        "spair71k-knn",
        spair,
        lambda root: (root / PAIR).write_text((root / PAIR).read_text().replace("trg_kps", "kps")),
        f"{PAIR}, but it cannot be read ('trg_kps')",
    ),
    "a pair with fewer points in one image": (
        "spair71k-knn",
        spair,
        lambda root: (root / PAIR).write_text((root / PAIR).read_text().replace("[[5.0, 6.0]]", "[]")),
        f"{PAIR}, but it cannot be read (1 and 0 points",
    ),
    "a missing image of a pair": (
        "spair71k-knn",
        spair,
        lambda root: (root / "JPEGImages/cat/0t.jpg").unlink(),
        "JPEGImages/cat/0t.jpg",
    ),
    "a point outside of its image": (
        "spair71k-knn",
        spair,
        lambda root: save(np.zeros((5, 5, 3), np.uint8), root / "JPEGImages/cat/0t.jpg"),
        "JPEGImages/cat/0t.jpg, found 5, 6; restore",
    ),
    "TAP-Vid as a pickle": (
        "tapvid-davis@first",
        lambda root: root,
        lambda root: (root.mkdir(), (root / "tapvid_davis.pkl").touch())[0],
        "found a pickle, which may run code when it is opened; convert TAP-Vid",
    ),
    "tracks in pixels": (
        "tapvid-davis@first",
        lambda root: tapvid(root, points=np.full((2, 3, 2), 5.0)),
        lambda root: None,
        "a.npz, found 3 frames and 5 to 5; divide pixels",
    ),
    "tracks of another length": (
        "tapvid-davis@first",
        lambda root: tapvid(root, occluded=np.zeros((2, 4), bool)),
        lambda root: None,
        "a.npz, found float32 2×3×2 and bool 2×4; convert",
    ),
    "a video of another length": (
        "tapvid-davis@first",
        lambda root: tapvid(root, video=np.zeros((2, 8, 8, 3), np.uint8)),
        lambda root: None,
        "video as uint8 3×height×width×3",
    ),
    "tracks without a video": (
        "tapvid-davis@first",
        lambda root: tapvid(root),
        lambda root: np.savez(root / "a.npz", points=np.zeros((1, 2, 2)), occluded=np.zeros((1, 2), bool)),
        "but video cannot be read",
    ),
    "no list of classes": ("cocostuff-zs@lila", coco, lambda root: None, "labels.txt"),
    "an empty list of classes": (
        "openvocab@proxyclip",
        ade,
        lambda root: (root / "objectInfo150.txt").write_text(""),
        "objectInfo150.txt",
    ),
}


def _blank(path: Path) -> Path:
    picture = Image.fromarray(np.zeros((48, 64), np.uint8))
    picture.putpalette([0] * 768)
    picture.save(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_named_and_the_command_fails(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    protocol, write, spoil, named = CASES[case]
    root = write(tmp_path / "data")
    spoil(root)
    words = ["eval", protocol, "--data", root, "--encoder", "tiny", "--out", tmp_path / "out", "--device", "cpu"]
    if protocol.startswith("davis"):
        words += ["--short-side", "48"]
    monkeypatch.setattr(sys, "argv", ["lila-train", *map(str, words)])
    monkeypatch.setattr("lila_train.evaluation.model_spec.ModelSpec.load", pytest.fail)  # refused before it
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    message = "".join(capsys.readouterr().err.split())
    assert "error:" in message
    assert "".join(named.split()) in message
    assert not (tmp_path / "out/result.json").exists()
