"""Messages of a build: who else builds in the store, and the progress bar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lila_cues import console
from lila_cues.cli import messages
from lila_cues.cli.messages import active_workers, other_builders
from lila_cues.pipeline.build import Tally
from lila_cues.pipeline.task import TaskReport
from tests.stores import worlds

HOLD = """
import sys, stores
with stores.open(sys.argv[1]).lock_task(0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_builder_is_named_while_it_holds_a_task(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    command = [sys.executable, "-c", HOLD, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert [name.split(":")[-1] for name in active_workers(store)] == [str(other.pid)]
        (note,) = other_builders(store)
        assert f"{other.pid} is building 1 task of this store" in note
        other.communicate()
    assert not active_workers(store)
    assert list(other_builders(store)) == []


def test_the_bar_shows_failures_and_the_speed_of_the_networks() -> None:
    tally, bar = Tally(), console.progress("clips")
    progress = messages.ClipProgress(bar, 3, tally)
    progress.on_clip_done("a.mp4", None)
    assert bar.tasks[0].description == "building"
    tally.add(TaskReport(0, 1, flops=3e12, seconds={"encoder": 1.0, "depth": 0.5, "reading": 9.0}))
    progress.on_clip_done("b.mp4", "no frames")
    assert (bar.tasks[0].description, bar.tasks[0].completed) == ("building, 1 failed, 2 TFLOP/s", 2)
