"""Reading foreign weight files, and the caches that they come from."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import nn

from lila_cues.networks import hub, load_encoder, registry, restore_encoder
from lila_cues.networks.weights import locate, random_seed, read_tensors, strip_prefix, tensors_sha256
from lila_train.model import checkpoint
from stores.errors import LilaError


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (print, ("this must never be printed",))


def _torch(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "text": (lambda folder: _bytes(folder / "notes.pth", b"these are no weights"), "it cannot be read"),
    "empty": (lambda folder: _bytes(folder / "empty.pth", b""), "it cannot be read"),
    "safetensors": (lambda folder: _bytes(folder / "w.safetensors", b"\x08" + b"\0" * 30), "it cannot be read"),
    "pickle": (lambda folder: _bytes(folder / "evil.pth", pickle.dumps(Evil())), "it cannot be read"),
    "code": (lambda folder: _torch(folder / "code.pth", {"state_dict": Evil()}), "it cannot be read"),
    "numbers": (lambda folder: _torch(folder / "log.pth", {"epoch": 3, "loss": 0.5}), "found only epoch, loss"),
    "nothing": (lambda folder: _torch(folder / "nothing.pth", {}), "found only an empty dictionary"),
    "list": (lambda folder: _torch(folder / "list.pth", [1, 2]), "found a list"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_other_files_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, found = BROKEN[case]
    path = make(tmp_path)
    with pytest.raises(LilaError, match=rf"expected tensors by name in {path}.*{found}.* with --flow-weights"):
        read_tensors(path, "--flow-weights")
    assert "never be printed" not in capsys.readouterr().out


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LilaError, match=r"expected a weight file at .*gone\.pth, found none; give its place with --x"):
        read_tensors(tmp_path / "gone.pth", "--x")


def test_wrapped_tensors_are_found(tmp_path: Path) -> None:
    wrapped = {"epoch": 3, "model": {"state_dict": {"a": torch.ones(2), "step": 5}}}
    assert list(read_tensors(_torch(tmp_path / "w.pth", wrapped), "--x")) == ["a"]


def test_a_prefix_is_stripped_only_if_all_names_have_it() -> None:
    one = torch.ones(1)
    assert set(strip_prefix({"module.a": one, "module.b": one}, "x.", "module.")) == {"a", "b"}
    assert set(strip_prefix({"module.a": one, "b": one}, "module.")) == {"module.a", "b"}


def test_hash_of_tensors_covers_names_and_values() -> None:
    hashes = {
        tensors_sha256({"a": torch.ones(2)}),
        tensors_sha256({"b": torch.ones(2)}),
        tensors_sha256({"a": torch.zeros(2)}),
    }
    assert len(hashes) == 3
    assert tensors_sha256({"a": torch.ones(2), "b": torch.zeros(1)}) == tensors_sha256(
        {"b": torch.zeros(1), "a": torch.ones(2)}
    )


def test_seed_of_random_weights() -> None:
    assert [random_seed(text) for text in (None, "random", "random:12", "random.pth", Path("random:3"))] == [
        None, 0, 12, None, 3,
    ]  # fmt: skip
    with pytest.raises(LilaError, match=r"random or random:SEED with an integer SEED .*, found random:x"):
        random_seed("random:x")


@pytest.mark.parametrize("revision", [None, "c0ffee"])
def test_cached_hub_files_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    """The commit is that of the cached snapshot."""
    repository = tmp_path / "models--timm--x"
    snapshot = repository / "snapshots" / "c0ffee" / "model.safetensors"
    for path, text in ((snapshot, ""), (repository / "refs" / "main", "c0ffee")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("the hub was asked"))
    assert hub.fetch("timm/x", "model.safetensors", revision, "--x") == (snapshot, "c0ffee")


def test_missing_hub_files_are_downloaded_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub library's own warnings about retries are not shown."""
    heard: list[bool] = []

    def talks() -> bool:
        return logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)

    def download(repository: str, filename: str, revision: str | None) -> str:
        heard.append(talks())
        return f"/cache/{repository}/snapshots/{revision}/{filename}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    path = Path("/cache/timm/absent/snapshots/beef/model.safetensors")
    with caplog.at_level(logging.INFO, logger="lila_cues"):
        assert hub.fetch("timm/absent", "model.safetensors", "beef", "--x") == (path, "beef")
    assert caplog.messages == ["downloading model.safetensors of timm/absent from the Hugging Face hub"]
    assert [*heard, talks()] == [False, True]


HUB_ERRORS = (LocalEntryNotFoundError("offline"), OSError("no space"), HfHubHTTPError.__new__(HfHubHTTPError))


@pytest.mark.parametrize("error", HUB_ERRORS, ids=lambda error: type(error).__name__)
def test_a_failed_download_from_the_hub_is_an_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    place = r"model\.safetensors of timm/vit_small_patch14_dinov2\.lvd142m in .* or on the Hugging Face hub"
    with pytest.raises(
        LilaError, match=rf"expected {place}, found neither .* give a local file with --encoder-weights"
    ):
        load_encoder("dinov2_vits14")


def test_a_name_may_carry_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revisions: list[str | None] = []
    torch_path = _torch(tmp_path / "w.pth", load_encoder("dinov2_vits14", "random:1").vit.state_dict())

    def fetch(repository: str, filename: str, revision: str | None, option: str) -> tuple[Path, str]:
        revisions.append(revision)
        return torch_path, "1234abcd"

    monkeypatch.setattr(hub, "fetch", fetch)
    source = load_encoder("dinov2_vits14@v2").source
    restore_encoder(source)
    assert revisions == ["v2", "1234abcd"]
    assert source.network == "dinov2_vits14"
    assert (source.origin, source.location, source.revision, source.licence) == (
        "hub", "timm/vit_small_patch14_dinov2.lvd142m", "1234abcd", "apache-2.0",
    )  # fmt: skip


def test_a_network_without_published_weights_needs_a_file() -> None:
    with pytest.raises(LilaError, match=r"weights for vit_small_patch16_36x1_224, which has none on the hub; give a"):
        load_encoder("vit_small_patch16_36x1_224")


def test_cached_urls_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    content = b"weights"
    path = tmp_path / "hub" / "checkpoints" / f"net_V2-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    known = registry.Entry(registry.FLOW, "net", f"https://x/{path.name}", "mit", 1)
    found, source = locate(known, None, "--flow-weights")
    assert (found, source.revision) == (path, "net_V2")
    assert known.is_available()
    path.write_bytes(b"other")
    with pytest.raises(
        LilaError, match=r"published weights of net, SHA-256 \w{8}, found \w{16} in .*; delete the file"
    ):
        locate(known, None, "--flow-weights")


def test_hub_files_are_those_that_are_pinned_or_that_the_hub_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of the hub keeps a file under its SHA-256, with a link of its name under the commit."""
    content, place, commit = b"weights", "timm/x", "c0" * 20
    sha256 = hashlib.sha256(content).hexdigest()
    repository = tmp_path / "models--timm--x"
    blob, snapshot = repository / "blobs" / sha256, repository / "snapshots" / commit / "model.safetensors"
    for path in (blob, snapshot, repository / "refs" / "main"):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    snapshot.symlink_to(blob)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(registry, "PINS", {place: (commit, sha256)})
    known = registry.Entry(registry.ENCODER, "x", place, "mit", 1)
    assert locate(known, None, "--x")[1].revision == commit  # the pinned one; there is no main
    (repository / "refs" / "main").write_text(commit)
    assert locate(known, None, "--x")[1].revision == commit
    monkeypatch.setattr(registry, "PINS", {place: (commit, "0" * 64)})
    with pytest.raises(LilaError, match=f"published weights of x, SHA-256 {'0' * 16}, found {sha256[:16]}"):
        locate(known, None, "--x")
    monkeypatch.setattr(registry, "PINS", {})
    blob.write_bytes(b"cut")
    with pytest.raises(LilaError, match=f"published weights of x, SHA-256 {sha256[:16]}, found"):
        locate(known, None, "--x")


def test_a_failed_download_from_a_url_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, place: str, hash_prefix: str, progress: bool) -> None:
        assert (Path(place).name, hash_prefix, progress) == ("net-abc123.pth", "abc123", False)
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    published = registry.Entry(registry.FLOW, "net", "https://x/net-abc123.pth", "mit", 1)
    with pytest.raises(
        LilaError, match=r"expected net-abc123\.pth in .* or at https://x/net-abc123\.pth, found neither \(no"
    ):
        locate(published, None, "--flow-weights")


def saved(content: object) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "found the pointer that Git LFS leaves",
        ),
        (b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\r\n", "found the pointer that Git LFS leaves"),
        (b"<!DOCTYPE html>", "cannot be read"),
        (saved(nn.Identity()), "cannot be read"),
        (saved({"a": Path("b")}), "cannot be read"),
        (b"\x80\x04\x95", "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weight_file_says_so(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(LilaError, match=message) as refused:
        read_tensors(tmp_path / f"w{suffix}", "--weights")
    assert not re.search("weights.only|two options", str(refused.value), re.IGNORECASE)
    if suffix == ".safetensors":  # also as the weights of a run
        with pytest.raises(LilaError, match=message.replace("cannot be read", "not an intact safetensors file")):
            checkpoint.read(tmp_path / f"w{suffix}")
