"""Compute a stored clip's cues again from its video, by the recipe in the store: for `lila-cues verify --deep`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lila_cues.config import BuildConfig, RunOptions
from lila_cues.pipeline.setup import Networks
from lila_cues.pipeline.task import Worker
from stores.cues import ClipCues
from stores.errors import LilaError
from stores.store import CueStore


def load_recompute(
    store: CueStore, root: Path | None = None, device: str | None = None, networks: Networks | None = None
) -> Callable[[CueStore, int], ClipCues]:
    """Load the networks that a store was built with; return a function of (store, clip): cues before quantization.

    `root`, `device` and `networks` replace the recorded ones.

    Raises:
        LilaError: no recipe in the store, or networks that are not those of the build.
    """
    recorded = store.provenance
    if "settings" not in recorded:
        raise LilaError(
            f"expected the settings of its build in {store.path}, found none; only stores that `lila-cues build` of "
            "this version wrote can be recomputed"
        )
    config = BuildConfig.from_dict(recorded["settings"], store.path)
    options = RunOptions(root or Path(recorded["root"]), device=device or recorded["device"])
    # PyAV gives the same frames as the recorded decoder
    worker = Worker(config.replace(decoder="pyav"), options, networks, threads=1)
    weights = config.fingerprint(worker.extractor.networks.records())["weights"]
    changed = [kind for kind, hashes in store.fingerprint["weights"].items() if hashes != weights.get(kind)]
    if changed:
        raise LilaError(
            f"expected the networks that {store.path} was built with, found others ({', '.join(changed)} differ); "
            "restore the weight files at the places in its provenance"
        )

    def recompute(store: CueStore, clip: int) -> ClipCues:
        return worker.extractor.finish(worker.predict(worker.load_clip(store.clip_id(clip))))

    return recompute
