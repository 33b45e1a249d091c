"""Lines of the core that are broken on purpose: for each, a test must turn red.

A mutation is data: the file, the text that occurs in it once, what it becomes, and the test files that must notice. It
is applied to a copy of the packages, so that the checkout stays as it is; real data are left out, so that the tests
notice on any machine. `CONTRIBUTING.md` says how to add one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stores", "lila_cues", "lila_train", "tests")
PYTEST = ("-m", "pytest", "-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "--timeout=120")
DEFAULT_SUITE = ("-m", "not slow and not gpu and not net")
RED = 1  # pytest's exit status for failed tests; an error of import or collection has another


@dataclass(frozen=True)
class Mutation:
    """One broken line."""

    name: str
    path: str
    old: str
    new: str
    noticed_by: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "the solve divides by the number of pixels",
        "lila_train/training/ridge.py",
        "weighted = (x * c.unsqueeze(-1)).mT / x.shape[1]",
        "weighted = (x * c.unsqueeze(-1)).mT",
        ("tests/lila_train/training/test_objective.py",),
    ),
    Mutation(
        "the solve regularises by the strength asked for",
        "lila_train/training/ridge.py",
        "gram + strength * torch.eye(",
        "gram + 2 * strength * torch.eye(",
        ("tests/lila_train/training/test_objective.py",),
    ),
    Mutation(
        "the query's flow changes its sign",
        "lila_train/training/targets.py",
        "replace(query, map=-query.map)",
        "replace(query, map=query.map)",
        ("tests/lila_train/training/test_views.py",),
    ),
    Mutation(
        "cells that are mostly masked weigh nothing in the solve",
        "lila_train/training/ridge.py",
        "torch.where(weights < 0.5, ",
        "torch.where(weights < 0.0, ",
        ("tests/lila_train/training/test_objective.py",),
    ),
    Mutation(
        "a gradient counts where both its neighbours are valid",
        "lila_train/training/losses.py",
        "valid.narrow(axis, 0, length) & valid.narrow(axis, 1, length)",
        "valid.narrow(axis, 0, length) | valid.narrow(axis, 1, length)",
        ("tests/lila_train/training/test_objective.py",),
    ),
    Mutation(
        "flow is checked by the way back from where it leads",
        "lila_train/training/targets.py",
        "half_image_units(flow_ab + warp(flow_ba, flow_ab))",
        "half_image_units(flow_ab + flow_ba)",
        ("tests/lila_train/training/test_objective.py", "tests/lila_train/training/test_views.py"),
    ),
    Mutation(
        "a mirrored base changes the sign of the flow to the right",
        "lila_train/training/targets.py",
        "else batch.base_hflip",
        "else torch.zeros_like(batch.base_hflip)",
        ("tests/lila_train/training/test_views_oracle.py",),
    ),
    Mutation(
        "an entry counts where any of its mask is sampled",
        "lila_train/training/crops.py",
        "(m > 0).expand",
        "(m > 0.5).expand",
        ("tests/lila_train/training/test_views_oracle.py",),
    ),
    Mutation(
        "far depth is not believed",
        "lila_train/training/targets.py",
        "(depth < MAX_LOG_DEPTH)",
        "(depth > MAX_LOG_DEPTH)",
        ("tests/lila_train/training/test_views.py",),
    ),
    Mutation(
        "normals are those of a plane in perspective",
        "lila_cues/pipeline/cues.py",
        "(q - u * along_u - v * along_v)",
        "(q + u * along_u + v * along_v)",
        ("tests/lila_cues/pipeline/test_cues.py",),
    ),
    Mutation(
        "a pair tells which channels it was asked for",
        "stores/store.py",
        'values["feature_channels"][list(channels)]',
        'values["feature_channels"]',
        ("tests/stores/test_store.py",),
    ),
    Mutation(
        "PAMR's deviation is the unbiased one",
        "lila_cues/pamr.py",
        "squares.div_(len(neighbors) + windows - 1)",
        "squares.div_(len(neighbors) + windows)",
        ("tests/lila_cues/test_pamr.py",),
    ),
    Mutation(
        "PAMR leaves the centre out",
        "lila_cues/pamr.py",
        "for x in (-1, 0, 1) if y or x]",
        "for x in (-1, 0, 1) if y or x >= 0]",
        ("tests/lila_cues/test_pamr.py",),
    ),
    Mutation(
        "the window of the neighbours has its full radius",
        "lila_train/model/propagation.py",
        "near = (band - own[:, None]).abs() <= radius",
        "near = (band - own[:, None]).abs() < radius",
        ("tests/lila_train/model/test_propagation.py",),
    ),
    Mutation(
        "the first frame stays in the context",
        "lila_train/model/propagation.py",
        "if not reference or self._seen - len(self._replaceable) == size:",
        "if self._seen:",
        ("tests/lila_train/model/test_propagation.py",),
    ),
    Mutation(
        "the ledger believes the latest attempt",
        "stores/ledger.py",
        'attempt > int(current[task]["attempt"])',
        'attempt < int(current[task]["attempt"])',
        ("tests/stores/test_faults.py",),
    ),
    Mutation(
        "a record is believed by its checksum",
        "stores/ledger.py",
        'if crc32c(canonical_json(body)) != document["crc32c"]:',
        "if False:",
        ("tests/stores/test_faults.py",),
    ),
    Mutation(
        "a retry carries over only what was recorded",
        "stores/writer.py",
        "if chunks is None or digest(chunks) != record.digest:",
        "if chunks is None:",
        ("tests/stores/test_faults.py",),
    ),
    Mutation(
        "a shard is recorded after it is there",
        "stores/writer.py",
        "                for name in finished:\n                    target",
        "                ledger.publish(self._root, record, temporary)\n"
        "                for name in finished:\n                    target",
        ("tests/stores/test_crashes.py",),
    ),
    Mutation(
        "every slot of a batch has a draw of its own",
        "lila_train/training/sampling.py",
        "counter=[0, 0, step, slot]",
        "counter=[0, 0, step, 0]",
        ("tests/lila_train/training/test_sampling.py",),
    ),
    Mutation(
        "pairs at the largest gap are drawn",
        "lila_train/training/sampling.py",
        "self.gaps_of(clip) <= self.max_gap",
        "self.gaps_of(clip) < self.max_gap",
        ("tests/lila_train/training/test_sampling.py",),
    ),
    Mutation(
        "a position is its rank's share of a step",
        "lila_train/training/data.py",
        "range(rank.rank, batch_size, rank.world_size)",
        "range(0, batch_size, rank.world_size)",
        ("tests/lila_train/training/test_step.py",),
    ),
    Mutation(
        "the units of a released fusion block keep their places",
        "lila_train/model/released.py",
        'lambda m: f"latent_head.scratch.refinenet{int(m[1]) + 1}.resConfUnit2."',
        'lambda m: f"latent_head.scratch.refinenet{4 - int(m[1])}.resConfUnit2."',
        ("tests/lila_train/model/test_decoder.py",),
    ),
    Mutation(
        "DINOv2's gated units keep their places",
        "lila_cues/networks/state_dicts.py",
        '("mlp.w12.", "mlp.fc1."), ("mlp.w3.", "mlp.fc2.")',
        '("mlp.w12.", "mlp.fc2."), ("mlp.w3.", "mlp.fc1.")',
        ("tests/lila_cues/networks/test_encoder_weights.py",),
    ),
    Mutation(
        "J's first and last frame are not scored",
        "lila_train/evaluation/davis/metrics.py",
        "tuple(region[1:-1])",
        "tuple(region[:-1])",
        ("tests/lila_train/evaluation/davis/test_metrics.py",),
    ),
    Mutation(
        "F's boundary looks to the south-east",
        "lila_train/evaluation/davis/metrics.py",
        "    edge[:-1, :-1] |= mask[1:, 1:] ^ mask[:-1, :-1]\n",
        "",
        ("tests/lila_train/evaluation/davis/test_metrics.py",),
    ),
    Mutation(
        "F's tolerance is rounded up",
        "lila_train/evaluation/davis/metrics.py",
        "math.ceil(TOLERANCE",
        "math.floor(TOLERANCE",
        ("tests/lila_train/evaluation/davis/test_metrics.py",),
    ),
    Mutation(
        "flow is rounded to the nearest step",
        "stores/encodings.py",
        "steps = xp.round(values * float(np.float32(1 / encoding.step)))",
        "steps = xp.trunc(values * float(np.float32(1 / encoding.step)))",
        ("tests/stores/test_encodings.py",),
    ),
    Mutation(
        "flow beyond the range is missing",
        "stores/encodings.py",
        "xp.where(abs(steps) <= largest, steps, missing)",
        "xp.clip(steps, -32767, 32767)",
        ("tests/stores/test_encodings.py",),
    ),
)


def suite(tree: Path, files: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The default tests of these files, on the packages of that tree, without real data."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "LILA_SHARED": str(tree / "nothing"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *PYTEST, *DEFAULT_SUITE, *files]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def copied(tree: Path) -> Path:
    """A tree of the packages and their tests."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("mutations") / "tree")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_mutation_still_has_its_place(mutation: Mutation) -> None:
    found = (ROOT / mutation.path).read_text().count(mutation.old)
    assert found == 1, f"expected the text once in {mutation.path}, found it {found} times; write the mutation anew"
    assert all((ROOT / file).is_file() for file in mutation.noticed_by)


@pytest.mark.slow
def test_the_unbroken_copy_is_green(tree: Path) -> None:
    done = suite(tree, tuple(sorted({file for mutation in MUTATIONS for file in mutation.noticed_by})))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_broken_line_turns_a_test_red(mutation: Mutation, tree: Path) -> None:
    path = tree / mutation.path
    sound = path.read_text()
    path.write_text(sound.replace(mutation.old, mutation.new))
    try:
        done = suite(tree, mutation.noticed_by)
    finally:
        path.write_text(sound)
    assert done.returncode == RED, f"survived: {mutation.name}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
