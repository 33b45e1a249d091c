"""The three frozen networks of a build, what must be there before they are loaded, and facts about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lila_cues import devices
from lila_cues.config import DEPTH_FILES, BuildConfig, Records
from lila_cues.networks import registry
from lila_cues.pipeline.frames import DepthFiles
from lila_cues.sampling import anchors_and_gaps
from lila_cues.video.decoders import decoder_version, require_decoder

if TYPE_CHECKING:
    from lila_cues.networks import DepthNetwork, FlowNetwork, FrozenEncoder


PACKAGE = "lila-pixels"
PACKAGES = (PACKAGE, "torch", "torchvision", "timm", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class NetworkFacts:
    """Facts about the networks that a process has loaded, for a store's provenance and for messages."""

    patch_size: int  # px
    width: int  # the encoder's channels
    records: Records
    notes: tuple[str, ...]
    provenance: dict[str, Any]  # device, versions of the decoder and of packages


@dataclass(frozen=True)
class Networks:
    """The frozen networks of a build; depth comes from a network or from files."""

    encoder: FrozenEncoder
    flow: FlowNetwork
    depth: DepthNetwork | DepthFiles

    def records(self) -> Records:
        """Return name, origin, revision, hash and license of each network's weights, and how it is run."""
        networks = {"encoder": self.encoder, "depth": self.depth, "flow": self.flow}
        return {kind: {**network.source.to_dict(), "settings": network.settings} for kind, network in networks.items()}

    def facts(self, config: BuildConfig, device: str) -> NetworkFacts:
        """Return the records of these networks, and warnings about images of the cues' size."""
        size = (config.cue_size,) * 2
        notes = self.flow.notes(size) + (() if isinstance(self.depth, DepthFiles) else self.depth.notes(size))
        packages = {name: version(name) for name in PACKAGES}
        provenance = {"device": device, "decoder": decoder_version(config.decoder), "packages": packages}
        return NetworkFacts(self.encoder.patch_size, self.encoder.width, self.records(), notes, provenance)


def check_settings(config: BuildConfig, notify: Callable[[str], None]) -> None:
    """Raise LilaError for frames and pairs that do not fit; notify of licenses that exclude commercial use."""
    anchors_and_gaps(config.frames, config.pairs)
    for kind in (registry.ENCODER, registry.DEPTH, registry.FLOW):
        entry = registry.entry(kind, getattr(config, kind).partition("@")[0])
        if entry is not None and entry.non_commercial:
            notify(
                f"{entry.name} is under {entry.licence.upper()}: neither it nor what is made with it may be used "
                "commercially; --depth depth_anything_v2_small is free for any use"
            )


def load_networks(config: BuildConfig, device: str) -> Networks:
    """Load all three networks; LilaError for a decoder, a compiler or a file that is missing, and how to get it."""
    from lila_cues.networks import load_depth, load_encoder, load_flow
    from lila_cues.networks.frozen import Execution

    require_decoder(config.decoder)
    if config.compile:
        devices.require_compiler(device)
    execution = Execution(config.precision, config.compile, config.attention)
    depth: DepthNetwork | DepthFiles | None = None
    if config.depth.startswith(DEPTH_FILES):  # checked before networks are loaded
        depth = DepthFiles(Path(config.depth.removeprefix(DEPTH_FILES)))
    encoder = load_encoder(config.encoder, config.encoder_weights, device, execution)
    flow = load_flow(config.flow, config.flow_weights, device, config.flow_updates, execution)
    if depth is None:
        depth = load_depth(config.depth, config.depth_weights, device, execution)
    return Networks(encoder, flow, depth)
