"""Downloads of weight files into the caches of the Hugging Face hub and of PyTorch."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from stores.errors import LilaError, first_line

logger = logging.getLogger(__name__)


def fetch(repository: str, filename: str, revision: str | None, option: str) -> tuple[Path, str]:
    """Return the local path of one file of a hub repository, downloaded unless it is cached, and its commit."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    path = cached(repository, filename, revision)
    if path is None:
        logger.info("downloading %s of %s from the Hugging Face hub", filename, repository)
        hub_logger = logging.getLogger("huggingface_hub")
        level = hub_logger.level
        hub_logger.setLevel(logging.ERROR)  # not a line for each try: what it gives up on becomes one sentence
        try:
            path = Path(hf_hub_download(repository, filename, revision=revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            offline = isinstance(error, LocalEntryNotFoundError | ConnectionError)
            reason = "no connection" if offline else first_line(error)
            raise LilaError(
                f"expected {filename} of {repository} in {constants.HF_HUB_CACHE} or on the Hugging Face hub, found "
                f"neither ({reason}); go online once (for gated weights after `hf auth login`), or give "
                f"a local file with {option}"
            ) from error
        finally:
            hub_logger.setLevel(level)
    return path, path.parent.name  # the cache keeps a file under snapshots/COMMIT/


def cached(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """Return the path of a hub file in the local cache, or None; needs no network."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, filename, revision=revision)
    return Path(path) if isinstance(path, str) else None


def stated_sha256(path: Path) -> str | None:
    """Return the hex SHA-256 of a cached file as the hub states it, the name of its blob; None if unknown."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def download(url: str, path: Path, remedy: str, digest: str | None = None, progress: bool = False) -> None:
    """Download a file atomically; LilaError, with a `remedy`, if that fails or SHA-256 does not begin with `digest`."""
    import torch

    logger.info("downloading %s from %s", path.name, url.rpartition("/")[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=progress)
    except (OSError, RuntimeError) as error:
        raise LilaError(
            f"expected {path.name} in {path.parent} or at {url}, found neither ({error}); go online once, or {remedy}"
        ) from error


def torch_cache() -> Path:
    """Return PyTorch's folder of downloaded weight files, $TORCH_HOME/hub/checkpoints."""
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))  # "~" stays where there is no home
    return Path(os.path.expanduser(os.environ.get("TORCH_HOME", f"{cache}/torch"))) / "hub" / "checkpoints"
