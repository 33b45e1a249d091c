"""The three frozen networks of a build, loaded once per worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lila_cues.pipeline.depth_files import PREFIX, DepthFiles
from lila_cues.pipeline.recipe import NetworkChoice

if TYPE_CHECKING:
    from lila_cues.networks import DepthNetwork, FlowNetwork, FrozenEncoder


@dataclass(frozen=True)
class Networks:
    """Encoder, flow, and depth by a network or from files."""

    encoder: FrozenEncoder
    flow: FlowNetwork
    depth: DepthNetwork | None
    depth_files: DepthFiles | None

    def sources(self) -> dict[str, dict[str, str | None]]:
        """Where each network's weights come from: name, place, revision, hash, licence."""
        used = {"encoder": self.encoder.source, "flow": self.flow.source}
        if self.depth is not None:
            used["depth"] = self.depth.source
        records = {kind: source.to_dict() for kind, source in used.items()}
        if self.depth_files is not None:
            records["depth"] = _files_record(self.depth_files)
        return records


def load_networks(choice: NetworkChoice, device: str) -> Networks:
    """Load all three on the device; a `LilaError` naming the file, the place and the option where one is missing."""
    from lila_cues.networks import load_depth, load_encoder, load_flow

    files = DepthFiles(Path(choice.depth.removeprefix(PREFIX))) if choice.depth.startswith(PREFIX) else None
    return Networks(
        encoder=load_encoder(choice.encoder, choice.encoder_weights, device, attention=choice.attention),
        flow=load_flow(choice.flow, choice.flow_weights, device, updates=choice.flow_updates),
        depth=None if files else load_depth(choice.depth, choice.depth_weights, device),
        depth_files=files,
    )


def _files_record(files: DepthFiles) -> dict[str, str | None]:
    return {
        "network": "files",
        "origin": "file",
        "location": str(files.root),
        "revision": None,
        "sha256": None,
        "licence": "of the user's own maps",
    }
