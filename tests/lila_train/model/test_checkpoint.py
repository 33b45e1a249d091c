"""`load`: published names and files, files of ours in their naming, half precision, refusals."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import hubconf
import lila_train
from lila_cues.networks.hub import torch_cache
from lila_cues.networks.weights import file_sha256
from lila_train.model import released
from lila_train.model.decoder import Decoder, DecoderWidths
from stores.errors import LilaError, StoreError
from tests.lila_train.inference.models import write_weights

NAME = "lila_dinov2_vits14"


@pytest.fixture(scope="module")
def file(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file shaped as a published one, with an encoder and teachers inside."""
    path = tmp_path_factory.mktemp("published") / "lila_dino2_s14_ytvos.pt"
    script = shared / "conformance" / "released_checkpoint.py"
    command = [sys.executable, str(script), str(path), "--wrap", "--with-teachers", "--with-encoder"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.fixture
def cache(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PyTorch's cache, with the file in it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / file.name).symlink_to(file)
    return folder


def test_a_published_name_gives_the_model_of_its_file(file: Path, cache: Path) -> None:
    image = torch.rand(1, 3, 30, 45)
    by_name, by_path = lila_train.load(NAME), lila_train.load(file)
    assert by_name.encoder.name == "dinov2_vits14"
    found = by_name(image)
    assert found.shape == (1, 128, 30, 45)
    assert torch.equal(found, by_path(image))
    inside = torch.load(file, weights_only=True)["state_dict"]
    assert torch.equal(by_name.encoder.vit.norm.weight, inside["pretrained.norm.weight"])
    assert (cache / f"{file.name}.sha256").is_file()


def test_weights_are_a_file_a_run_folder_or_a_published_name(cache: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "run" / "weights.safetensors")
    image = torch.rand(1, 3, 16, 16)
    by_folder, by_file = (lila_train.load(tmp_path / "run" / name) for name in ("", "weights.safetensors"))
    assert torch.equal(by_folder(image), by_file(image))
    assert released.find(NAME)[0] == cache / "lila_dino2_s14_ytvos.pt"
    with pytest.raises(LilaError, match=r"no weights at .*hub/weights\.safetensors; pass the folder of a run"):
        lila_train.load(tmp_path / "hub")


def test_a_large_file_is_hashed_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, hashed = hashlib.file_digest, []

    def counted(file: Any, kind: str) -> Any:
        hashed.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    model = lila_train.load(NAME)
    assert hashed == ["lila_dino2_s14_ytvos.pt"]
    assert model.encoder.source.sha256 == (cache / "lila_dino2_s14_ytvos.pt.sha256").read_text().strip()


def test_half_precision_weights_give_close_features(file: Path) -> None:
    image = torch.rand(1, 3, 28, 28)
    full, half = lila_train.load(file), lila_train.load(file, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert (half(image).float() - full(image)).abs().mean() < 0.1


def test_a_file_that_changed_since_its_download_is_refused(cache: Path, file: Path) -> None:
    (cache / f"{file.name}.sha256").write_text("0" * 64 + "\n")
    with pytest.raises(LilaError, match=r"to be as it was downloaded, SHA-256 0000000000000000…, found .*delete both"):
        lila_train.load(NAME)


def test_a_cache_that_cannot_be_written_is_read(cache: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: str, path: Path) -> None:
        raise StoreError(f"permission denied while writing {path}")

    (cache / f"{file.name}.sha256").unlink(missing_ok=True)
    monkeypatch.setattr(released, "atomic_write", refuse)
    assert released.find(NAME) == (cache / file.name, file_sha256(file))


def test_without_a_home_the_cache_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)  # as where the user has no entry in passwd
    assert torch_cache().name == "checkpoints"


def test_failed_download_names_the_place_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(released, "BASE_URL", (tmp_path / "nowhere").as_uri())
    with pytest.raises(LilaError, match=r"expected lila_dino2_b14_ytvos\.pt in .* or at .*, found neither"):
        lila_train.load("lila_dinov2_vitb14")
    assert not list(tmp_path.rglob("*.pt"))


def test_a_download_is_kept_with_its_hash(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(released, "BASE_URL", file.parent.as_uri())
    lila_train.load(NAME)
    folder = tmp_path / "hub" / "checkpoints"
    assert (folder / file.name).read_bytes() == file.read_bytes()
    assert (folder / f"{file.name}.sha256").read_text().strip() == file_sha256(file)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PyTorch's cache before anything was downloaded, and a server that is a folder beside it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(released, "BASE_URL", (tmp_path / "server").as_uri())
    (tmp_path / "server").mkdir()
    return tmp_path / "cache" / "hub" / "checkpoints"


def find_together(barrier: Any) -> tuple[Path, str | None]:
    barrier.wait()
    return released.find(NAME)


def test_processes_that_download_at_once_all_succeed(empty_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "server/lila_dino2_s14_ytvos.pt").write_bytes(os.urandom(2**21))
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager, ProcessPoolExecutor(8, context) as pool:
        barrier = manager.Barrier(8)
        found = set(pool.map(find_together, [barrier] * 8))
    path = empty_cache / "lila_dino2_s14_ytvos.pt"
    assert found == {(path, file_sha256(tmp_path / "server/lila_dino2_s14_ytvos.pt"))}
    assert sorted(entry.name for entry in empty_cache.iterdir()) == [path.name, f"{path.name}.sha256"]


@pytest.mark.slow
def test_processes_that_load_for_the_first_time_at_once_all_succeed(
    file: Path, empty_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "server" / file.name).symlink_to(file)
    program = "import sys, lila_train; from lila_train.model import released; released.BASE_URL = sys.argv[1]\n"
    program += f"print(lila_train.load('{NAME}').identity)"
    command = [sys.executable, "-c", program, released.BASE_URL]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert {process.communicate()[0].strip() for process in started} == {lila_train.load(file).identity}
    assert all(process.returncode == 0 for process in started)


def test_an_encoder_of_another_width_or_none_is_refused(file: Path, tmp_path: Path, shared: Path) -> None:
    tiny = shared / "data" / "weights" / "vit_tiny_patch16_224.pth"
    with pytest.raises(LilaError, match=r"of another shape|missing"):
        lila_train.load(file, encoder_weights=tiny)
    released.write(tmp_path / "narrow.pt", Decoder(DecoderWidths.of_encoder(64, inner=16)))
    with pytest.raises(LilaError, match="found a decoder alone, of an encoder of width 64"):
        lila_train.load(tmp_path / "narrow.pt")
    for name in ("lila_dinov2_vits15", "dinov2_vits14"):
        with pytest.raises(LilaError, match=r"did you mean lila_dinov2_vits14\?.* or one of lila_dinov2_vits14"):
            lila_train.load(name)


def test_written_file_has_the_names_and_shapes_of_a_published_one(file: Path, tmp_path: Path) -> None:
    model = lila_train.load(file)
    released.write(tmp_path / "ours.pt", model.decoder)
    theirs, ours = (torch.load(path, weights_only=True) for path in (file, tmp_path / "ours.pt"))
    names = {n for n in theirs["state_dict"] if n.startswith(("latent_head.", "fnorm."))}
    assert set(ours) == names
    assert {n: t.shape for n, t in ours.items()} == {n: theirs["state_dict"][n].shape for n in names}
    assert all(
        torch.equal(t, released.read(file).decoder[n]) for n, t in released.read(tmp_path / "ours.pt").decoder.items()
    )


def test_an_encoder_with_registers_is_recognized_in_its_file(file: Path, tmp_path: Path) -> None:
    tensors = torch.load(file, weights_only=True)["state_dict"]
    tokens = torch.full((1, 4, 384), 0.5)
    torch.save(tensors | {"pretrained.register_tokens": tokens}, tmp_path / "reg.pt")
    model = lila_train.load(tmp_path / "reg.pt")
    assert model.encoder.name == "dinov2_vits14_reg"
    assert torch.equal(model.encoder.vit.reg_token, tokens)
    assert hubconf.lila_dinov2reg_vits14(checkpoint_path=tmp_path / "reg.pt").identity == model.identity
    with pytest.raises(LilaError, match="no file is published"):
        lila_train.load("lila_dinov2reg_vits14")


def test_the_encoder_of_a_decoder_alone_is_named_not_guessed(file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "decoder.pt"
    released.write(alone, lila_train.load(file).decoder)
    with pytest.raises(LilaError, match=r"found a decoder alone.*dinov2_vits14 or dinov2_vits14_reg"):
        lila_train.load(alone)
    alone.rename(tmp_path / file.name)  # by the name of a published file it is known
    assert lila_train.load(tmp_path / file.name, encoder_weights="random:1").encoder.name == "dinov2_vits14"
    (tmp_path / file.name).rename(alone)
    for name in ("dinov2_vits14_reg", "dinov2reg_vits14"):  # the latter is the published code's
        model = lila_train.load(alone, encoder=name, encoder_weights="random:1")
        assert model.encoder.name == "dinov2_vits14_reg"


def test_teachers_in_a_file_are_not_read_into_memory(file: Path, tmp_path: Path) -> None:
    tensors = torch.load(file, weights_only=True)["state_dict"]
    torch.save({n: t for n, t in tensors.items() if not n.startswith("depth_net")}, tmp_path / "without.pt")
    torch.save(tensors | {"depth_net.weight": torch.ones(300, 2**20 // 4)}, tmp_path / "with.pt")
    program = "import resource, sys, lila_train; lila_train.load(sys.argv[1])\n"
    program += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    peak = {
        name: int(subprocess.check_output([sys.executable, "-c", program, str(tmp_path / name)]))
        for name in ("without.pt", "with.pt")
    }
    assert peak["with.pt"] - peak["without.pt"] < 100  # MiB, of 300
