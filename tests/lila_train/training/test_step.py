"""Losses and gradients of a batch: micro-batches, ranks, options, precision."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
import torch.multiprocessing as mp
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import default_collate

import stores
from lila_train.training.config import TrainConfig, find_recipe
from lila_train.training.crops import make_views
from lila_train.training.data import PairBatch, PairDataset, load_pairs
from lila_train.training.distributed import Rank
from lila_train.training.losses import count_valid
from lila_train.training.step import TrainStep
from lila_train.training.targets import stored_arrays
from stores.errors import LilaError
from tests.lila_train.training import world

SETTINGS = TrainConfig(steps=3, batch_size=4, decoder_width=16, crop_size=32, channels=4, cells=8, max_gap=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


def batch_of(store: stores.CueStore, config: TrainConfig, rank: Rank | None = None, step: int = 0) -> PairBatch:
    dataset = PairDataset(str(store.path), config, stored_arrays(config), 192, store.complete_clips())
    return next(load_pairs(dataset, range(step, step + 1), rank))


def backward(train_step: TrainStep, batch: PairBatch, rank: Rank | None = None) -> torch.Tensor:
    """The total loss of a batch; its gradients are added to the parameters'."""
    views = make_views(batch, train_step.config, (rank or Rank()).all_reduce_sum)
    return train_step.backward(*views).total


def step_of(config: TrainConfig, rank: Rank | None = None, **how: object) -> TrainStep:
    """A decoder away from its start, where features hardly vary over an image and LayerNorm magnifies rounding."""
    train_step = TrainStep(world.encoder(), config, rank, **how)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in train_step.decoder.named_parameters():
            if name.endswith("weight") and parameter.requires_grad:
                parameter *= 3
    return train_step


def gradients(train_step: TrainStep) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in train_step.parameters.items() if p.grad is not None}


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Within 1e-5 of the gradient's length, and no parameter off by more than 0.1 % of its own."""
    assert found.keys() == expected.keys()
    off = torch.stack([(found[name] - tensor).norm() for name, tensor in expected.items()])
    own = torch.stack([tensor.norm() for tensor in expected.values()])
    assert off.norm() / own.norm() < 1e-5
    assert (off / own).max() < 1e-3


def test_a_training_step_saves_no_tensor_of_the_encoder(store: stores.CueStore) -> None:
    """Bytes saved for the backward pass are those of an encoder in `no_grad`, and more where it is trained."""
    train_step, views = step_of(SETTINGS), make_views(batch_of(store, SETTINGS), SETTINGS)

    def saved() -> list[int]:
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            train_step.losses(*views)
        return sizes

    found = saved()
    train_step.encoder.requires_grad_(True)
    assert sum(saved()) > 1.1 * sum(found)
    train_step.encoder.forward = torch.no_grad()(train_step.encoder.forward)  # type: ignore[method-assign]
    assert saved() == found


@pytest.mark.parametrize("objective", ["in-context", "erm"])
def test_micro_batches_equal_the_batch(store: stores.CueStore, objective: str) -> None:
    settings = SETTINGS.replace(objective=objective)
    batch = batch_of(store, settings)
    found = []
    for size in (None, 2):
        train_step = step_of(settings, device_batch_size=size)
        found.append((backward(train_step, batch), gradients(train_step)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=0)
    assert_alike(found[1][1], found[0][1])


def _rank(rank: int, path: str, settings: TrainConfig, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
    store, rank = stores.open(path), Rank(rank, 2)
    train_step = step_of(settings, rank)
    loss = backward(train_step, batch_of(store, settings, rank), rank)
    torch.distributed.all_reduce(loss)
    first = gradients(train_step)
    descend(train_step, 0)
    for step in (1, 2):
        train_step.decoder.zero_grad()
        backward(train_step, batch_of(store, settings, rank, step), rank)
        descend(train_step, step)
    initial = initialized(store, settings, rank)
    if rank.rank == 0:
        weights = {name: p.detach().clone() for name, p in train_step.parameters.items()}
        average = train_step.exported.state_dict()
        found = {"loss": loss / 2, "gradients": first, "weights": weights, "average": average, "initial": initial}
        torch.save(found, f"{out}/rank0.pt")
    torch.distributed.destroy_process_group()


def descend(train_step: TrainStep, step: int) -> None:
    with torch.no_grad():
        for parameter in train_step.parameters.values():
            parameter -= 0.01 * parameter.grad
    train_step.update_ema(step)


def initialized(store: stores.CueStore, settings: TrainConfig, rank: Rank | None = None) -> torch.Tensor:
    """The projection to principal components of the batch of step 0."""
    train_step = TrainStep(world.encoder(), settings, rank)
    views = make_views(batch_of(store, settings, rank), settings)
    train_step.init_pca(torch.cat([view.image for view in views]), rank or Rank())
    return train_step.decoder.project[2].weight.detach()


def test_two_ranks_equal_one_process_with_twice_the_batch(store: stores.CueStore, tmp_path: Path) -> None:
    settings = SETTINGS.replace(ema=0.6)
    mp.start_processes(_rank, (str(store.path), settings, str(tmp_path)), nprocs=2, start_method="spawn")
    rank0 = torch.load(tmp_path / "rank0.pt", weights_only=True)
    train_step = step_of(settings)
    loss = backward(train_step, batch_of(store, settings))
    torch.testing.assert_close(rank0["loss"], loss, rtol=1e-5, atol=0)
    assert_alike(rank0["gradients"], gradients(train_step))
    descend(train_step, 0)
    for step in (1, 2):
        train_step.decoder.zero_grad()
        backward(train_step, batch_of(store, settings, step=step))
        descend(train_step, step)
    torch.testing.assert_close(rank0["average"], dict(train_step.exported.state_dict()), rtol=0, atol=1e-6)
    assert not torch.equal(rank0["average"]["head.weight"], train_step.decoder.head.weight)
    torch.testing.assert_close(rank0["initial"], initialized(store, settings), rtol=0, atol=1e-4)
    for name, parameter in train_step.parameters.items():
        torch.testing.assert_close(rank0["weights"][name], parameter.detach(), rtol=0, atol=1e-6, msg=name)


def test_detaching_the_solution_leaves_the_loss_and_changes_the_gradient(store: stores.CueStore) -> None:
    found = []
    for detach in (False, True):
        settings = SETTINGS.replace(detach=detach)
        train_step = TrainStep(world.encoder(), settings)
        found.append((backward(train_step, batch_of(store, settings)), gradients(train_step)))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1]["decoder.head.weight"], found[1][1]["decoder.head.weight"], rtol=1e-2)


def test_the_erm_head_gets_gradients_in_sampled_rows_only(store: stores.CueStore) -> None:
    settings = SETTINGS.replace(objective="erm")
    train_step = TrainStep(world.encoder(), settings)
    batch = batch_of(store, settings)
    backward(train_step, batch)
    moved = train_step.parameters["head.rows.weight"].grad.abs().sum(1).nonzero().flatten()
    assert set(moved.tolist()) == {0, 1, 2, *(batch.channels.flatten() + 3).tolist()}


def test_online_distillation_needs_no_stored_features(store: stores.CueStore) -> None:
    settings = SETTINGS.replace(distilled="online", channels=12)
    batch = batch_of(store, settings)
    assert "features" not in batch.cues
    assert batch.channels.max() > 6
    assert torch.isfinite(backward(TrainStep(world.encoder(), settings), batch))


def test_bfloat16_stays_close_and_solves_in_float32(store: stores.CueStore) -> None:
    batch = batch_of(store, SETTINGS)
    losses = [
        backward(TrainStep(world.encoder(), SETTINGS.replace(precision=precision)), batch)
        for precision in ("float32", "bfloat16")
    ]
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)


def test_a_view_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(LilaError, match="multiple of 16"):
        TrainStep(world.encoder(), SETTINGS.replace(crop_size=40))


def test_a_batch_that_ranks_cannot_split_is_refused(store: stores.CueStore) -> None:
    with pytest.raises(LilaError, match="split evenly over 3 ranks"):
        batch_of(store, SETTINGS, Rank(0, 3))


def test_valid_entries_are_counted_over_the_batch_not_per_pair(store: stores.CueStore) -> None:
    """The loss is a sum over valid entries divided by their number, so the loss of a batch is not a mean of means."""
    batch = batch_of(store, SETTINGS)
    train_step = TrainStep(world.encoder(), SETTINGS)
    context, query = make_views(batch, SETTINGS)
    whole = train_step.losses(context, query).terms["l1"]
    entries, sums = 0.0, 0.0
    for i in range(4):
        part = slice(i, i + 1)
        one, other = context[part], query[part]
        l1 = train_step.losses(one, replace(other, counts=count_valid(other.valid))).terms["l1"]
        sums += (l1 * other.valid.sum()).item()
        entries += other.valid.sum().item()
    assert whole.item() == pytest.approx(sums / entries, rel=1e-5)


def test_learning_rate_warms_up_and_decays() -> None:
    settings = TrainConfig(steps=110, lr=2.0, warmup_steps=10, schedule="cosine")
    assert settings.learning_rate(0) == pytest.approx(0.2)
    assert settings.learning_rate(9) == pytest.approx(2)
    assert settings.learning_rate(60) == pytest.approx(1)
    assert settings.learning_rate(109) < 0.001
    assert settings.replace(schedule="constant").learning_rate(99) == 2


def test_the_reference_schedule_falls_twice_in_ten_epochs_of_2000_batches() -> None:
    config = find_recipe("reference-s14-ytvos").config
    rates = [config.learning_rate(step) for step in range(0, config.steps + 1, 500)]
    assert len(set(rates[:40])) == 2
    assert sorted(set(rates), reverse=True) == pytest.approx([1e-4 * 0.99**n for n in range(11)])
    assert rates[-1] == pytest.approx(0.90e-4, rel=0.01)


GRAPHS = """
import sys, torch, stores
from lila_train.training.crops import make_views
from tests.lila_train.training.test_step import SETTINGS, batch_of, step_of

settings = SETTINGS.replace(objective=sys.argv[2])
batch = batch_of(stores.open(sys.argv[1]), settings)
step = step_of(settings)
for function, arguments in ((make_views, (batch, settings)), (step.losses, make_views(batch, settings))):
    found = torch._dynamo.explain(function)(*arguments)
    print(found.graph_count, found.graph_break_count)
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["in-context", "erm"])
def test_the_arithmetic_of_a_step_has_no_graph_break(store: stores.CueStore, objective: str) -> None:
    """In a process of its own: the compiler cannot look into the checks of shapes of the test run."""
    command = [sys.executable, "-c", GRAPHS, str(store.path), objective]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1 0\n1 0\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks at it
def test_compiled_equals_eager(store: stores.CueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the compiler cannot look into its checks
    batch = batch_of(store, SETTINGS)
    eager, compiled = (step_of(SETTINGS, compile=compile) for compile in (False, True))
    expected, found = backward(eager, batch), backward(compiled, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert set(checkpoint_names(compiled)) == set(checkpoint_names(eager))
    for name, gradient in gradients(eager).items():
        assert (gradients(compiled)[name] - gradient).norm() <= 1e-3 * gradient.norm(), name


def checkpoint_names(train_step: TrainStep) -> list[str]:
    return list(train_step.decoder.state_dict())


class BlockingCopies(TorchDispatchMode):
    """Counts operations for which the host waits for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        devices = {t.device.type for t in (*args, result) if isinstance(t, torch.Tensor)}
        if name in ("_local_scalar_dense", "nonzero", "equal") or (len(devices) > 1 and name in ("copy_", "_to_copy")):
            self.found[name] += 1
        return result


def on_fake_gpu(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    return torch.empty_like(mode.from_tensor(tensor), device="cuda")


@pytest.mark.parametrize("objective", ["in-context", "erm"])
def test_the_host_waits_for_nothing_until_the_backward_pass(store: stores.CueStore, objective: str) -> None:
    """From the integers of the store to the losses, traced on fake tensors of a GPU."""
    config = SETTINGS.replace(objective=objective)  # type: ignore[arg-type]
    dataset = PairDataset(str(store.path), config, stored_arrays(config), 192, store.complete_clips())
    train_step, mode = TrainStep(world.encoder(), config), FakeTensorMode()
    pairs = default_collate([dataset[0, slot] for slot in range(2)])
    with mode:
        for module in (train_step.encoder, train_step.decoder, train_step.head):
            for part in module.modules() if module else ():
                for tensors in (part._parameters, part._buffers):
                    for name, tensor in tensors.items():
                        if tensor is not None:
                            fake = on_fake_gpu(tensor, mode)
                            tensors[name] = torch.nn.Parameter(fake) if tensors is part._parameters else fake
        stored = {name: on_fake_gpu(tensor, mode) for name, tensor in pairs.items()}
        with BlockingCopies() as copies:
            batch = PairBatch.decode(stored, store.arrays)
            losses = train_step.losses(*make_views(batch, config))
            assert batch.finite().device.type == losses.packed().device.type == "cuda"
    assert not copies.found
