"""COCO-Stuff and ADE20K: labels, folders, bad input, and the protocols end to end on real samples."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lila_train.evaluation import harness, protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense import segmentation
from lila_train.evaluation.dense.metrics import IGNORED
from lila_train.evaluation.dense.segmentation import ADE_150_LABELS, ADE_151_LABELS
from lila_train.evaluation.dense.task import dense_task, sliding_window, window_starts
from lila_train.evaluation.model_spec import ModelSpec
from stores.errors import LilaError
from tests.lila_train.evaluation.small_models import write_checkpoint

CPU = torch.device("cpu")


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_coco(root: Path, labels: np.ndarray, image: np.ndarray, count: int = 3) -> Path:
    for split in ("train2017", "val2017"):
        names = [f"{n:012d}" for n in range(count)]
        for name in names:
            save(image, root / "images" / split / f"{name}.jpg")
            save(labels, root / "annotations" / split / f"{name}.png")
        listed = root / "curated" / split / segmentation.COCO_LIST
        listed.parent.mkdir(parents=True)
        listed.write_text("\n".join(names))
    return root


def stripes(*values: int) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), 12)[None].repeat(40, axis=0)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    labels = stripes(0, 91, 156, 255)
    return write_coco(tmp_path / "coco", labels, np.repeat(labels[..., None], 3, axis=2))


def test_182_fine_ids_become_27_classes_of_the_published_sizes():
    table = segmentation.COARSE_OF_FINE
    assert len(table) == 182
    assert set(table[:91]) == set(range(12))
    assert set(table[91:]) == set(range(12, 27))
    assert Counter(table[:91].tolist())[9] == 1  # person alone
    # person, bicycle, bench, cow, backpack, kite, wine glass, pizza, bed, tv, oven, vase
    fine = [0, 1, 14, 20, 26, 37, 45, 58, 64, 71, 78, 85]
    assert table[fine].tolist() == [9, 11, 8, 7, 6, 10, 5, 2, 3, 0, 1, 4]
    # water: fog, river, sea, water-other, waterdrops; walls; sky: clouds, sky-other; windows
    assert set(table[[119, 147, 154, 177, 178]]) == {26}
    assert set(table[170:177]) == {18}
    assert set(table[[105, 156]]) == {23}
    assert set(table[179:181]) == {19}


def test_coco_is_read_with_unlabeled_pixels_ignored(coco: Path):
    data = segmentation.open_coco(coco, limit=2)
    assert (len(data.train), len(data.val)) == (2, 2)
    example = data.read(data.val[0])
    assert example.image.shape == (3, 40, 48)
    assert example.target[0, 0, ::12].tolist() == [9, 17, 23, IGNORED]


def written(folder: Path, labels: np.ndarray) -> tuple[Path, Path]:
    """Write an image and these labels; return their files."""
    save(np.repeat(labels[..., None], 3, axis=2), folder / "image.png")
    save(labels, folder / "some.png")
    return folder / "image.png", folder / "some.png"


def test_150_classes_ignore_what_151_classes_count(tmp_path: Path):
    files = written(tmp_path, stripes(0, 1, 150))
    assert ADE_150_LABELS.read(files).target[0, 0, ::12].tolist() == [IGNORED, 0, 149]
    assert ADE_151_LABELS.read(files).target[0, 0, ::12].tolist() == [0, 1, 150]


@pytest.mark.parametrize(("rule", "value"), [(ADE_150_LABELS, 151), (ADE_151_LABELS, 254)])
def test_a_label_out_of_range_names_the_file(rule, value, tmp_path: Path):
    with pytest.raises(LilaError, match=rf"labels of ADE20K, 0 to 150 or 255, found {value} in .*some\.png"):
        rule.read(written(tmp_path, stripes(1, value)))


def test_a_coco_label_out_of_range_names_the_file(coco: Path):
    path = coco / "annotations/val2017/000000000001.png"
    save(stripes(0, 182, 0, 0), path)
    data = segmentation.open_coco(coco, None)
    with pytest.raises(
        LilaError, match=r"COCO-Stuff counted from 0, with 255 for void, found 182 in .*000000000001\.png"
    ):
        data.read(data.val[1])


def test_sizes_that_differ_name_the_file(coco: Path):
    path = coco / "annotations/val2017/000000000000.png"
    save(stripes(0, 1), path)
    data = segmentation.open_coco(coco, None)
    with pytest.raises(LilaError, match=r"image's size 48×40 .*found 24×40 in .*annotations/val2017/000000000000\.png"):
        data.read(data.val[0])


def test_missing_lists_and_files_are_named(coco: Path, tmp_path: Path):
    (coco / "images/val2017/000000000002.jpg").unlink()
    with pytest.raises(LilaError, match=r"found no .*images/val2017/000000000002\.jpg"):
        segmentation.open_coco(coco, None)
    (coco / "curated/val2017" / segmentation.COCO_LIST).write_text("\n")
    with pytest.raises(LilaError, match=r"an image id per line in .*val2017.*found none"):
        segmentation.open_coco(coco, None)
    with pytest.raises(LilaError, match=r"the curated list .*Coco164kFull_Stuff_Coarse\.txt, found none"):
        segmentation.open_coco(tmp_path, None)
    with pytest.raises(LilaError, match=r"images in .*images/training, found none"):
        segmentation.open_ade(ADE_150_LABELS, 150, tmp_path, None)


def test_cross_entropy_leaves_out_what_is_ignored():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    target = torch.tensor([[[[0, 255], [255, 255]]]])
    assert segmentation.cross_entropy(logits, target).item() == pytest.approx(np.log(3))
    nothing = segmentation.cross_entropy(logits, torch.full((1, 1, 2, 2), 255))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("length", "expected"), [(512, [0]), (300, [0]), (683, [0, 171]), (1200, [0, 341, 682, 688]), (853, [0, 341])]
)
def test_windows_cover_the_image(length, expected):
    assert window_starts(length, 512, 341) == expected


def test_sliding_averages_what_overlaps():
    images = torch.arange(10.0).view(1, 1, 1, 10).expand(1, 3, 4, 10)
    found = sliding_window(lambda part: part[:, :1] - part[:, :1].mean(), images, window=6, stride=4)
    values = np.arange(10.0)
    first, second = values - 2.5, values - 6.5
    expected = np.where(values < 4, first, np.where(values > 5, second, (first + second) / 2))
    np.testing.assert_allclose(found[0, 0, 2].numpy(), expected)


def short(protocol, side: int):
    """Return the protocol with a short training."""
    recipe = replace(protocol.recipe, epochs=2, iterations=None, batch=2, lr=0.02)
    view = replace(protocol.val_view, short_side=side, side=min(side, protocol.val_view.side))
    slide = None if protocol.slide is None else (side, side // 2)
    return replace(
        protocol, recipe=recipe, train_view=replace(protocol.train_view, side=side), val_view=view, slide=slide
    )


@pytest.mark.parametrize("protocol", [segmentation.COCO_LILA, segmentation.COCO_FEATUP, segmentation.COCO_JAFAR])
def test_coco_end_to_end(protocol, coco: Path, tmp_path: Path):
    task = dense_task(short(protocol, 32), segmentation.open_coco, coco, EvalConfig())
    spec = ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors"))
    result = harness.evaluate(task, spec, tmp_path / "out", CPU)
    for head in ("encoder", "lila"):
        assert result["scores"][head]["absent_classes"] == 24
        assert 0 <= result["scores"][head]["miou"] <= result["scores"][head]["pixel_accuracy"] <= 1
        assert (
            sum(map(sum, result["parts"][head]["probe"]["sums"]["confusion"])) == 3 * 32 * 25
        )  # 7 columns are unlabelled
    assert result["data"]["list"] == "Coco164kFull_Stuff_Coarse.txt"
    assert result["settings"]["probe"] == protocol.build.__name__
    again = harness.evaluate(task, spec, tmp_path / "out", CPU)
    assert again == json.loads((tmp_path / "out/result.json").read_text()) == result


@pytest.mark.parametrize(
    ("protocol", "rule"), [(segmentation.ADE_150, ADE_150_LABELS), (segmentation.ADE_151, ADE_151_LABELS)]
)
def test_ade_end_to_end_on_real_images(protocol, rule, shared: Path, tmp_path: Path):
    root = tmp_path / "ade"
    for split, number in (("training", 1), ("validation", 2)):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            (root / kind / split).mkdir(parents=True)
            shutil.copy(shared / f"data/ade/ADE_val_0000000{number}.{suffix}", root / kind / split)
    classes = protocol.n_outputs
    task = dense_task(short(protocol, 64), partial(segmentation.open_ade, rule, classes), root, EvalConfig())
    spec = ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors"))
    result = harness.evaluate(task, spec, tmp_path / "out", CPU)
    with Image.open(shared / "data/ade/ADE_val_00000002.png") as picture:
        stored = np.asarray(picture)
    counted = stored.size if classes == 151 else np.count_nonzero(stored)
    confusion = np.array(result["parts"]["lila"]["probe"]["sums"]["confusion"])
    assert confusion.sum() == counted
    present = len(np.unique(stored[stored > 0])) + (classes == 151 and (stored == 0).any())
    assert result["scores"]["lila"]["absent_classes"] == classes - present


def test_a_real_coco_image_goes_through_its_panoptic_labels(shared: Path, tmp_path: Path):
    """Panoptic segments of one image, turned into COCO-Stuff's ids: things keep id − 1, stuff by name."""
    panoptic = json.loads((shared / "data/coco/panoptic_examples.json").read_text())
    (annotation,) = [one for one in panoptic["annotations"] if one["file_name"] == "000000142238.png"]
    with Image.open(shared / "data/coco/000000142238.png") as picture:
        ids = np.asarray(picture).astype(np.int64) @ np.array([1, 256, 65536])
    labels = np.full(ids.shape, 255, np.uint8)
    for segment in annotation["segments_info"]:
        category = segment["category_id"]
        labels[ids == segment["id"]] = category - 1 if category <= 182 else 255
    with Image.open(shared / "data/coco/000000142238.jpg") as picture:
        root = write_coco(tmp_path / "coco", labels, np.asarray(picture.convert("RGB")), count=1)
    task = dense_task(short(segmentation.COCO_FEATUP, 56), segmentation.open_coco, root, EvalConfig())
    result = harness.evaluate(
        task, ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors")), tmp_path / "out", CPU
    )
    present = set(segmentation.COARSE_OF_FINE[np.unique(labels[labels != 255])].tolist())
    assert 9 in present  # people
    assert result["scores"]["encoder"]["absent_classes"] >= 27 - len(present)
    assert result["scores"]["encoder"]["pixel_accuracy"] > 0


def test_image_protocols_have_fixed_sizes(coco: Path):
    with pytest.raises(
        LilaError, match=r"--short-side does not apply to cocostuff27@lila, which takes --limit, --seed"
    ):
        protocols.open_task("cocostuff27@lila", coco, EvalConfig(short_side=100))


def test_published_settings():
    lila, featup, jafar = (
        one.recipe for one in (segmentation.COCO_LILA, segmentation.COCO_FEATUP, segmentation.COCO_JAFAR)
    )
    ade = segmentation.ADE_150.recipe
    assert (lila.epochs, lila.batch, lila.lr, lila.weight_decay) == (30, 64, 3e-4, 0.01)
    assert (featup.optimizer, featup.lr, featup.epochs) == ("adam", 5e-3, 200)
    assert (jafar.batch, jafar.epochs, jafar.lr, jafar.weight_decay, jafar.schedule) == (2, 20, 5e-4, 1e-5, "cosine")
    assert (ade.iterations, ade.batch, ade.lr, segmentation.ADE_150.slide) == (40_000, 16, 1e-3, (512, 341))
