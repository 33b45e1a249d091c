"""`demo`: clips rendered on this machine, then treated as any other videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lila_cues.sources.source import SourceOptions
from lila_cues.sources.videos import Videos


class Demo(Videos):
    """The training half of the rendered clips; listing them renders what is not there yet."""

    name = "demo"

    def __init__(self, root: Path, decoder: str = "decord", seed: int = 0):
        super().__init__(root / "train", decoder)
        self.seed = seed

    def clips(self) -> Sequence[str]:
        """Render what is missing, then the paths of the videos below `root`."""
        from lila_cues.demo import render

        render(self.root.parent, seed=self.seed)
        return super().clips()


def at(root: Path, options: SourceOptions) -> Demo:
    """The source in that folder."""
    return Demo(root, options.decoder, options.seed)
