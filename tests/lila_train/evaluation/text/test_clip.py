"""Lists of classes as data sets ship them, sentences, and embeddings from files and from CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lila_train.evaluation.text import clip
from lila_train.evaluation.text.clip import (
    IMAGENET,
    SCENES,
    ClassTexts,
    ClipImages,
    ade_names,
    coco_names,
    text_encoder,
)
from stores.errors import LilaError
from tests.lila_train.evaluation.small_clip import write_text_encoder


def test_there_are_80_sentences_for_images_and_5_for_scenes():
    assert len(set(IMAGENET)) == 80
    assert len(set(SCENES)) == 5
    known = {"a bad photo of the {}.", "itap of my {}.", "the origami {}.", "a photo of many {}.", "art of a {}."}
    assert known <= set(IMAGENET)
    assert all(words.count("{}") == 1 for words in (*IMAGENET, *SCENES))
    assert SCENES[0].format("cat") == "there is a cat in the scene."


def test_ade_s_list_gives_150_first_synonyms(shared: Path):
    names = ade_names(shared / "data/ade/objectInfo150.txt")
    assert len(names) == 150
    assert names[:3] == ["wall", "building", "sky"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n", "a class per line in .*list.txt, found none"),
        ("Idx\tName\n", "expected 150 classes in .*list.txt, found 0"),
        ("Idx\tName\n2\twall\n", "expected class 1 in line 2 of .*list.txt, found '2 wall'"),
        ("Idx\tName\n1\twall\n", "expected 150 classes in .*list.txt, found 1"),
    ],
)
def test_a_bad_list_of_ade_names_the_file(text: str, complaint: str, tmp_path: Path):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(LilaError, match=complaint):
        ade_names(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n", "a class per line in .*labels.txt, found none"),
        ("person\n", "lines like `1: person` in .*labels.txt, found 'person' in line 1"),
        ("0: unlabeled\n1: person\n", "the names of classes 1 to 182 in .*labels.txt, found none of 2"),
    ],
)
def test_a_bad_list_of_coco_names_the_file(text: str, complaint: str, tmp_path: Path):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(LilaError, match=complaint):
        coco_names(tmp_path / "labels.txt")
    with pytest.raises(LilaError, match=r"COCO-Stuff's list of classes at .*none/labels\.txt, found none; put labels"):
        coco_names(tmp_path / "none/labels.txt")


def test_a_file_may_leave_out_the_classes_that_are_never_used(tmp_path: Path):
    rows = np.array([[3, 0], [0, 2]], np.float32)
    np.save(tmp_path / "texts.npy", rows)
    texts = ClassTexts(["one", "unused", "two"], IMAGENET, "", tmp_path / "texts.npy", unused=[1])
    assert texts.embeddings.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert set(texts.identity()) == {"texts_sha256"}
    with pytest.raises(LilaError, match=r"a row for each of 4 classes \(or of the 4 that are used\), found .*\(2, 2\)"):
        _ = ClassTexts(list("abcd"), IMAGENET, "", tmp_path / "texts.npy").embeddings
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(LilaError, match=r"embeddings as a \.npy array in .*bad\.npy, but it cannot be read"):
        _ = ClassTexts(["one"], IMAGENET, "", tmp_path / "bad.npy").embeddings


def test_sentences_are_normalized_averaged_and_normalized_again(monkeypatch: pytest.MonkeyPatch):
    rows = torch.tensor([[10.0, 0.0], [0.0, 0.5], [0.0, 3.0]])
    monkeypatch.setattr(clip, "text_encoder", lambda place: lambda sentences: rows)
    (found,) = ClassTexts(["cat"], ["a {}", "the {}", "one {}"], "").embeddings
    assert found.tolist() == pytest.approx([1 / 5**0.5, 2 / 5**0.5])


def test_texts_are_embedded_by_clip(tmp_path: Path):
    folder = str(write_text_encoder(tmp_path))
    encode = text_encoder(folder)
    both = encode(["a photo of the cat", "a dog"])
    torch.testing.assert_close(both[1], encode(["a dog"])[0], atol=1e-5, rtol=1e-4)
    texts = ClassTexts(["cat", "dog"], ["a photo of the {}", "a {}"], folder)
    normed = F.normalize(encode(["a photo of the cat", "a cat"]), dim=1)
    expected = F.normalize(normed.mean(dim=0), dim=0)
    torch.testing.assert_close(texts.embeddings[0], expected, atol=1e-5, rtol=1e-4)
    assert texts.identity() == {"clip": folder, "templates": 2}
    before = torch.random.get_rng_state()
    _ = ClassTexts(["cat"], ["a {}"], folder).embeddings
    assert torch.equal(torch.random.get_rng_state(), before)


def test_missing_clip_is_an_error(tmp_path: Path):
    with pytest.raises(LilaError, match=r"expected CLIP at .*but it cannot be loaded.*--clip"):
        ClipImages.load(str(tmp_path / "none"))
