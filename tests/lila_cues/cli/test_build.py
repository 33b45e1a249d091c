"""`lila-cues build` from the command line: its output, its store, its exit status."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import RenderableType

import stores
from lila_cues import cli, config, console
from lila_cues.cli import build as build_command
from lila_cues.cli import messages
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.pipeline import build, setup
from lila_cues.pipeline.frames import ClipFrames
from lila_cues.pipeline.task import Worker
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip

Command = Callable[..., tuple[int, str, str]]
RANDOM = ("--encoder-weights", "random", "--depth-weights", "random")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `lila-cues build` in an empty folder: exit status, and what it wrote to the two streams, in single lines."""
    monkeypatch.delenv("LILA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lila-cues", "build", *arguments])
        for name, stderr in (("out", False), ("err", True)):
            monkeypatch.setattr(console, name, console.Console(stderr=stderr, highlight=False, width=200))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny profile with sizes for a test."""
    sizes = {"base_size": 64, "cue_size": 32, "feature_size": 16, "channels": 6}
    tiny = config.Profile("", {**config.PROFILES["tiny"].settings, **sizes})
    monkeypatch.setitem(config.PROFILES, "tiny", tiny)


def write_videos(root: Path, count: int = 3) -> None:
    root.mkdir(parents=True)
    for index in range(count):
        barcodes.write(root / f"{index}.mp4", Clip(frames=20, size=(64, 80)))


@pytest.mark.usefixtures("small")
def test_a_build_prints_its_settings_and_its_result(command: Command, tmp_path: Path) -> None:
    write_videos(tmp_path / "data" / "videos")
    status, out, err = command("--dataset", "videos", "--device", "cpu", "--base-size", "80", *RANDOM)
    assert status == 0
    for part in ("3 of videos in", "8 frames, 6 pairs", "depth and flow 32×32", "license: apache-2.0", "tiny on cpu"):
        assert part in out
    for part in ("3 complete, 0 failed", "24 and 18 pairs", "clips/s", "flow", "pamr", "decode"):
        assert part in out
    assert "no GPU here: profile tiny" in err
    assert "frames of 64 px are enlarged to 80: --base-size 64 saves" in " ".join(err.split())
    store = stores.open("cues/videos.zarr")
    assert store.complete_clips().tolist() == [0, 1, 2]
    assert Path(store.provenance["root"]) == tmp_path / "data" / "videos"
    (line,) = (json.loads(text) for text in Path("cues/videos.zarr", build.LOG).read_text().splitlines())
    assert line["complete"] == 3
    assert {"encoder", "depth", "flow", "pamr", "decode", "compress"} <= set(line["seconds"])


@pytest.mark.usefixtures("small")
def test_a_bad_video_is_reported_and_skipped(command: Command, tmp_path: Path) -> None:
    write_videos(tmp_path / "clips")
    (tmp_path / "clips" / "bad.mp4").write_text("text")
    command_line = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    status, out, err = command(*command_line)
    assert status == 1
    assert "3 complete, 1 failed" in out
    assert "failed bad.mp4:" in err, "printed while the build is running"
    assert "expected a video, found a file that cannot be opened" in out
    assert stores.open("s.zarr").statuses().tolist() == [1, 1, 1, 2]
    status, out, _ = command(*command_line)
    assert status == 0
    assert "s.zarr is finished: 3 clips complete, 1 failed (--only-failed retries them)" in out
    (tmp_path / "clips" / "bad.mp4").write_bytes((tmp_path / "clips" / "0.mp4").read_bytes())
    status, out, _ = command(*command_line, "--only-failed")
    assert status == 0
    assert "1 complete, 0 failed" in out
    assert stores.open("s.zarr").statuses().tolist() == [1, 1, 1, 1]


@pytest.mark.usefixtures("small")
def test_a_finished_store_is_recognised_without_loading_a_network(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path / "clips")
    command_line = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    assert command(*command_line)[0] == 0
    monkeypatch.setattr(setup, "load_networks", lambda *arguments: pytest.fail("networks were loaded"))
    status, out, _ = command(*command_line)
    assert (status, out.strip()) == (0, "s.zarr is finished: 3 clips complete")


@pytest.mark.usefixtures("small")
def test_shares_make_one_store(command: Command, tmp_path: Path) -> None:
    write_videos(tmp_path / "clips", 18)
    command_line = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    status, out, _ = command(*command_line, "--shard", "1/2")
    assert status == 0
    assert "2 of videos in" in out, "the second task has the last two of 18 clips"
    status, out, _ = command(*command_line, "--shard", "1/2")
    assert (status, "share 1/2 of s.zarr is finished: 2 clips complete" in out) == (0, True)
    assert command(*command_line, "--shard", "0/2")[0] == 0
    assert len(stores.open("s.zarr").complete_clips()) == 18
    assert "s.zarr is finished: 18 clips complete" in command(*command_line)[1]


@pytest.mark.usefixtures("small")
def test_other_settings_are_refused_and_the_difference_is_printed(command: Command, tmp_path: Path) -> None:
    write_videos(tmp_path / "clips", 1)
    command_line = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    assert command(*command_line)[0] == 0
    for change, expected in (
        ("--seed", "settings.seed: 0, not 5"),
        ("--max-gap", "settings.max_gap: 5"),
    ):
        status, _, err = command(*command_line, change, "5" if change == "--seed" else "2")
        assert status == 2
        assert expected in err.replace("\n", " ")
    write_videos(tmp_path / "more", 2)
    status, _, err = command("--dataset", "videos", "--root", "more", "--store", "s.zarr", *RANDOM)
    assert status == 2
    assert "clips: 1 are not in the store (1.mp4)" in err.replace("\n", " ")


@pytest.mark.usefixtures("small")
def test_too_many_failures_stop_the_build(command: Command, tmp_path: Path) -> None:
    write_videos(tmp_path / "clips", 1)
    for index in range(40):
        (tmp_path / "clips" / f"bad{index}.mp4").touch()
    command_line = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    status, _, err = command(*command_line, "--max-failures", "3")
    assert status == 2
    assert "expected at most 3 clips to fail, found" in err
    assert "an empty file" in err.replace("\n", " ")


BAD = {
    "no folder": (["--dataset", "kinetics"], "found no folder at data/kinetics (LILA_DATA is not set); pass --root"),
    "no such data set": (["--dataset", "ucf101"], "expected a data set among demo, videos"),
    "empty folder": (["--dataset", "videos", "--root", "empty"], "expected video files"),
    "profile": (["--dataset", "videos", "--root", "clips", "--profile", "huge"], "expected a profile among tiny"),
    "device": (["--dataset", "videos", "--root", "clips", "--device", "tpu9"], "expected --device auto, cpu or cuda"),
    "weights": (
        ["--dataset", "videos", "--root", "clips", "--encoder-weights", "absent.pth"],
        "at absent.pth, found no such file; give its place with --encoder-weights",
    ),
    "depth maps": (
        ["--dataset", "videos", "--root", "clips", "--depth", "files:absent", *RANDOM[:2]],
        "expected depth maps in absent, found no such folder; give it with --depth files:DIR",
    ),
    "a file": (
        ["--dataset", "videos", "--root", "clips", "--store", "clips/0.mp4"],
        "nothing at clips/0.mp4, found a file",
    ),
    "a folder": (
        ["--dataset", "videos", "--root", "clips", "--store", "clips"],
        "nothing at clips, found another folder",
    ),
    "below a file": (
        ["--dataset", "videos", "--root", "clips", "--store", "clips/0.mp4/s.zarr"],
        "expected a folder for clips/0.mp4/s.zarr, found a file at",
    ),
    "precision": (
        ["--dataset", "videos", "--root", "clips", "--precision", "int8"],
        "--precision must be float32, bfloat16 or float16, found int8",
    ),
    "decoder": (
        ["--dataset", "videos", "--root", "clips", "--decoder", "ffmpeg"],
        "must be pyav, decord or torchcodec, found ffmpeg",
    ),
    "no address": (
        ["--dataset", "videos", "--root", "clips", "--scheduler", ""],
        "expected the address of a Dask scheduler, found an empty --scheduler",
    ),
    "no scheduler's file": (
        ["--dataset", "videos", "--root", "clips", "--scheduler-file", "clips/text.json"],
        "expected the file of a Dask scheduler at clips/text.json, found no address in it",
    ),
    "two schedulers": (
        ["--dataset", "videos", "--root", "clips", "--scheduler-file", "f", "--scheduler", "tcp://x:1"],
        "expected --scheduler or --scheduler-file, found both",
    ),
    "profile of workers": (
        ["--dataset", "videos", "--root", "clips", "--scheduler", "tcp://127.0.0.1:9"],
        "expected --profile with --scheduler, found none",
    ),
    "share": (["--dataset", "videos", "--root", "clips", "--shard", "2/2"], "expected --shard i/n with i from 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_status_2(command: Command, tmp_path: Path, name: str) -> None:
    write_videos(tmp_path / "clips", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "clips" / "text.json").write_text('["tcp://127.0.0.1:9"]')
    arguments, expected = BAD[name]
    status, _, err = command(*arguments)
    assert status == 2
    assert expected in err.replace("\n", " ")
    assert "Traceback" not in err
    assert not Path("cues").exists(), "no store was created"


def test_a_place_without_permission_is_named(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's answer is feigned: for root it is always yes."""
    write_videos(tmp_path / "clips", 1)
    monkeypatch.setattr("stores.atomic.os.access", lambda place, mode: not mode & os.W_OK)
    status, _, err = command("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    assert status == 2
    expected = f"expected to write s.zarr, found no permission in {tmp_path}; name another place with --store"
    assert expected in err.replace("\n", " ")


def test_help_comes_at_once() -> None:
    program = "import sys; from lila_cues.cli import app; app(['build', '--help'], standalone_mode=False)\n"
    program += (
        "heavy = {'torch', 'zarr', 'timm', 'matplotlib', 'jinja2', 'distributed'}; print(heavy & set(sys.modules))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()"), "help imports nothing heavy"
    assert time.perf_counter() - start < 10


@pytest.mark.usefixtures("small")
def test_what_cannot_fit_is_refused_before_anything_is_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path / "clips", 1)
    full = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("stores.plan.shutil.disk_usage", lambda place: full)
    status, _, err = command("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    assert status == 2
    assert "s.zarr needs about" in err
    assert not Path("s.zarr").exists()


def test_compilation_without_a_compiler_is_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path / "clips", 1)
    monkeypatch.setenv("CXX", "")
    options = ["--root", "clips", "--store", "s.zarr", "--device", "cpu", "--compile"]
    status, _, err = command("--dataset", "videos", *options, *RANDOM)
    assert status == 2
    assert "expected a C++ compiler for --compile" in err
    assert not Path("s.zarr").exists()


def test_non_commercial_licences_are_noted_before_networks_are_loaded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path / "clips", 1)
    monkeypatch.setattr(setup, "load_networks", interrupt)
    status, _, err = command("--dataset", "videos", "--root", "clips", "--profile", "large")
    assert status == 130
    assert "depth_anything_v2_large is under CC-BY-NC-4.0: neither it nor what is made with it" in err


@pytest.mark.parametrize("place", ["lila_cues.devices.choose", "lila_cues.cli.build.spread"])
def test_an_interrupted_build_ends_with_130(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    write_videos(tmp_path / "clips", 1)
    monkeypatch.setattr(place, interrupt)
    status, _, err = command("--dataset", "videos", "--root", "clips", *RANDOM)
    assert status == 130
    assert err.count("interrupted; completed work is kept, and the same command resumes it") == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_publishes_the_clips_that_are_predicted(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, status: int
) -> None:
    write_videos(tmp_path / "clips", 6)
    predict, predicted = Worker.predict, list[ClipFrames]()

    def signalled(worker: Worker, *arguments: Any) -> object:
        predicted.extend(arguments[1])
        if len(predicted) == 3:
            os.kill(os.getpid(), sent)
            assert worker.stop.wait(5)
        return predict(worker, *arguments)

    monkeypatch.setattr(Worker, "predict", signalled)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    try:
        ended, _, err = command("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert ended == status
    assert err.count(console.INTERRUPTED) == 1
    assert len(stores.open("s.zarr").complete_clips()) == len(predicted) == 3


@pytest.mark.usefixtures("small")
def test_the_names_of_the_clips_are_freed_while_it_builds(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Names(list[str]):
        """A list that can be referred to weakly."""

    names: list[weakref.ref[Names]] = []
    alive: list[bool] = []

    def spread(clips: Sequence[str], limit: int | None) -> Names:
        chosen = Names(clips)
        names.append(weakref.ref(chosen))
        return chosen

    announcement = messages.announcement

    def announced(*arguments: Any) -> RenderableType:
        alive.append(names[0]() is not None)
        return announcement(*arguments)

    write_videos(tmp_path / "clips", 1)
    monkeypatch.setattr(build_command, "spread", spread)
    monkeypatch.setattr(messages, "announcement", announced)
    status, _, err = command("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    assert status == 0, err
    assert alive == [False]


@pytest.mark.usefixtures("small")
def test_the_bytes_of_a_run_are_those_of_its_own_clips(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path / "clips", 3)
    (tmp_path / "clips/2.mp4").rename(tmp_path / "2.mp4")
    (tmp_path / "clips/2.mp4").write_bytes(b"text")
    built = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM)
    tallies: list[build.Tally] = []
    summary = messages.summary

    def kept(store: stores.CueStore, tally: build.Tally, wall: float) -> RenderableType:
        tallies.append(tally)
        return summary(store, tally, wall)

    monkeypatch.setattr(messages, "summary", kept)
    assert command(*built)[0] == 1
    (tmp_path / "2.mp4").replace(tmp_path / "clips/2.mp4")
    assert command(*built, "--only-failed")[0] == 0
    two, one = (tally.bytes for tally in tallies)
    assert 0 < one < two
    store = stores.open("s.zarr")
    record = store.ledger.latest(0)
    assert record
    # of each shard of 16 clips: the checksum of its chunks, the index and its checksum
    index = sum(4 + 16 * 16 * array.clip_chunks + 4 for array in store.arrays.values())
    assert one + two == sum(record.shard_bytes.values()) - index


def test_an_interrupt_outside_of_any_command_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    class App(typer.Typer):
        def __call__(self, *arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        console.run(App())
    assert ended.value.code == 130
    assert "interrupted; completed work is kept" in capsys.readouterr().err


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("sizes", "base_size", "side"),
    [
        ([(64, 80), (72, 64), None], 80, 64),
        ([(64, 80), (96, 80)], 80, None),
        ([(64, 80)], 64, None),
        ([None], 64, None),
    ],
)
def test_frames_that_the_base_crop_would_enlarge_are_found(
    tmp_path: Path, sizes: list[tuple[int, int] | None], base_size: int, side: int | None
) -> None:
    """None among the sizes: a file that cannot be read."""
    names = [f"{index}.mp4" for index in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        (tmp_path / name).write_text("text")
        if size is not None:
            barcodes.write(tmp_path / name, Clip(frames=2, size=size))
    settings = BuildConfig.resolve({"dataset": "videos", "base_size": base_size})
    assert build_command.enlarged_side(settings, RunOptions(tmp_path), names) == side


@pytest.mark.usefixtures("small")
def test_clips_that_another_builder_has_are_said_to_be_absent(command: Command, tmp_path: Path) -> None:
    """What the store says decides, not what was counted."""
    write_videos(tmp_path / "clips", 3)
    command_line = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM, "--shard-clips", "1")
    assert command(*command_line)[0] == 0
    next(Path("s.zarr/ledger/000").glob("0000001-*")).unlink()
    with stores.open("s.zarr").lock_task(1):
        status, out, err = command(*command_line)
    assert status == 1
    assert "0 complete, 0 failed, 1 absent" in out
    assert f":{os.getpid()} is building 1 task of this store" in err
    assert command(*command_line)[0] == 0


@pytest.mark.usefixtures("small")
def test_a_dry_run_says_what_would_build_and_builds_nothing(command: Command, tmp_path: Path) -> None:
    write_videos(tmp_path / "clips", 1)
    status, out, _ = command("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM, "--dry-run")
    assert status == 0
    assert "this process fit: cpu, av" in " ".join(out.split())
    assert not Path("s.zarr").exists()


def test_places_of_files_are_absolute_for_workers() -> None:
    given = {"encoder_weights": "e.pth", "depth": "files:maps", "flow_weights": "random:1"}
    settings = BuildConfig.resolve({"dataset": "videos", **given}).with_absolute_paths()
    assert settings.encoder_weights == str(Path.cwd() / "e.pth")
    assert settings.depth == f"files:{Path.cwd() / 'maps'}"
    assert (settings.depth_weights, settings.flow_weights) == (None, "random:1")


@pytest.mark.parametrize(("given", "device", "precision"), [("auto", "cuda", "bfloat16"), ("auto", "cpu", "float32")])
def test_the_device_and_the_precision_are_those_of_the_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, device: str, precision: str
) -> None:
    monkeypatch.setattr(
        build_command.devices, "choose", lambda name: pytest.fail("this machine's device was asked for")
    )
    defaults = {name: p.default for name, p in inspect.signature(build_command.build).parameters.items()}
    named = {"root": tmp_path, "dataset": "kinetics", "profile": "small", "device": given}
    address = tmp_path / "scheduler.json"
    address.write_text(json.dumps({"address": "tcp://head:8786"}))
    arguments = {**defaults, **named, "scheduler_file": address}
    assert build_command.resolve(arguments)[1].device == given
    settings, options = build_command.resolve(arguments, device)
    assert (options.device, options.scheduler, settings.precision) == (device, "tcp://head:8786", precision)


@pytest.mark.usefixtures("small")
def test_workers_without_a_task_are_named(command: Command, tmp_path: Path) -> None:
    write_videos(tmp_path / "clips", 6)
    command_line = ("--dataset", "videos", "--root", "clips", "--store", "s.zarr", *RANDOM, "--shard", "0/4")
    _, _, err = command(*command_line)
    note = "6 clips are 1 task: 3 of 4 workers have nothing to do; --shard-clips 1 gives each one"
    assert note in " ".join(err.split())
    shutil.rmtree("s.zarr")
    assert "nothing to do" not in command(*command_line, "--shard-clips", "1")[2]


GIVEN = {
    "dataset": "videos", "limit": 7, "seed": 3, "decoder": "decord", "max_gap": 2, "extra_cues": "normals",
    "profile": "base", "encoder": "e", "encoder_weights": "ew", "depth": "d", "depth_weights": "dw", "flow": "f",
    "flow_weights": "fw", "flow_updates": 9, "attention": "xformers", "precision": "bfloat16", "compile": True,
    "rgb_codec": "jpeg", "base_size": 64, "feature_size": 8, "shard_clips": 3,
}  # fmt: skip


@pytest.mark.parametrize("command", ["build", "plan"])
def test_every_option_of_a_build_reaches_its_config(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    """`plan` takes the same options: one word is swapped."""
    calls: list[tuple[BuildConfig, RunOptions]] = []

    def record(arguments: dict[str, object]) -> None:
        calls.append(resolve(arguments))
        raise typer.Exit

    resolve = build_command.resolve
    monkeypatch.setattr(build_command, "resolve", record)
    words = [word for name, value in GIVEN.items() if name != "compile" for word in (_option(name), str(value))]
    run = ["--root", str(tmp_path), "--store", "s", "--device", "cpu", "--only-failed", "--max-failures", "4"]
    run += ["--workers", "2", "--scheduler", "tcp://x", "--shard", "1/3", "--clips-per-pass", "5"]
    run += ["--set", "channels=9", "--set", "frames=4"]
    for given in (["--dataset", "demo", "--root", str(tmp_path)], [*words, "--compile", *run]):
        cli.app([command, *given], standalone_mode=False)
    (plain, by_default), (config, options) = calls
    assert plain == BuildConfig.resolve({"dataset": "demo"})
    assert by_default == RunOptions(tmp_path, Path("cues/demo.zarr"), "cpu")
    assert options == RunOptions(tmp_path, Path("s"), "cpu", True, 4, 2, "tcp://x", (1, 3), 5)
    expected = {**GIVEN, "extra_cues": ("normals",), "channels": 9, "frames": 4}
    assert {name: value for name, value in dict(config).items() if name in expected} == expected
    assert set(GIVEN) == BuildConfig.own_options


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@pytest.mark.parametrize(
    ("given", "device", "noted"),
    [
        ({"dataset": "demo"}, "cpu", False),
        ({"dataset": "demo"}, "cuda", False),
        ({"dataset": "kinetics"}, "cuda:1", False),
        ({"dataset": "kinetics"}, "cpu", True),
        ({"dataset": "kinetics", "depth": "tiny"}, "cpu", False),
    ],
)
def test_the_tiny_profile_is_noted_where_it_is_used_for_want_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], device: str, noted: bool
) -> None:
    monkeypatch.setattr(build_command.devices, "choose", lambda name: device)
    notes: list[str] = []
    monkeypatch.setattr(build_command.messages, "note", notes.append)
    defaults = {name: p.default for name, p in inspect.signature(build_command.build).parameters.items()}
    build_command.resolve({**defaults, "root": tmp_path, **given})
    assert [note.startswith("no GPU here: profile tiny") for note in notes] == [True] * noted
