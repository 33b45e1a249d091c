"""Compute a stored clip's cues again from its video, by the recipe in the store: for `lila-cues verify --deep`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lila_cues.config import BuildConfig
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
    try:
        config, options = BuildConfig.from_recipe(store.provenance["recipe"])
    except (KeyError, TypeError) as error:
        raise LilaError(
            f"expected the recipe of its build in {store.path}, found none that can be read ({error!r}); "
            "only stores that `lila-cues build` wrote can be recomputed"
        ) from error
    options = replace(options, root=root or options.root, device=device or options.device)
    # PyAV gives the same frames as the recorded decoder; version 0.1 used it itself where decord is not exact.
    worker = Worker(replace(config, decoder="pyav"), options, networks, threads=1)
    networks = worker.extractor.networks
    fingerprint = json.loads(json.dumps(config.fingerprint(networks.records(), networks.encoder.patch_size)))
    changed = [key for key, value in store.fingerprint.items() if value != fingerprint.get(key)]
    if changed:
        raise LilaError(
            f"expected the networks that {store.path} was built with, found others ({', '.join(changed)} differ); "
            "restore the weight files at the places in its provenance"
        )

    def recompute(store: CueStore, clip: int) -> ClipCues:
        return worker.extractor.finish(worker.predict(worker.load_clip(store.clip_id(clip))))

    return recompute
