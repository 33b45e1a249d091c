"""End-point error of flow on the cue grid, by the size of the flow network's images (docs/results.md, "Sizes").

One Sintel pair (alley_1, frames 2 and 3) and RAFT small. Hardware: one CPU core, seconds.

python docs/experiments/flow_size.py DATA     (DATA holds flow/sintel_alley_1 and weights/raft_small.pth)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lila_cues.images import read_stored
from lila_cues.networks import load_flow
from lila_cues.pipeline.frames import FULL, base_box, crop

BASE, CUE, SIDES = (480, 480), (224, 224), (224, 320, 480)


def main(data: Path) -> None:
    folder = data / "flow/sintel_alley_1"
    content = np.fromfile(folder / "frame_0002.flo", np.float32)
    width, height = content[1:3].view(np.int32)
    box = base_box((int(height), int(width)), BASE)
    truth = crop(content[3:].reshape(height, width, 2), box, CUE) * (CUE[0] / min(height, width))
    occluded = read_stored(folder / "occluded_0002.png").mean(-1) > 127
    visible = crop(1 - occluded.astype(np.float32), box, CUE) > 0.99
    frames = [read_stored(folder / f"frame_000{n}.png") for n in (2, 3)]
    network = load_flow("raft_small", data / "weights/raft_small.pth", updates=12)
    for side in SIDES:
        images = np.stack([crop(crop(frame, box, BASE), FULL, (side, side)) for frame in frames])
        start = time.process_time()
        flow = network.between(torch.from_numpy(images).movedim(-1, 1).float() / 255, torch.tensor([[0, 1]]))
        seconds = time.process_time() - start
        flow = F.interpolate(flow, CUE, mode="bilinear", antialias=True)[0] * (CUE[0] / side)
        error = np.linalg.norm(flow.movedim(0, -1).numpy() - truth, axis=-1)[visible]
        wrong = 100 * (error > 0.5).mean()
        print(f"{side:4d} px: {error.mean():.3f} px, {wrong:.1f} % above 0.5 px, {seconds:.2f} CPU s")


main(Path(sys.argv[1]))
