"""Where the random draws of a scene come from: a scene is a function of (seed, split, index) and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Split(IntEnum):
    """What a scene is for; scenes of different splits never share a random stream, whatever the seeds are."""

    TRAIN = 1
    HELDOUT = 2
    WEIGHTS = 3  # what the shipped tiny networks were trained on
    WEIGHTS_CHECK = 4  # what they were checked on after training


@dataclass(frozen=True)
class SceneSeed:
    """The position of a scene in the space of all scenes."""

    seed: int
    split: Split
    index: int

    @property
    def name(self) -> str:
        """The clip's file name without its ending."""
        return f"{self.split.name.lower()}_{self.index:03d}"

    def generator(self) -> np.random.Generator:
        """The scene's own stream: the seed is the key, split and index are the upper half of the counter."""
        counter = [0, 0, self.index, int(self.split)]
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
