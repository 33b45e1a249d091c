"""A run: learning, bitwise resume, frozen encoder, refusal of other settings."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from pydantic import Field
from torch import Tensor
from torch._utils import ExceptionWrapper

import lila_train
import stores
from lila_train.evaluation.harness import Task
from lila_train.model import checkpoint
from lila_train.training import losses
from lila_train.training.callbacks import DecoderSpec, ScoreCallback
from lila_train.training.config import RunOptions, TrainConfig
from lila_train.training.data import PairBatch, PairDataset, explain_loader_errors, load_pairs
from lila_train.training.distributed import Rank
from lila_train.training.run_dir import RunDir
from lila_train.training.targets import stored_arrays
from lila_train.training.trainer import StepRecord, Trainer, encoder_of_store
from stores.atomic import append_line
from stores.errors import LilaError
from tests.lila_train.training import world

SETTINGS = TrainConfig(
    steps=6,
    batch_size=2,
    lr=1e-3,
    decoder_width=16,
    crop_size=32,
    channels=4,
    cells=8,
    max_gap=3,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


def trainer(store: stores.CueStore, root: Path, config: TrainConfig = SETTINGS, every: int = 1000) -> Trainer:
    encoder = encoder_of_store(store, None, torch.device("cpu"))
    run_dir = RunDir.open(root, config, store)
    return Trainer(store, encoder, config, run_dir, options=RunOptions(checkpoint_every=every))


def step(run: Trainer, batch: PairBatch) -> losses.Losses:
    update = run.compute_gradients(batch)
    run.apply(update)
    return run.check(update)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.read(path).decoder)


def test_the_loss_of_a_batch_falls(store: stores.CueStore, tmp_path: Path) -> None:
    run = trainer(store, tmp_path / "run")
    batch = next(run.batches())
    totals = [step(run, batch).total.item() for _ in range(40)]
    assert totals[-1] < 0.8 * totals[0]


def test_the_log_holds_every_step(store: stores.CueStore, tmp_path: Path) -> None:
    run = trainer(store, tmp_path / "run")
    run.fit()
    rows = run.run_dir.rows()
    assert [row["step"] for row in rows] == list(range(SETTINGS.steps))
    assert all(row["loss"] == pytest.approx(row["l1"] + row["edge"], rel=1e-5) for row in rows)


def test_a_loss_term_is_a_row_and_a_weight(
    store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of LOSS_TERMS and a field of the config are enough to train with a term and to find it in the log."""

    class Config(TrainConfig):
        l2_weight: float = Field(0.5, description="Weight of the L2 loss.")

    def squares(predicted: Tensor, target: Tensor, valid: Tensor, config: TrainConfig) -> Tensor:
        return ((predicted - target).square() * valid).sum()[None]

    monkeypatch.setitem(losses.LOSS_TERMS, "l2", replace(losses.LOSS_TERMS["l1"], title="L2", sums=squares))
    run = trainer(store, tmp_path / "run", Config(**dict(SETTINGS)))
    run.fit()
    for row in run.run_dir.rows():
        assert row.keys() == {"step", "loss", "l1", "edge", "l2", "lr", "seconds"}
        assert row["l2"] > 0
        assert row["loss"] == pytest.approx(row["l1"] + row["edge"] + 0.5 * row["l2"], rel=1e-5)
    assert losses.loss_titles() == {"loss": "total", "l1": "L1", "edge": "edge", "l2": "L2"}


@pytest.mark.parametrize("changes", [{}, {"ema": 0.6, "objective": "erm"}, {"init": "pca"}], ids=str)
def test_resuming_gives_bitwise_the_same_run(
    store: stores.CueStore, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = SETTINGS.replace(**changes)
    straight = trainer(store, tmp_path / "straight", config)
    straight.fit()
    first = trainer(store, tmp_path / "broken", config, every=3)

    def kill(run: Trainer, record: StepRecord) -> None:
        if record.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit([kill])
    second = trainer(store, tmp_path / "broken", config, every=3)
    assert second.restore()
    assert second.step == 3
    second.fit()
    for path in (Path("weights.safetensors"), Path("checkpoints/step-00000006.safetensors")):
        expected, found = (checkpoint.read(t.run_dir.root / path) for t in (straight, second))
        for part in ("decoder", "extra"):
            assert all(torch.equal(t, getattr(found, part)[name]) for name, t in getattr(expected, part).items())
    assert [row["step"] for row in second.run_dir.rows()] == list(range(6))
    assert [r["loss"] for r in second.run_dir.rows()] == [r["loss"] for r in straight.run_dir.rows()]


def test_the_moving_average_is_scored_and_exported(
    store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decay rises to the one set; recomputed in float64."""
    scored: list[torch.Tensor] = []

    def evaluate(task: object, spec: DecoderSpec, *_: object, **options: object) -> dict[str, object]:
        scored.append(spec.load(torch.device("cpu")).lila.decoder.head.weight.clone())
        return {"scores": {"lila": {}}}

    monkeypatch.setattr("lila_train.training.callbacks.evaluate", evaluate)
    task = Mock(spec=Task, protocol="any", counts=dict)
    run = trainer(store, tmp_path / "run", SETTINGS.replace(ema=0.2))
    expected: list[torch.Tensor] = []

    def follow(run: Trainer, record: StepRecord) -> None:
        now = run.train_step.decoder.head.weight.detach().double()
        decay = min(0.2, record.step / (record.step + 10))
        expected.append(now if not expected else decay * expected[-1] + (1 - decay) * now)

    run.fit([follow, ScoreCallback((3, 6), [task])])
    for found, steps in zip(scored, (3, 6), strict=True):
        torch.testing.assert_close(found.double(), expected[steps - 1], rtol=0, atol=1e-7)
    exported, resumed = tensors(run.run_dir.weights), tensors(run.run_dir.checkpoints()[-1])
    assert torch.equal(exported["head.weight"], run.train_step.exported.head.weight)
    assert torch.equal(resumed["head.weight"], run.train_step.decoder.head.weight)
    assert not torch.equal(exported["head.weight"], resumed["head.weight"])


def test_more_steps_continue_a_finished_run(store: stores.CueStore, tmp_path: Path) -> None:
    straight = trainer(store, tmp_path / "straight", SETTINGS.replace(steps=6))
    straight.fit()
    trainer(store, tmp_path / "run", SETTINGS.replace(steps=4)).fit()
    longer = trainer(store, tmp_path / "run", SETTINGS.replace(steps=6))
    assert not longer.is_finished()
    assert longer.restore()
    assert longer.step == 4
    longer.fit()
    assert [row["loss"] for row in longer.run_dir.rows()] == [row["loss"] for row in straight.run_dir.rows()]
    for path in longer.run_dir.checkpoints():
        path.unlink()
    again = trainer(store, tmp_path / "run", SETTINGS.replace(steps=8))
    with pytest.raises(LilaError, match="holds the weights of a run, but no checkpoint to continue from"):
        again.restore()
    assert len(again.run_dir.rows()) == 6


def test_only_a_schedule_that_depends_on_the_number_of_steps_forbids_more(
    store: stores.CueStore, tmp_path: Path
) -> None:
    for schedule in ("constant", "step", "cosine"):
        config = SETTINGS.replace(schedule=schedule)
        append_line(RunDir.open(tmp_path / schedule, config, store).log, {"step": 5})
        with pytest.raises(LilaError, match="steps: 6, not 8") if schedule == "cosine" else contextlib.nullcontext():
            RunDir.open(tmp_path / schedule, config.replace(steps=8), store)


def test_a_run_beside_a_build_keeps_the_clips_that_it_began_with(tmp_path: Path) -> None:
    """In loader processes, and after it is resumed; a clip that is lost meanwhile is named."""
    store = world.build(tmp_path / "cues.zarr", clips=20, tasks=1)
    began_with = store.complete_clips().tolist()
    assert len(began_with) == 16
    config = SETTINGS.replace(steps=8, batch_size=4)
    first = trainer(store, tmp_path / "run", config)
    world.fill(store)
    assert len(stores.open(store.path).complete_clips()) == 20
    drawn = [int(clip) for batch in load_pairs(first.dataset(), range(8), num_workers=1) for clip in batch.clips]
    assert set(drawn) <= set(began_with)
    first.save()
    second = trainer(stores.open(store.path), tmp_path / "run", config)
    assert len(second.clips) == 20
    second.restore()
    assert second.clips.tolist() == began_with
    for record in Path(store.path, "ledger").rglob("0000000-*.json"):
        record.unlink()
    lost = trainer(stores.open(store.path), tmp_path / "run", config)
    with pytest.raises(LilaError, match="found 16 of 16 incomplete, such as clip-0"):
        lost.restore()


def test_only_the_decoder_is_trained(store: stores.CueStore, tmp_path: Path) -> None:
    run = trainer(store, tmp_path / "run")
    before = {name: t.clone() for name, t in run.train_step.encoder.state_dict().items()}
    run.fit()
    assert all(torch.equal(before[name], t) for name, t in run.train_step.encoder.state_dict().items())
    assert not any(p.requires_grad for p in run.train_step.encoder.parameters())
    assert not run.train_step.encoder.training
    optimised = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in run.train_step.decoder.parameters() if p.requires_grad}
    assert not optimised & {id(p) for p in run.train_step.encoder.parameters()}
    names = set(checkpoint.read(run.run_dir.weights).decoder)
    assert names == set(run.train_step.decoder.state_dict())


def test_a_batch_does_not_depend_on_ranks_and_workers(store: stores.CueStore) -> None:
    config = SETTINGS.replace(seed=5, batch_size=4, channels=3)
    dataset = PairDataset(str(store.path), config, stored_arrays(config), 192, store.complete_clips())

    def boxes(rank: Rank, num_workers: int = 0) -> torch.Tensor:
        loader = load_pairs(dataset, range(2, 4), rank, num_workers)
        return torch.stack([torch.cat((b.boxes.flatten(1), b.clips[:, None]), 1) for b in loader])

    whole = boxes(Rank())
    assert torch.equal(torch.stack((boxes(Rank(0, 2)), boxes(Rank(1, 2))), dim=2).flatten(1, 2), whole)
    assert torch.equal(boxes(Rank(), num_workers=1), whole)


def test_too_little_shared_memory_is_said_before_the_start(
    store: stores.CueStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SETTINGS.replace(batch_size=32)
    dataset = PairDataset(str(store.path), config, stored_arrays(config), 192, store.complete_clips())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100_000))
    message = r"of shared memory for 3 loader processes, found 0 MB free in /dev/shm.*--shm-size 1g.*--num-workers 0"
    with pytest.raises(LilaError, match=message):
        next(load_pairs(dataset, range(1), num_workers=3))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch leaves open files it tries out
def test_a_killed_loader_process_is_one_sentence(tmp_path: Path) -> None:
    run = trainer(world.build(tmp_path / "cues.zarr"), tmp_path / "run", SETTINGS.replace(steps=1000))
    run.options = replace(run.options, num_workers=1)

    def kill(run: Trainer, record: StepRecord) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    expected = r"^expected the loader processes to last, found that one has ended .*; pass a smaller --num-workers, .*$"
    with pytest.raises(LilaError, match=expected):
        run.fit([kill])


def test_an_error_of_a_loader_process_is_one_sentence(tmp_path: Path) -> None:
    """Torch raises it again with the traceback of the process in its message."""
    store = world.build(tmp_path / "cues.zarr")
    dataset = trainer(store, tmp_path / "run").dataset()
    Path(store.path, store.arrays["rgb"].shard_key(0)).unlink()
    expected = rf"^the shard {store.path}/rgb/c\S* is damaged \(clip \d+: it is missing\); run [^\n]*$"
    try:
        dataset[0, 0]
    except stores.StoreError:
        raised = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(stores.StoreError, match=expected), explain_loader_errors():
        raised.reraise()
    with pytest.raises(stores.StoreError, match=expected), explain_loader_errors():
        dataset[0, 0]


@pytest.mark.parametrize(("device", "cores", "expected"), [("cuda", 3, 3), ("cuda", 64, 8), ("cpu", 64, 0)])
def test_the_number_of_loader_processes_is_automatic(
    store: stores.CueStore, monkeypatch: pytest.MonkeyPatch, device: str, cores: int, expected: int
) -> None:
    """For two ranks on this machine."""
    found = []
    monkeypatch.setattr("lila_cues.devices.usable_cores", lambda: 2 * cores)
    monkeypatch.setattr("lila_train.training.data.DataLoader", lambda _, **options: found.append(options) or [])
    monkeypatch.setattr("lila_train.training.data._on_device", lambda batches, device: batches)
    dataset = PairDataset(str(store.path), SETTINGS, stored_arrays(SETTINGS), 192, store.complete_clips())
    assert list(load_pairs(dataset, range(0), Rank(1, 2, torch.device(device)), None)) == []
    assert found[0]["num_workers"] == expected


def test_a_checkpoint_loads_as_a_model_for_any_size(store: stores.CueStore, tmp_path: Path) -> None:
    run = trainer(store, tmp_path / "run", SETTINGS.replace(steps=1))
    run.fit()
    model = lila_train.load(run.run_dir.weights)
    for height, width in ((32, 32), (45, 61), (7, 3)):
        image = torch.rand(2, 3, height, width)
        found = model(image)
        assert found.shape == (2, 8, height, width)
        torch.testing.assert_close(found.mean(1), torch.zeros(2, height, width), atol=1e-5, rtol=0)
    as_bytes = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    assert torch.equal(model(as_bytes), model(as_bytes.float() / 255))
    assert model.encode(torch.rand(1, 3, 33, 48)).shape == (1, 192, 3, 3)
    stretched = lila_train.load(run.run_dir.weights, fit="resize")
    assert stretched(torch.rand(1, 3, 45, 61)).shape == (1, 8, 45, 61)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 20, 20), "b×3×H×W"),
        (torch.rand(1, 4, 20, 20), "b×3×H×W"),
        (torch.zeros(1, 3, 0, 5), "b×3×H×W"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int32), "uint8 or floating-point"),
    ],
)
def test_inputs_that_are_not_images_are_refused(images: torch.Tensor, message: str) -> None:
    from lila_cues.images import to_float

    with pytest.raises(LilaError, match=message):
        to_float(images)


def test_other_settings_and_other_stores_are_refused(store: stores.CueStore, tmp_path: Path) -> None:
    trainer(store, tmp_path / "run").fit()
    with pytest.raises(LilaError, match=r"lr: 0\.001, not 0\.01; settings\.ridge: 0\.1, not 1"):
        RunDir.open(tmp_path / "run", SETTINGS.replace(lr=1e-2, ridge=1.0), store)
    elsewhere = stores.create(tmp_path / "b.zarr", store.spec, ["x"], {"world": 2}, dict(store.provenance))
    with pytest.raises(LilaError, match=r"store_fingerprint.world: 1, not 2"):
        RunDir.open(tmp_path / "run", SETTINGS, elsewhere)
    RunDir.open(tmp_path / "run", SETTINGS.replace(lr=1e-2), store, overwrite=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", ".lock"}


def test_a_run_of_version_0_1_is_named(store: stores.CueStore, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"steps": 6, "learning_rate": 1e-3}, "store": "x"}))
    (tmp_path / "log.jsonl").write_text("")
    for _ in range(2):
        with pytest.raises(LilaError, match=r"written by 0\.1; start again with --overwrite"):
            RunDir.open(tmp_path, SETTINGS, store)
        (tmp_path / "run.json").unlink(missing_ok=True)  # of a run that was not finished


def cut(data: bytes) -> bytes:
    return data[:1000]


def flip_a_weight(data: bytes) -> bytes:
    return data[:-40_000] + bytes([data[-40_000] ^ 1]) + data[-39_999:]


def rename_a_tensor(data: bytes) -> bytes:
    return data.replace(b"decoder.head.weight", b"decoder.heap.weight")


def break_the_record(data: bytes) -> bytes:
    return data.replace(b"levels", b"lovels")


@pytest.mark.parametrize("damage", [cut, flip_a_weight, rename_a_tensor, break_the_record])
def test_a_damaged_newest_checkpoint_is_skipped(
    store: stores.CueStore, tmp_path: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(store, tmp_path / "run", every=2)
    run.fit()
    newest = run.run_dir.checkpoints()[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    left = newest.with_name(f".{newest.stem}.4711-0.safetensors")  # of a kill
    left.touch()
    again = trainer(store, tmp_path / "run")
    assert again.restore()
    assert again.step == 4
    assert "skipped a checkpoint that cannot be read" in capsys.readouterr().err
    assert not left.exists()


def test_no_flipped_bit_of_a_weight_file_gives_other_features_in_silence(
    store: stores.CueStore, tmp_path: Path
) -> None:
    run = trainer(store, tmp_path / "run", SETTINGS.replace(steps=1))
    run.fit()
    intact, damaged = run.run_dir.weights.read_bytes(), tmp_path / "damaged.safetensors"
    expected = checkpoint.read(run.run_dir.weights)
    draw = random.Random(0)
    header = 8 + int.from_bytes(intact[:8], "little")
    for position in [*draw.choices(range(header), k=60), *draw.choices(range(header, len(intact)), k=40)]:
        data = bytearray(intact)
        data[position] ^= 1 << draw.randrange(8)
        damaged.write_bytes(data)
        with contextlib.suppress(LilaError):
            found = checkpoint.read(damaged)  # white space after the header
            assert found.provenance == expected.provenance
            assert all(torch.equal(found.decoder[name], expected.decoder[name]) for name in expected.decoder)


def test_a_second_process_in_the_same_folder_is_refused(store: stores.CueStore, tmp_path: Path) -> None:
    script = "import sys, pathlib; from lila_train.outputs import open_folder; "
    script += "open_folder(pathlib.Path(sys.argv[1]), 'run.json', {}, []); print('open', flush=True); input()"
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(LilaError, match=rf"run is in use by another process \(.*:{other.pid}\)"):
            RunDir.open(tmp_path / "run", SETTINGS, store, overwrite=True)
        other.kill()
        other.wait()
        RunDir.open(tmp_path / "run", SETTINGS, store, overwrite=True)


def test_damaged_lines_of_a_log_cost_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path)
    lines = [b'{"step": 0}', b'{"st', b"\xff\xfe", b"[1]", b'"step"', b'{"step": 1}', b'{"step": 2}', b'{"step": 3']
    run_dir.log.write_bytes(b"\n".join(lines))
    append_line(run_dir.log, {"step": 4})
    assert [row["step"] for row in run_dir.rows()] == [0, 1, 2, 4]
    run_dir.truncate_logs(2)
    assert [row["step"] for row in run_dir.rows()] == [0, 1]
    assert "left out 5 damaged lines" in capsys.readouterr().err
    run_dir.scores.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LilaError, match=r"found a symbolic link at .*scores\.jsonl"):
        append_line(run_dir.scores, {"step": 0})


def test_nan_stops_the_run_before_the_weights_change(store: stores.CueStore, tmp_path: Path) -> None:
    run = trainer(store, tmp_path / "run")
    batch = next(run.batches())
    before = {name: t.clone() for name, t in run.train_step.decoder.state_dict().items()}
    depth = batch.cues["depth"].clone()
    depth[1, 0, 3, 4] = torch.nan
    name = store.clip_id(int(batch.clips[1]))
    with pytest.raises(LilaError, match=f"at step 0: the cues of {name} hold NaN"):
        step(run, replace(batch, cues={**batch.cues, "depth": depth}))
    assert all(torch.equal(t, before[name]) for name, t in run.train_step.decoder.state_dict().items())
    with torch.no_grad():
        run.train_step.decoder.head.weight.mul_(torch.inf)
    with pytest.raises(
        LilaError, match=r"the loss is NaN for clip-\d, clip-\d, whose cues are finite: training diverged"
    ):
        step(run, batch)


def test_a_folder_of_other_files_is_refused_and_kept(store: stores.CueStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(LilaError, match="found neither"):
            RunDir.open(tmp_path, SETTINGS, store, overwrite=overwrite)
    with pytest.raises(LilaError, match="found a file"):
        RunDir.open(tmp_path / "file", SETTINGS, store)
    assert (tmp_path / "file").read_text() == "precious"


def test_weights_of_something_else_are_refused(store: stores.CueStore, tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in (
        ("other", "something else"),
        ("text", "not an intact safetensors"),
        ("absent", "no weights at"),
    ):
        with pytest.raises(LilaError, match=message):
            checkpoint.read(tmp_path / f"{name}.safetensors")
    run = trainer(store, tmp_path / "run", SETTINGS.replace(steps=1))
    run.fit()
    with safetensors.safe_open(run.run_dir.weights, "pt") as file:
        newer = json.loads(file.metadata()["lila"]) | {"format": 99}
    safetensors.torch.save_file(
        {"decoder.x": torch.zeros(1)}, tmp_path / "new.safetensors", {"lila": json.dumps(newer)}
    )
    with pytest.raises(LilaError, match="found format 99"):
        checkpoint.read(tmp_path / "new.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "--steps must be a whole number above 0, found 0"),
        ({"batch_size": -1}, "--batch-size must be a whole number above 0, found -1"),
        ({"lr": 0.0}, r"--lr must be a number above 0, found 0"),
        ({"lr": math.inf}, "--lr must be a number above 0, found inf"),
        ({"ridge": math.nan}, "--set ridge must be a number above 0, found nan"),
        ({"clip_norm": 0.0}, "--set clip_norm must be a number above 0 or none, found 0"),
        ({"clip_norm": -1.0}, "--set clip_norm must be a number above 0 or none, found -1"),
        ({"weight_decay": -1e-4}, "--set weight_decay must be a number of 0 or more"),
        ({"ema": 1.0}, "--set ema must be a number of 0 or more and below 1, found 1"),
        ({"warmup_steps": -1}, "--set warmup_steps must be a whole number of 0 or more, found -1"),
        ({"edge_weight": -1.0}, r"--set edge_weight must be a number of 0 or more, found -1"),
        ({"seed": -1}, "--seed must be from 0 to 4294967295, found -1"),
        ({"seed": 2**32}, "--seed must be from 0 to 4294967295, found 4294967296"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(LilaError, match=message):
        SETTINGS.replace(**change)


def test_settings_survive_json() -> None:
    record = json.loads(json.dumps(SETTINGS.to_dict()))
    assert TrainConfig.from_dict(record, "run.json") == SETTINGS
    with pytest.raises(LilaError, match="found a record that differs in ridge, strength"):
        TrainConfig.from_dict({n if n != "ridge" else "strength": v for n, v in record.items()}, "run.json")
