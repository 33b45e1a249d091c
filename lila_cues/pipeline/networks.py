"""The three frozen networks of a build, loaded once per worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lila_cues.pipeline.depth_files import INVERSE_DEPTH, PREFIX, DepthFiles
from lila_cues.pipeline.recipe import NetworkChoice, Records

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
