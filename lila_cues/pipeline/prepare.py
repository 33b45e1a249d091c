"""From what a user asks to a recipe: the profile for the device at hand, the networks loaded, the sizes settled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lila_cues import profiles
from lila_cues.decoding import require_decoder
from lila_cues.frame_choice import anchors_and_gaps
from lila_cues.networks import FrozenEncoder
from lila_cues.order import Order
from lila_cues.pipeline import derived
from lila_cues.pipeline.networks import Networks, load_networks
from lila_cues.pipeline.recipe import BuildRecipe, NetworkChoice, PamrChoice, SourceChoice
from lila_cues.profiles import Profile
from stores.errors import LilaError
from stores.spec import Geometry


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
    extra = derived.parse(order.extra_cues)
    named = order.encoder or order.depth or order.flow or order.profile
    notes = () if named else profiles.default_notes(order.dataset, device)
    profile = profiles.profile(order.profile or profiles.default(order.dataset, device))
    profile = profile.with_networks(order.encoder, order.depth, order.flow)
    return Choice(device, profile, extra, notes + profiles.licence_notes(profile))


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
