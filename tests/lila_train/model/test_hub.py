"""torch.hub and Hugging Face repositories, from local folders and a simulated hub."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.hub_mixin
import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError

import hubconf
from lila_cues.networks import load_encoder
from lila_train import Lila
from lila_train.model import checkpoint, released, sharing
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.model.lila import load
from lila_train.model.released import NAMES
from stores.errors import LilaError
from tests.lila_train.inference.models import small_model, write_weights

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model() -> Lila:
    return small_model()


def same(first: Lila, second: Lila) -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(first.features(image), second.features(image))


def test_a_folder_holds_a_model_and_its_card(model: Lila, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "shared")
    assert sorted(p.name for p in (tmp_path / "shared").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (tmp_path / "shared/README.md").read_text()
    for words in (
        "license: apache-2.0",
        "image-feature-extraction",
        "frozen encoder `tiny`",
        "8 numbers for every pixel",
    ):
        assert words in card
    same(model, Lila.from_pretrained(tmp_path / "shared", device="auto"))
    config = json.loads((tmp_path / "shared/config.json").read_text())
    assert {name: config[name] for name in model.config} == model.config
    assert config["encoder_weights"] == model.encoder.source.to_dict()
    assert (
        Lila.from_pretrained(tmp_path / "shared", dtype=torch.bfloat16)(torch.rand(1, 3, 9, 9)).dtype == torch.bfloat16
    )


def test_a_card_names_encoder_data_and_scores(weights: Path) -> None:
    """As Hugging Face reads them: base_model, datasets and model-index; and the paper's BibTeX."""
    model = load(weights)
    assert model.provenance is not None
    row = {"step": 7, "protocol": "davis-knn@lila", "counts": {"clips": 3}, "figures": {"JF": 0.7, "J_decay": None}}
    model.encoder.source = replace(model.encoder.source, origin="hub", location="timm/vit_tiny")
    model.provenance = replace(model.provenance, step=7, store={"dataset": "youtube-vos", "clips": 9}, scores=[row])
    card = ModelCard(str(sharing.model_card(model, "me/lila")))  # parsed
    assert card.data.base_model == "timm/vit_tiny"
    assert card.data.datasets == "youtube-vos"
    (found,) = card.data.eval_results
    assert (found.dataset_name, found.metric_type, found.metric_value) == ("davis-knn@lila (3 clips)", "JF", 0.7)
    assert "Trained on unlabeled video:\n7 steps, 9 clips of youtube-vos;" in card.text
    assert "Its decoder is not trained." in sharing.model_card(Lila.from_encoder("tiny"), "me/lila").text
    assert "@inproceedings{araslanov2026lila," in card.text
    model.provenance = replace(model.provenance, store={"dataset": "videos", "clips": 9})
    assert ModelCard(str(sharing.model_card(model, "me/lila"))).data.datasets is None


def test_folders_of_earlier_versions_open(model: Lila, tmp_path: Path) -> None:
    """Whose weights were weights.safetensors, and whose config.json held `fit` alone."""
    write_weights(tmp_path / "weights.safetensors", model)
    (tmp_path / "config.json").write_text('{"fit": "resize"}')
    for found in (Lila.from_pretrained(tmp_path), load(tmp_path)):
        assert found.fit == "resize"
        same(Lila(model.encoder, model.decoder, "resize"), found)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(LilaError, match=r"expected a JSON object in .*config\.json"):
        Lila.from_pretrained(tmp_path)


def test_fit_is_saved_and_restored(model: Lila, tmp_path: Path) -> None:
    Lila(model.encoder, model.decoder, "resize").save_pretrained(tmp_path)
    assert Lila.from_pretrained(tmp_path).fit == "resize"
    assert load(tmp_path).fit == "resize"
    assert Lila.from_pretrained(tmp_path, fit="pad").fit == "pad"


def test_a_local_encoder_is_saved_with_the_model(tmp_path: Path) -> None:
    drawn = load_encoder("vit_tiny_patch16_224", "random:1")
    safetensors.torch.save_file(drawn.vit.state_dict(), tmp_path / "mine.safetensors")
    encoder = load_encoder("vit_tiny_patch16_224", tmp_path / "mine.safetensors")
    model = Lila(encoder, Decoder(DecoderWidths.of_encoder(192, inner=16))).eval()
    model.save_pretrained(tmp_path / "shared")
    os.umask(umask := os.umask(0))
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "shared").iterdir()} == {0o666 & ~umask}
    (tmp_path / "mine.safetensors").unlink()
    shutil.move(tmp_path / "shared", tmp_path / "elsewhere")
    same(model, Lila.from_pretrained(tmp_path / "elsewhere"))
    same(model, load(tmp_path / "elsewhere"))
    assert "encoder.safetensors" in (tmp_path / "elsewhere/README.md").read_text()


def test_a_model_is_pushed_and_comes_back(model: Lila, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a hub that is a folder."""

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **rest: object) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return "done"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    monkeypatch.setattr(sharing, "snapshot_download", lambda repo_id, **rest: str(tmp_path / repo_id))
    assert model.push_to_hub("me/lila", model_card_kwargs={"repo_id": "me/lila"}) == "done"
    assert 'Lila.from_pretrained("me/lila")' in (tmp_path / "me/lila/README.md").read_text()
    monkeypatch.chdir(tmp_path.parent)
    same(model, Lila.from_pretrained("me/lila"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("offline"), "nor one in the cache, and the hub cannot be reached"),
        (OSError("refused"), r"expected a folder or .* at me/lila, .*, found neither \(refused\); check the name"),
    ],
)
def test_hub_failures_name_what_is_missing(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object, **options: object) -> str:
        raise error

    with pytest.raises(TypeError, match="devise"):
        Lila.from_pretrained("me/lila", devise="cpu")
    monkeypatch.setattr(sharing, "snapshot_download", fail)
    with pytest.raises(LilaError, match=message):
        Lila.from_pretrained("me/lila", revision="main", local_files_only=True)


def test_a_repository_without_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "snapshot_download", lambda *words, **options: str(tmp_path))
    with pytest.raises(LilaError, match=r"with model.safetensors at me/lila, .* found a place without that file"):
        Lila.from_pretrained("me/lila")


@pytest.mark.parametrize("name", ["./typo", "a/b/c", "", "me/lila.git", "x" * 200])
def test_a_name_that_is_neither_a_folder_nor_a_repository_gets_one_sentence(name: str) -> None:
    with pytest.raises(
        LilaError, match=r"expected a folder or a public repository .* with model.safetensors at .*found neither"
    ):
        Lila.from_pretrained(name)


@pytest.mark.parametrize("name", ["me/lila", "typo", "a\0b"])
def test_a_repository_that_cannot_be_asked_for_gets_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object, **options: object) -> str:
        raise LocalEntryNotFoundError("offline\nCheck your connection.")

    monkeypatch.setattr(sharing, "snapshot_download", fail)
    with pytest.raises(LilaError, match=r"expected a folder or .* model.safetensors at .*neither such a folder nor"):
        Lila.from_pretrained(name)


def test_torch_hub_gives_the_model(weights: Path) -> None:
    assert all(callable(getattr(hubconf, name)) for name in ("lila", "lila_reference", *NAMES))
    found = torch.hub.load(str(ROOT), "lila", source="local", weights=weights)
    same(small_model(), found)


def test_provenance_is_saved_and_restored(weights: Path, tmp_path: Path) -> None:
    loaded = load(weights)
    assert loaded.provenance is not None
    loaded.save_pretrained(tmp_path / "shared")
    again = Lila.from_pretrained(tmp_path / "shared")
    assert again.provenance == loaded.provenance
    same(loaded, again)


def test_the_published_code_s_call_gives_both_maps_of_normalized_images(weights: Path) -> None:
    model, reference = load(weights), hubconf.lila_reference(weights)
    images = torch.rand(2, 3, 37, 50)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        maps = reference((images - mean) / std)
        grid, pixels = model(images, return_grid=True)
    assert maps._fields == ("grid", "map")
    torch.testing.assert_close(maps.map, model(images), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.grid, model.encode(images), atol=1e-4, rtol=0)
    assert torch.equal(grid, model.encode(images))
    assert torch.equal(pixels, model(images))


def test_an_untrained_model_is_not_given_out() -> None:
    with pytest.raises(LilaError, match="expected pretrained=True"):
        hubconf.lila_dinov2_vits14(pretrained=False)


def test_the_packaged_model_runs_on_its_own_encoder_alone(shared: Path, tmp_path: Path) -> None:
    own = load("lila_vit_tiny", encoder_weights=shared / "data/weights/vit_tiny_patch16_224.pth")
    assert own.out_channels == 16
    assert np.isfinite(own.features(np.full((40, 33, 3), 128, np.uint8))).all()
    same(own, hubconf.lila_vit_tiny(encoder_weights=shared / "data/weights/vit_tiny_patch16_224.pth"))
    torch.save(load_encoder("vit_tiny_patch16_224", "random:1").vit.state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        LilaError, match=r"that lila_vit_tiny was trained on.*other\.pth; pass a weight file of timm/vit_t"
    ):
        load("lila_vit_tiny", encoder_weights=tmp_path / "other.pth")


def test_the_packaged_model_is_small_and_its_card_says_what_its_file_says() -> None:
    path, _ = released.find("lila_vit_tiny")
    known = checkpoint.read(path).provenance
    assert path.stat().st_size < 3_000_000
    assert (known.encoder.origin, known.encoder.licence, known.store.get("path")) == ("hub", "apache-2.0", None)
    card = ModelCard.load(ROOT / "docs/lila-vit-tiny.md")
    assert card.data.base_model == known.encoder.location
    figures = [value for row in known.scores for value in row["figures"].values() if value is not None]
    assert [found.metric_value for found in card.data.eval_results] == figures
    assert f"{known.step:,} steps" in card.text
    assert sharing.BIBTEX in card.text
