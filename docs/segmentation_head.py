"""A linear segmentation head on frozen LILA features: python docs/segmentation_head.py IMAGES MASKS WEIGHTS HEAD.pt

MASKS/NAME.png holds the classes of the pixels of IMAGES/NAME.jpg, 255 where they are unknown.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lila_train import load


def train(images: Path, masks: Path, weights: str, pixels: int = 2000, steps: int = 300):
    model = load(weights, device="auto")
    features, labels = [], []
    for path in sorted(masks.glob("*.png")):
        mask = torch.from_numpy(np.array(Image.open(path))).long()
        places = (mask != 255).nonzero()  # n×2, as (y, x)
        places = places[torch.randperm(len(places))[:pixels]]
        features.append(model.at(Image.open(images / f"{path.stem}.jpg"), places.flip(1)))  # n×d
        labels.append(mask[tuple(places.T)])
    x, y = torch.cat(features), torch.cat(labels).to(model.device)
    head = torch.nn.Linear(model.out_channels, int(y.max()) + 1).to(model.device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-2)
    for _ in range(steps):
        loss = F.cross_entropy(head(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, head  # head(model.features(tensor).movedim(0, -1)).argmax(-1) segments an image


if __name__ == "__main__":
    torch.save(train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])[1].state_dict(), sys.argv[4])
