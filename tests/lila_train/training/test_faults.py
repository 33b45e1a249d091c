"""The fault table of a run's folder: damage of every file × resumed run → the same weights, found, or refused."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import stores
from lila_train.cli import app
from stores.errors import LilaError
from tests.lila_train.training import world
from tests.stores.worlds import TO_A_FILE

OPTIONS = ["--recipe", "demo", "--batch-size", "2", "--crop-size", "32", "--checkpoint-every", "1"]
OPTIONS += ["--set", "decoder_width=16", "--set", "channels=4"]
SECONDS = 120  # in which a resumed run has to end
TOLD = ("skipped", "left out", "damaged")


def run(store: stores.CueStore, out: Path, steps: int) -> str:
    """Start or resume a run; return what it printed."""
    arguments = ["run", "--store", str(store.path), "--out", str(out), "--steps", str(steps), *OPTIONS]
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def resumed(store: stores.CueStore, out: Path, expected: Path) -> str:
    def block(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, block)
    signal.alarm(SECONDS)
    try:
        output = run(store, out, 3)
    except TimeoutError:
        return "blocked"
    except LilaError:
        return "refused"
    except Exception:
        return "traceback"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    weights, wanted = load_file(out / "weights.safetensors"), load_file(expected / "weights.safetensors")
    if not all(weights[name].equal(wanted[name]) for name in wanted):
        return "silently wrong"
    return "found" if any(word in output for word in TOLD) else "as written"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", TO_A_FILE)
def test_every_damage_of_every_file_of_a_run(tmp_path: Path, what: str) -> None:
    store = world.build(tmp_path / "cues.zarr")
    run(store, tmp_path / "undisturbed", 3)
    run(store, tmp_path / "stopped", 2)
    files = sorted(path for path in (tmp_path / "stopped").rglob("*") if path.is_file() and path.stat().st_size)
    outcomes, bad = Counter[str](), []
    for path in files:
        key = path.relative_to(tmp_path / "stopped")
        out = shutil.copytree(tmp_path / "stopped", tmp_path / "run")
        TO_A_FILE[what](out / key)
        result = resumed(store, out, tmp_path / "undisturbed")
        outcomes[result] += 1
        if result not in ("found", "refused", "as written"):
            bad.append((str(key), what, result))
        shutil.rmtree(tmp_path / "run")
    print(what, dict(outcomes), {each: outcomes[each] for each in ("silently wrong", "traceback", "blocked")})
    assert not bad
