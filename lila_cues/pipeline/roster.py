"""The workers of a build as the client knows them: which are fit, which are excluded and why.

A worker that is not fit or fails repeatedly is excluded and named; the others continue. Does not import the scheduler.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from lila_cues.config import BuildConfig
from lila_cues.pipeline.build import TRIES
from lila_cues.pipeline.setup import PACKAGE, NetworkFacts
from stores.errors import LilaError
from stores.store import CueStore

INTRODUCE, DEVICE, CHECK = "introduce", "device", "check"
PAUSED_SECONDS = 20  # after which the tasks of a paused worker are given to others


@dataclass
class Member:
    """A worker process."""

    address: str
    host: str
    identity: str  # host, and the name that a new process in its place also has
    threads: int
    place: int  # among the workers of its host
    nanny: bool
    label: str  # host:pid, when it has answered
    answers: dict[str, Any] = field(default_factory=dict)  # by question
    asked: str | None = None  # the question that it has not answered yet
    reason: str | None = None  # why it is left out
    tasks: dict[str, int] = field(default_factory=dict)  # in its hands, by the keys of their futures, in order
    alone: bool = False  # with a task that has failed more than once
    paused: float | None = None  # since when

    @property
    def fit(self) -> bool:
        return CHECK in self.answers and self.reason is None

    @property
    def idle(self) -> bool:
        """Whether its tasks should be given to others."""
        return self.reason is not None or (self.paused is not None and time.monotonic() - self.paused > PAUSED_SECONDS)


class Roster:
    """All members, by address; `notify` receives what the user should know."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify, self.members = notify, dict[str, Member]()
        self.labels: set[str] = set()  # of all members that there have been
        self._failures: Counter[str] = Counter()  # since the last success, by address and by identity
        self._expected: tuple[dict[str, Any], str | None] | None = None  # hashes of weights, and decoder

    def update(self, workers: Mapping[str, Mapping[str, Any]]) -> list[Member]:
        """Update the members from the scheduler's list of workers; return those that are gone."""
        gone = [self.members.pop(address) for address in [*self.members] if address not in workers]
        for member in gone:
            self._failures[member.identity] += bool(member.tasks or member.asked)
            if member.reason is None:
                self.notify(f"worker {member.label} has gone; its tasks are given to others")
        for address, worker in workers.items():
            if address not in self.members:
                self._join(address, worker)
            member, paused = self.members[address], worker["status"] == "paused"
            if paused and member.paused is None:
                note = "is paused by its memory limit; give it more memory or fewer threads"
                self.notify(f"worker {member.label} {note}")
            member.paused = (member.paused or time.monotonic()) if paused else None
        return gone

    def _join(self, address: str, worker: Mapping[str, Any]) -> None:
        host, name, threads, nanny = worker["host"], str(worker["name"]), worker["nthreads"], bool(worker["nanny"])
        named = name != address
        taken = {member.place for member in self.members.values() if member.host == host}
        place = next(place for place in range(len(taken) + 1) if place not in taken)
        identity, label = (f"{host} {name}", f"{name} at {address}") if named else (host, address)
        self.members[address] = member = Member(address, host, identity, threads, place, nanny, label)
        ended = self._failures[identity]
        if ended >= TRIES * (1 if named else self.sharing(member)):
            self.leave_out(member, f"the {ended} processes before it ended without a result")

    def sharing(self, member: Member) -> int:
        return sum(other.host == member.host for other in self.members.values())

    def answered(self, member: Member, question: str, answer: Any, config: BuildConfig | None) -> None:
        """Take an answer; leave the worker out if it has another version of this package."""
        member.answers[question] = answer
        if question == INTRODUCE:
            (member.label, found), own = answer, version(PACKAGE)
            self.labels.add(member.label)
            if found != own:
                found = f"{PACKAGE} {found}" if found else "none"
                self.leave_out(member, f"expected {PACKAGE} {own} as here, found {found}; install that version there")
        elif question == CHECK and config is not None:
            self._compare(member, config)

    def expect(self, store: CueStore) -> None:
        """Expect the networks and the decoder that a store records."""
        self._expected = store.fingerprint.get("weights", {}), store.provenance.get("decoder")

    def agree(self, fit: list[Member], config: BuildConfig) -> NetworkFacts:
        """Return the facts of the store's networks, else of those of most workers; exclude workers with others."""
        if self._expected is None:
            kinds = Counter(json.dumps(_kind(member, config), sort_keys=True) for member in fit)
            self._expected = json.loads(kinds.most_common(1)[0][0])
            for member in fit:
                self._compare(member, config)
        facts: NetworkFacts = next(member for member in fit if member.fit).answers[CHECK]
        return facts

    def _compare(self, member: Member, config: BuildConfig) -> None:
        if self._expected is None:
            return
        (weights, decoder), (found, its_decoder) = self._expected, _kind(member, config)
        reason = None
        if others := ", ".join(kind for kind, expected in weights.items() if found.get(kind) != expected):
            reason = f"expected the networks of the store, found other weights ({others}); give it the same files"
        elif decoder is not None and its_decoder != decoder:
            reason = f"expected {decoder}, the decoder of the store, found {its_decoder}; install that version there"
        if reason is not None:
            self.leave_out(member, reason)

    def leave_out(self, member: Member, reason: str) -> None:
        if member.reason is None:
            member.reason = reason
            self.notify(f"worker {member.label} is left out: {reason}")

    def succeeded(self, member: Member) -> None:
        self._failures[member.address] = self._failures[member.identity] = 0

    def failed(self, member: Member, reason: str, lost: bool) -> None:
        """Count a failure; leave the worker out after `TRIES` without a success, or if its device is lost."""
        self._failures[member.address] += 1
        self._failures[member.identity] += lost
        if lost or self._failures[member.address] >= TRIES:
            self.leave_out(member, reason)

    def require_some(self) -> None:
        """Raise LilaError, with the first reason, if all workers are left out."""
        out = [member for member in self.members.values() if member.reason is not None]
        if out and len(out) == len(self.members):
            others = f"; so are {len(out) - 1} others" * (len(out) > 1)
            raise LilaError(f"{out[0].reason} (worker {out[0].label}, which is left out{others})")

    def reasons(self) -> list[tuple[str, str | None]]:
        """Return host:pid of each worker, and why it is left out; None if it is fit."""
        unanswered = "expected an answer, found none yet; see its log"
        members = sorted(self.members.values(), key=lambda member: member.label)
        return [(member.label, None if member.fit else member.reason or unanswered) for member in members]


def _kind(member: Member, config: BuildConfig) -> tuple[dict[str, Any], str | None]:
    facts: NetworkFacts = member.answers[CHECK]
    return config.fingerprint(facts.records)["weights"], facts.provenance["decoder"]
