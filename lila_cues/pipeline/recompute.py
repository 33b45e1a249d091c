"""A stored clip's cues made again from its source, by the recipe in the store: for `lila-cues verify --deep`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from lila_cues.config import BuildRecipe
from lila_cues.pipeline.cues import CueExtractor
from lila_cues.pipeline.frames import load_clip
from lila_cues.pipeline.setup import Networks, load_networks
from lila_cues.pipeline.task import open_recipe_source
from stores.cues import ClipCues
from stores.errors import LilaError
from stores.store import CueStore


class Recomputer:
    """Loads the recorded networks once; call it with the store and a clip's number.

    `root`: where the clips lie now, if they have moved since. `networks`: instead of the recorded ones.
    """

    def __init__(
        self,
        store: CueStore,
        root: Path | None = None,
        device: str | None = None,
        networks: Networks | None = None,
    ) -> None:
        recipe = recorded_recipe(store)
        source = replace(recipe.source, root=str(root or recipe.source.root))
        self.recipe = replace(recipe, source=source, device=device or recipe.device)
        self.source = open_recipe_source(self.recipe)
        self.maker = CueExtractor(networks or load_networks(self.recipe.networks, self.recipe.device), self.recipe)
        _check_networks(store, self.recipe, self.maker.networks)

    def __call__(self, store: CueStore, clip: int) -> ClipCues:
        """The cues of that clip before quantisation."""
        files = self.maker.networks.depth_files
        return self.maker.finish(self.maker.compute(load_clip(self.source, store.clip_id(clip), self.recipe, files)))


def recorded_recipe(store: CueStore) -> BuildRecipe:
    """The recipe that a store was built by."""
    try:
        return BuildRecipe.from_dict(store.provenance["recipe"])
    except (KeyError, TypeError) as error:
        raise LilaError(
            f"expected the recipe of its build in {store.path}, found none that can be read ({error!r}); "
            "only stores that `lila-cues build` wrote can be computed again"
        ) from error


def _check_networks(store: CueStore, recipe: BuildRecipe, networks: Networks) -> None:
    recorded = store.fingerprint
    found = json.loads(json.dumps(recipe.fingerprint(networks.records())))  # as a store keeps it: lists, no tuples
    changed = [key for key in recorded if recorded[key] != found.get(key)]
    if changed:
        raise LilaError(
            f"expected the networks that {store.path} was built with, found others ({', '.join(changed)} differ); "
            "restore the weight files at the places in its provenance"
        )
