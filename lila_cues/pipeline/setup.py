"""The three frozen networks of a build, loaded once per worker.

From what a user asks to a recipe: the profile for the device at hand, the networks loaded, the sizes settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lila_cues import config
from lila_cues.config import BuildRecipe, NetworkChoice, Order, PamrChoice, Profile, Records, SourceChoice
from lila_cues.pipeline import cues
from lila_cues.pipeline.frames import INVERSE_DEPTH, PREFIX, DepthFiles
from lila_cues.sampling import anchors_and_gaps
from lila_cues.video.reader import require_decoder
from stores.errors import LilaError
from stores.spec import Geometry

if TYPE_CHECKING:
    from lila_cues.networks import DepthNetwork, FlowNetwork, FrozenEncoder


@dataclass(frozen=True)
class Networks:
    """Encoder, flow, and depth by a network or from files."""

    encoder: FrozenEncoder
    flow: FlowNetwork
    depth: DepthNetwork | None
    depth_files: DepthFiles | None

    def records(self) -> Records:
        """What is known of each: name, place, revision, hash and licence of its weights, and how it is run."""
        encoder = {"attention": self.encoder.attention}
        records: Records = {
            "encoder": {**self.encoder.source.to_dict(), "settings": encoder},
        }
        if self.depth is not None:
            records["depth"] = {**self.depth.source.to_dict(), "settings": self.depth.settings}
        if self.depth_files is not None:
            records["depth"] = _files_record(self.depth_files)
        records["flow"] = {**self.flow.source.to_dict(), "settings": self.flow.settings}
        return records

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """What a person should know before images of that size (y, x) go in."""
        return self.flow.notes(size) + (self.depth.notes(size) if self.depth is not None else ())


def load_networks(choice: NetworkChoice, device: str) -> Networks:
    """Load all three on the device; a `LilaError` naming the file, the place and the option where one is missing."""
    from lila_cues.networks import load_depth, load_encoder, load_flow
    from lila_cues.networks.execution import Execution

    execution = Execution(choice.precision, choice.compiled)
    files = DepthFiles(Path(choice.depth.removeprefix(PREFIX))) if choice.depth.startswith(PREFIX) else None
    attention = choice.attention
    return Networks(
        encoder=load_encoder(choice.encoder, choice.encoder_weights, device, attention),
        flow=load_flow(choice.flow, choice.flow_weights, device, updates=choice.flow_updates, execution=execution),
        depth=None if files else load_depth(choice.depth, choice.depth_weights, device, attention, execution=execution),
        depth_files=files,
    )


def _files_record(files: DepthFiles) -> dict[str, Any]:
    return {
        "network": "files",
        "origin": "file",
        "location": str(files.root),
        "revision": None,
        "sha256": None,
        "licence": "of the user's own maps",
        "settings": {"inverse_depth_of_1_m": INVERSE_DEPTH},
    }


@dataclass(frozen=True)
class Choice:
    """Device, profile and extra cues of an order, before anything is loaded."""

    device: str
    profile: Profile
    extra_cues: tuple[str, ...]
    notes: tuple[str, ...]
    """What the user should know before."""


def choose(order: Order) -> Choice:
    """The device at hand, the profile for it with the networks that the order names, and what to say of them."""
    device = choose_device(order.device)
    require_decoder(order.decoder)
    extra = cues.parse(order.extra_cues)
    named = order.encoder or order.depth or order.flow or order.profile
    notes = () if named else config.default_notes(order.dataset, device)
    profile = config.profile(order.profile or config.default(order.dataset, device))
    profile = profile.with_networks(order.encoder, order.depth, order.flow)
    return Choice(device, profile, extra, notes + config.licence_notes(profile))


def load(order: Order, choice: Choice) -> tuple[BuildRecipe, Networks]:
    """The networks, and the recipe that they complete: the encoder's grid is known only now."""
    profile = choice.profile
    named = network_choice(order, profile)
    networks = load_networks(named, choice.device)
    sizes, seen = geometry(profile, networks.encoder)
    recipe = BuildRecipe(
        source=SourceChoice(order.dataset, str(order.source_root), order.decoder, order.seed),
        networks=named,
        geometry=sizes,
        encoder_input=seen,
        device=choice.device,
        seed=order.seed,
        max_gap=order.max_gap or profile.max_gap,
        pamr=PamrChoice(profile.pamr_iterations),
        extra_cues=choice.extra_cues,
    )
    return recipe, networks


def choose_device(name: str) -> str:
    """`auto` is a GPU where there is one; anything else is taken at its word, and refused where it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise LilaError(f"expected --device auto, cpu or cuda, found {name}; pass one of these")
    if kind == "cuda":
        _require_gpu(int(number or 0))
    return name


def _require_gpu(number: int) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise LilaError("expected a GPU for --device cuda, found none that PyTorch can use; pass --device cpu")
    if number >= count:
        raise LilaError(
            f"expected a GPU among cuda:0 to cuda:{count - 1} for --device cuda:{number}, found none of that number; "
            "pass one that is there"
        )


def network_choice(order: Order, profile: Profile) -> NetworkChoice:
    """The profile's networks, with the weights and ways of running that the order names."""
    return NetworkChoice(
        encoder=profile.encoder,
        depth=profile.depth,
        flow=profile.flow,
        encoder_weights=order.encoder_weights,
        depth_weights=order.depth_weights,
        flow_weights=order.flow_weights,
        flow_updates=order.flow_updates or (None if order.flow else profile.flow_updates),
        attention=order.attention,
        precision=order.precision,
        compiled=order.compiled,
    )


def geometry(profile: Profile, encoder: FrozenEncoder) -> tuple[Geometry, tuple[int, int]]:
    """The profile's sizes with the grid of that encoder, and the size of the images that it sees."""
    anchors_and_gaps(profile.frames, profile.pairs)
    found = sizes(profile, encoder.patch_size)
    kept = replace(found, channels=min(profile.channels, encoder.width))
    return kept, (found.encoder[0] * encoder.patch_size,) * 2


def sizes(profile: Profile, patch_size: int) -> Geometry:
    """The profile's sizes with an encoder of that patch size in px, wide enough for all of its channels."""
    grid = max(1, round(profile.cue_size / patch_size))
    return Geometry(
        frames=profile.frames,
        pairs=profile.pairs,
        base=(profile.base_size,) * 2,
        cue=(profile.cue_size,) * 2,
        features=(profile.feature_size,) * 2,
        encoder=(grid, grid),
        channels=profile.channels,
    )
