"""A builder names the others that hold tasks of its store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lila_cues.cli.messages import active_workers, other_builders
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
