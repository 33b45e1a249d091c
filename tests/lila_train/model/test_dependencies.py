"""Loading and running a model needs few packages: those of hubconf.py and what they require themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

import hubconf

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("huggingface_hub", "jaxtyping", "numpy", "pillow", "safetensors", "timm", "torch", "torchvision")

SCRIPT = '''
import sys

hidden = set(sys.argv[2].split(","))

class Hide:
    """Finds modules as if the hidden packages were not installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hide, sys.meta_path)

import numpy as np
import torch

import hubconf
import lila_train.model
from lila_train import load

images = torch.rand(1, 3, 20, 28)
expected = load(sys.argv[1])(images)
assert expected.shape == (1, 8, 20, 28)
assert load(sys.argv[1]).features(np.zeros((20, 28, 3), np.uint8), tile=16).shape == (8, 20, 28)
assert torch.equal(hubconf.lila(sys.argv[1])(images), expected)
by_hub = torch.hub.load(sys.argv[3], "lila", source="local", weights=sys.argv[1])
assert torch.equal(by_hub(images), expected)
try:
    import zarr
except ModuleNotFoundError:
    print("zarr is not found")
'''


def test_a_model_runs_with_the_declared_packages_alone(weights: Path) -> None:
    required = requirements(PACKAGES) | {"lila-pixels"}
    hidden = [n for n, owners in packages_distributions().items() if required.isdisjoint(map(normalized, owners))]
    command = [sys.executable, "-c", SCRIPT, str(weights), ",".join(hidden), str(ROOT)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("zarr is not found")


def test_torch_hub_asks_for_the_declared_packages() -> None:
    owners = packages_distributions()
    assert {normalized(owners[name][0]) for name in hubconf.dependencies} == set(map(normalized, PACKAGES))


def requirements(names: tuple[str, ...]) -> set[str]:
    """Return these distributions and, without extras, all that they require."""
    found: set[str] = set()
    pending = [normalized(name) for name in names]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            parsed = map(Requirement, distribution(name).requires or [])
            pending += [normalized(r.name) for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
