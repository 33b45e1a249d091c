"""Profiles: a whole choice of networks and sizes under one name. Plain data; importing it loads no network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lila_cues.networks import catalog
from stores.errors import LilaError


@dataclass(frozen=True)
class Profile:
    """The networks by name, and the sizes of what they make. Sides are those of squares, in px.

    Per clip, A = frames − pairs anchors are kept, each with pairs / A later frames, 1 to `max_gap` frames after it.
    """

    name: str
    about: str
    encoder: str
    depth: str
    flow: str
    flow_updates: int | None  # of RAFT
    base_size: int = 480  # of the RGB kept, the shared base crop
    cue_size: int = 224  # of depth and flow, and of the last PAMR scale
    feature_size: int = 112  # of the refined features kept
    channels: int = 64
    frames: int = 16
    pairs: int = 12
    max_gap: int = 5
    pamr_iterations: tuple[int, int, int] = (20, 10, 5)  # at a quarter, a half and all of the cue grid

    def with_networks(self, encoder: str | None, depth: str | None, flow: str | None) -> Profile:
        """The profile with other networks where one is named."""
        return replace(self, encoder=encoder or self.encoder, depth=depth or self.depth, flow=flow or self.flow)


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="tiny",
            about="networks of the package, for the demo's rendered scenes; no download, no GPU",
            encoder="tiny",
            depth="tiny",
            flow="dis",
            flow_updates=None,
            base_size=240,
            cue_size=112,
            feature_size=56,
            channels=48,
            frames=8,
            pairs=6,
        ),
        Profile(
            name="small",
            about="free for any use; the default on a GPU",
            encoder="dinov2_vits14",
            depth="depth_anything_v2_small",
            flow="raft_large",
            flow_updates=12,
        ),
        Profile(
            name="base",
            about="as the paper's ViT-B; depth not for commerce",
            encoder="dinov2_vitb14",
            depth="depth_anything_v2_base",
            flow="raft_large",
            flow_updates=12,
        ),
        Profile(
            name="large",
            about="as the paper's ViT-L; depth not for commerce",
            encoder="dinov2_vitl14",
            depth="depth_anything_v2_large",
            flow="raft_large",
            flow_updates=20,
        ),
    )
}


def profile(name: str) -> Profile:
    """The profile of that name."""
    if name not in PROFILES:
        raise LilaError(f"expected a profile among {', '.join(PROFILES)}, found {name}; pass one with --profile")
    return PROFILES[name]


def default(dataset: str, device: str) -> str:
    """The name of the profile for a data set and a device: tiny for the demo and without a GPU, else small."""
    return "tiny" if dataset == "demo" or not device.startswith("cuda") else "small"


def default_notes(dataset: str, device: str) -> tuple[str, ...]:
    """What to say where the default was taken for want of a GPU: the tiny networks are no choice for real clips."""
    if dataset == "demo" or device.startswith("cuda"):
        return ()
    return (
        "no GPU here: profile tiny, whose networks know rendered scenes only; for results on real clips use a GPU, or "
        "--profile small, which is slow without one, or networks of your own (--encoder, --depth, --flow)",
    )


def licence_notes(chosen: Profile) -> tuple[str, ...]:
    """What to say before a build: which of the networks are not for commercial use."""
    networks = (
        catalog.entry(kind, name.partition("@")[0])
        for kind, name in (
            (catalog.ENCODER, chosen.encoder),
            (catalog.DEPTH, chosen.depth),
            (catalog.FLOW, chosen.flow),
        )
    )
    return tuple(
        f"{network.name} is under {network.licence.upper()}: neither it nor what is made with it may be used "
        "commercially; --depth depth_anything_v2_small is free for any use"
        for network in networks
        if network is not None and network.non_commercial
    )
