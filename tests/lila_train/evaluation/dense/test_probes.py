"""Probes: the features they depend on, initial weights, and resumed training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lila_train.evaluation.dense.data import DenseData, Example, TrainView
from lila_train.evaluation.dense.probes import (
    AttentionProbe,
    FrozenFeatures,
    LinearProbe,
    NormalsProbe,
    NormedLinearProbe,
    features_of,
    seeded,
)
from lila_train.evaluation.dense.segmentation import COCO_FEATUP, cross_entropy
from lila_train.evaluation.dense.training import SCHEDULES, DenseProtocol, ProbeRecipe, train, train_batches
from stores.errors import LilaError
from tests.lila_train.evaluation.worlds import COLORS, ColorModel, moving_squares

ALL = (NormalsProbe, AttentionProbe, LinearProbe, NormedLinearProbe)


def features(pixels: bool = True) -> FrozenFeatures:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 3, 4), (2, 6, 3, 4), (2, 16, 24, 32))
    grid, third, fine = (torch.randn(shape, generator=draw) for shape in shapes)
    return FrozenFeatures((24, 32), (third, third, third, grid), fine if pixels else None)


@pytest.mark.parametrize("build", ALL)
@pytest.mark.parametrize("pixels", [True, False])
def test_logits_have_the_size_of_the_image(build, pixels):
    seen = features(pixels)
    assert seeded(build, seen.widths, 5, seed=0)(seen).shape == (2, 5, 24, 32)


@pytest.mark.parametrize("build", ALL)
def test_initial_weights_depend_on_the_seed_only(build):
    seen = features()
    one = seeded(build, seen.widths, 5, seed=0).eval()(seen)
    torch.rand(3)
    assert torch.equal(seeded(build, seen.widths, 5, seed=0).eval()(seen), one)
    assert not torch.equal(seeded(build, seen.widths, 5, seed=1).eval()(seen), one)
    before = torch.random.get_rng_state()
    seeded(build, seen.widths, 5, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("build", "used"),
    [
        (NormalsProbe, {"third", "pixels"}),
        (AttentionProbe, {"grid", "pixels"}),
        (LinearProbe, {"pixels"}),
        (NormedLinearProbe, {"pixels"}),
    ],
)
def test_the_features_that_a_probe_depends_on(build, used):
    seen = features()
    probe = seeded(build, seen.widths, 5, seed=0).eval()
    expected = probe(seen)
    first, second, third, grid = seen.taps
    changes = {
        "grid": {"taps": (first, second, third, grid + 1)},
        "third": {"taps": (first, second, third + 1, grid)},
        "pixels": {"pixels": seen.pixels + 1},
    }
    for name, change in changes.items():
        assert torch.equal(probe(replace(seen, **change)), expected) == (name not in used), name


def test_the_attention_probe_equals_a_float64_oracle():
    seen = features()
    probe = seeded(AttentionProbe, seen.widths, 5, seed=0)
    biases = {name for name, _ in probe.named_parameters() if name.endswith("bias")}
    assert biases == {"grid.bias", "out.bias"}
    limit = 1 / 16**0.5  # nn.Linear's default: uniform in ± 1 / √inputs
    assert all(0.9 * limit < layer.weight.abs().max() <= limit for layer in (probe.to_q, probe.to_k, probe.to_v))
    state = {name: value.detach().double().numpy() for name, value in probe.state_dict().items()}
    pixels = seen.pixels[0].clamp_min(0).double().numpy()
    cells = np.empty((6 * 8, 16))
    for y in range(6):
        for x in range(8):  # bilinear at a quarter without antialias: the four pixels around (4y + 1.5, 4x + 1.5)
            cells[8 * y + x] = pixels[:, 4 * y + 1 : 4 * y + 3, 4 * x + 1 : 4 * x + 3].mean(axis=(1, 2))
    q, k, v = (x @ state[f"to_{n}.weight"].T for n, x in (("q", state["queries"]), ("k", cells), ("v", cells)))
    heads = []
    for part in range(8):
        of = slice(2 * part, 2 * part + 2)
        weights = np.exp(q[:, of] @ k[:, of].T / 2**0.5)
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, of])
    gathered = np.concatenate(heads, axis=1) @ state["out.weight"].T + state["out.bias"]
    expected = torch.from_numpy(np.einsum("kd,dhw->khw", gathered, pixels)).float()
    expected = expected + F.interpolate(probe.grid(seen.grid), (24, 32), mode="bilinear")[0]
    torch.testing.assert_close(probe(seen)[0], expected, atol=1e-5, rtol=1e-4)


def test_sides_that_are_no_multiple_of_the_patch_are_resized():
    found = features_of(ColorModel(), "lila", torch.rand(1, 3, 30, 41))
    assert found.size == (30, 41)
    assert found.grid.shape == (1, 3, 8, 10)
    assert found.pixels.shape == (1, 3, 32, 40)
    assert features_of(ColorModel(), "encoder", torch.rand(1, 3, 8, 8)).pixels is None


def read_squares(files: tuple[Path, ...]) -> Example:
    labels = moving_squares(6)[int(files[0].name)]
    return Example(torch.from_numpy(COLORS[labels]).movedim(-1, 0), torch.from_numpy(labels)[None])


FILES = [(Path(str(n)),) for n in range(5)]
DATA = DenseData(Path(), FILES, FILES, read_squares, {})


def protocol_of(recipe: ProbeRecipe) -> DenseProtocol:
    return replace(COCO_FEATUP, recipe=recipe, n_outputs=3, train_view=TrainView(16))


def trained(recipe: ProbeRecipe, checkpoint: Path, fingerprint: str = "f", stop_after: int | None = None):
    """Return the probe and the number of steps; stops by an interrupt after some."""
    probe, steps = seeded(LinearProbe, (3, 3), 3, seed=0), []

    def advance() -> None:
        steps.append(1)
        if stop_after == len(steps):
            raise KeyboardInterrupt

    train(probe, ColorModel(), "lila", protocol_of(recipe), DATA, 0, checkpoint, fingerprint, advance)
    return probe, len(steps)


RECIPE = ProbeRecipe(epochs=3, batch=2, lr=0.05, weight_decay=0.01, schedule="cosine")


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path):
    whole, steps = trained(RECIPE, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        trained(RECIPE, tmp_path / "cut.pt", stop_after=5)
    resumed, again = trained(RECIPE, tmp_path / "cut.pt")
    assert steps == again == 9
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_evaluation_is_refused(tmp_path: Path):
    trained(RECIPE, tmp_path / "probe.pt")
    with pytest.raises(LilaError, match=r"a probe of this evaluation in .*probe\.pt, found one of another"):
        trained(RECIPE, tmp_path / "probe.pt", fingerprint="g")


def test_every_image_is_seen_in_every_epoch_and_the_last_batch_too():
    recipe = replace(RECIPE, repeats=2)
    sizes = [len(batch) for batch in train_batches(protocol_of(recipe), DATA, 0, epoch=0)]
    assert sizes == [2] * 5
    assert recipe.steps(5) == 15
    epochs = [list(train_batches(protocol_of(RECIPE), DATA, 0, epoch)) for epoch in (0, 1)]
    assert [len(batch) for batch in epochs[0]] == [2, 2, 1]
    first, second = ([image.sum().item() for batch in batches for image, _ in batch] for batches in epochs)
    assert first != second


def test_iterations_end_the_run_within_an_epoch(tmp_path: Path):
    recipe = replace(RECIPE, epochs=1, iterations=7)
    assert recipe.steps(5) == 7
    assert trained(recipe, tmp_path / "probe.pt")[1] == 7
    assert torch.load(tmp_path / "probe.pt", weights_only=True)["epochs"] == 3


def test_the_cosine_goes_from_one_to_nothing_over_the_whole_run():
    rates = [SCHEDULES["cosine"](done) for done in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([1, 0.5, 0])


def test_training_makes_the_loss_fall(tmp_path: Path):
    example = read_squares((Path("2"),))
    images, target = example.image[None].float() / 255, example.target[None]
    seen = features_of(ColorModel(), "lila", images)
    before = cross_entropy(seeded(LinearProbe, (3, 3), 3, seed=0)(seen), target).item()
    probe, _ = trained(replace(RECIPE, epochs=30), tmp_path / "probe.pt")
    assert cross_entropy(probe(seen), target).item() < 0.5 * before
    assert np.isfinite(before)
