"""Which workers of a build are left out, and why, by a table of what they answer and what becomes of them."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import stores
from lila_cues.pipeline import roster
from lila_cues.pipeline.build import TRIES, TaskQueue
from lila_cues.pipeline.roster import CHECK, INTRODUCE, Roster
from lila_cues.pipeline.setup import PACKAGE, NetworkFacts
from lila_cues.pipeline.task import TaskReport
from stores.errors import LilaError
from tests.lila_cues import small_networks
from tests.lila_cues.small_networks import CONFIG
from tests.stores import worlds


def worker(name: str | int, host: str = "10.0.0.1", status: str = "running") -> dict[str, Any]:
    return {"host": host, "name": name, "nthreads": 1, "nanny": "tcp://x", "status": status}


def three() -> tuple[Roster, list[str]]:
    """Three workers that have been checked, two on one host."""
    notes: list[str] = []
    found = Roster(notes.append)
    found.update({"a": worker("a"), "b": worker("b"), "c": worker("c", "10.0.0.2")})
    for member in found.members.values():
        found.answered(member, INTRODUCE, (f"host:{member.address}", version(PACKAGE)), None)
        member.answers[CHECK] = small_networks.facts()
    return found, notes


def facts(**records: str) -> NetworkFacts:
    """What a worker with other weights of a network answers."""
    own = small_networks.facts()
    changed = {kind: {**record, "sha256": records.get(kind, record["sha256"])} for kind, record in own.records.items()}
    provenance = {**own.provenance, "decoder": records.get("decoder", own.provenance["decoder"])}
    return NetworkFacts(own.patch_size, own.width, changed, (), provenance)


def test_most_workers_decide_on_the_networks_of_a_new_store() -> None:
    found, notes = three()
    members = [*found.members.values()]
    members[0].answers[CHECK] = facts(encoder="0" * 64, flow="1" * 64)
    assert found.agree(members, CONFIG).records == facts().records
    assert [member.fit for member in members] == [False, True, True]
    assert (
        "worker host:a is left out: expected the networks of the store, found other weights (encoder, flow)" in notes[0]
    )


@pytest.mark.parametrize(("answer", "reason"), [({"depth": "0" * 64}, "(depth)"), ({"decoder": "av 1"}, "found av 1")])
def test_an_existing_store_decides_against_all(tmp_path: Path, answer: dict[str, str], reason: str) -> None:
    found, _ = three()
    store = stores.create(
        tmp_path / "s.zarr",
        stores.StoreSpec(small_networks.GEOMETRY),
        ["a"],
        json.loads(json.dumps(CONFIG.fingerprint(facts().records))),
        facts().provenance,
    )
    found.expect(store)
    for member in found.members.values():
        found.answered(member, CHECK, facts(**answer), CONFIG)
    with pytest.raises(LilaError) as raised:
        found.require_some()
    assert reason in str(raised.value)
    assert "(worker host:a, which is left out; so are 2 others)" in str(raised.value)
    assert [worker for worker, _ in found.reasons()] == ["host:a", "host:b", "host:c"]


def test_workers_of_a_host_have_places_of_their_own() -> None:
    found, _ = three()
    assert [(member.place, found.sharing(member)) for member in found.members.values()] == [(0, 2), (1, 2), (0, 1)]
    found.update({"b": worker("b"), "c": worker("c", "10.0.0.2"), "d": worker("d")})
    assert {address: member.place for address, member in found.members.items()} == {"b": 1, "c": 0, "d": 0}


def test_a_worker_that_fails_time_and_again_is_left_out_and_others_go_on() -> None:
    found, notes = three()
    bad, good = found.members["a"], found.members["b"]
    for _ in range(TRIES - 1):
        found.failed(bad, "no memory", lost=False)
    found.succeeded(bad)
    for _ in range(TRIES):
        assert bad.fit
        found.failed(bad, "no memory", lost=False)
    assert (bad.fit, bad.idle, good.fit, notes) == (False, True, True, ["worker host:a is left out: no memory"])
    found.failed(good, "cuda:0 failed", lost=True)
    assert not good.fit, "at once"


@pytest.mark.parametrize("name", [0, "gpu-3"])
def test_processes_that_end_one_after_the_other_are_not_replaced_for_ever(name: str | int) -> None:
    notes: list[str] = []
    found = Roster(notes.append)
    for attempt in range(TRIES):
        found.update({f"tcp://h:{attempt}": worker(name)})
        found.members[f"tcp://h:{attempt}"].tasks["key"] = 7
        found.require_some()
    found.update({"tcp://h:99": worker(name)})
    with pytest.raises(LilaError, match=f"the {TRIES} processes before it ended without a result"):
        found.require_some()


def test_a_paused_worker_is_named_and_its_tasks_go_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found, notes = three()
    monkeypatch.setattr(roster, "PAUSED_SECONDS", 0)
    for status, idle in (("paused", True), ("paused", True), ("running", False)):
        found.update({"a": worker("a", status=status), "b": worker("b"), "c": worker("c", "10.0.0.2")})
        assert found.members["a"].idle == idle
    assert notes == ["worker host:a is paused by its memory limit; give it more memory or fewer threads"]


def test_a_task_that_fails_is_handed_out_last_then_alone_then_named(tmp_path: Path) -> None:
    queue = TaskQueue(worlds.create(tmp_path / "s.zarr", 8), [0, 1, 2])
    assert queue.next() == 0
    queue.failed(0, "its worker ended")
    assert [queue.next(), queue.next(), queue.next()] == [1, 2, 0]
    queue.failed(0, "its worker ended", "a")
    assert (queue.next(), queue.waiting(), queue.next_suspect("a"), queue.next_suspect("b")) == (None, True, None, 0)
    queue.done(1, TaskReport(1, 4))
    queue.require_done()
    queue.failed(0, "its worker ended")
    assert not queue.waiting()
    with pytest.raises(LilaError, match=r"found 1 that failed 3 times \(task 0: its worker ended\)"):
        queue.require_done()


def test_a_task_that_another_builder_has_is_handed_out_when_it_is_free_and_absent(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "s.zarr", 8)
    queue = TaskQueue(store, [0, 1])
    assert [queue.next(), queue.next()] == [0, 1]
    queue.done(0, None)
    queue.done(1, TaskReport(1, 2, left=2))
    with store.lock_task(0):
        assert [*queue.take_back_held()] == [0]
    for expected in ([1], [0, 1], [0, 1], [0], []):  # each three times, however often another builder takes it
        assert [task for _ in range(2) if (task := queue.next()) is not None] == expected
        for task in expected:
            queue.done(task, None)
        assert queue.take_back_held() == {}
