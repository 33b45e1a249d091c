"""Weight files of others: of the Hugging Face hub by name and revision, of torchvision by URL; in their own caches."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lila_cues.console import err
from stores.errors import LilaError


def fetch(repository: str, filename: str, revision: str | None, option: str) -> tuple[Path, str]:
    """The local path of one file of a hub repository, and the commit it is of.

    What the cache holds is used as it is; the hub is asked only for what is missing.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    here = cached(repository, filename, revision)
    if here is not None:
        return _with_commit(here)
    err.print(f"fetching {filename} of {repository} from the Hugging Face hub")
    try:
        with _quiet():
            return _with_commit(Path(hf_hub_download(repository, filename, revision=revision)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise LilaError(
            f"expected {filename} of {repository} in {cache()} or on the Hugging Face hub, found neither "
            f"({type(error).__name__}); go online once (for gated weights after `hf auth login`), or give a local file "
            f"with {option}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the hub's own lines on each try; its bars stay, and what it gives up on becomes one sentence."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _with_commit(path: Path) -> tuple[Path, str]:
    """The cache keeps a file under snapshots/COMMIT/."""
    return path, path.parent.name


def fetch_url(url: str, option: str) -> tuple[Path, str]:
    """The local path of one of torchvision's weight files, and its version: both are in its name, NAME-HASH.pth.

    A file that is not in PyTorch's cache is downloaded to it, and its hash checked.
    """
    path = torch_cache() / url.rpartition("/")[2]
    version, _, digest = path.stem.rpartition("-")
    if not path.is_file():
        download(url, path, f"give a local file with {option}", digest)
    return path, version


def download(url: str, path: Path, remedy: str, digest: str | None = None, progress: bool = False) -> None:
    """Fetch a file into a cache, whole or not at all; `digest` is what its SHA-256 begins with, where that is known.

    `remedy` says what one may do instead where it cannot be had; `progress` shows a bar.
    """
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    err.print(f"fetching {path.name} from {url.rpartition('/')[0]}")
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=progress)
    except (OSError, RuntimeError) as error:
        raise LilaError(
            f"expected {path.name} in {path.parent} or at {url}, found neither ({error}); go online once, or {remedy}"
        ) from error


def cached(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """Where the file lies in the local cache, or None; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def torch_cache() -> Path:
    """Where PyTorch keeps downloaded weight files: $TORCH_HOME/hub/checkpoints."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub" / "checkpoints"


def cache() -> Path:
    """The hub's cache folder on this machine."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
