"""The work of `lila-cues verify` and `repair`: many tasks looked at side by side, and what is said of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import stores
from stores import console, verify
from stores import repair as mending
from stores.console import out
from stores.errors import StoreError
from stores.store import CueStore
from stores.verify import Finding, Thoroughness

_SHOWN = 20
NOTE = "note"


def look(store: CueStore, tasks: Sequence[int], quick: bool, jobs: int | None) -> list[Finding]:
    """Findings of the documents and of some tasks, with a bar."""
    if store.ledger.names() is None:
        raise StoreError(f"{store.path} cannot be listed, so its ledger cannot be checked; verify a copy in a folder")
    look_at = Thoroughness.INDICES if quick else Thoroughness.VALUES
    findings = list(verify.check_documents(store))
    with console.progress("tasks") as bar, ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        line = bar.add_task("verifying", total=len(tasks))
        for found in pool.map(lambda task: list(verify.check_task(store, task, look_at)), tasks):
            findings += found
            bar.advance(line)
    return findings


def recompute(store: CueStore, count: int, seed: int, root: Path | None, device: str | None) -> list[Finding]:
    """Findings of a sample of clips that are computed again."""
    from lila_cues.pipeline.recompute import Recomputer

    again, findings = Recomputer(store, root, device), list[Finding]()
    with console.progress("clips") as bar:
        for clip in bar.track(verify.sample(store, count, seed), description="computing again"):
            findings += verify.check_recomputed(store, clip, again)
    return findings


def tell(store: CueStore, findings: Sequence[Finding], report: Path | None) -> None:
    """Say what was found, and write all of it to `report`."""
    if report is not None:
        document = {"store": store.path, "findings": [finding.to_dict() for finding in findings]}
        report.write_text(json.dumps(document, indent=1))
    for finding in findings[:_SHOWN]:
        out.print(str(finding), markup=False)
    if len(findings) > _SHOWN:
        out.print(f"… and {len(findings) - _SHOWN} more (--report FILE keeps them all)")
    complete = len(store.complete_clips())
    if exit_status(findings):
        clips = len({clip for finding in findings for clip in finding.clips})
        out.print(f"{store.path} is damaged: {clips} of {complete} complete clips have to be built again; ", end="")
        out.print("run `lila-cues repair` on it, then build")
    else:
        out.print(f"{store.path} is whole: {complete} of {store.n_clips} clips complete and checked")


def exit_status(findings: Iterable[Finding]) -> int:
    """1 if anything but notes was found."""
    return int(any(finding.kind != NOTE for finding in findings))


def repair(path: Path, report: Path | None, jobs: int | None) -> None:
    """Restore what can be restored, mark the rest to be built again, and say both."""
    if mending.restore_header(path):
        out.print("restored zarr.json from its copy")
    store = stores.open(path)
    findings = look(store, range(store.n_tasks), False, jobs) if report is None else read_report(report)
    for key in mending.repair_documents(store):
        out.print(f"wrote {key} anew")
    suspects = frozenset(clip for finding in findings for clip in finding.clips if finding.kind == "value")
    damaged = _damaged_tasks(store, findings)
    marked = [clip for task in damaged for clip in mending.repair_task(store, task, suspects)]
    swept = mending.sweep(store)
    store.publish_statuses()
    if swept:
        out.print(f"removed what dead builders left of {swept} task{'s' * (swept != 1)}")
    again = (
        f"{len(marked)} clips are to be built again: run the same `lila-cues build`" if marked else "no clip is lost"
    )
    out.print(f"{store.path} is repaired; {again}")


def read_report(path: Path) -> list[Finding]:
    """What `verify --report` wrote."""
    try:
        entries = json.loads(path.read_text())["findings"]
        return [Finding(**{**entry, "clips": tuple(entry["clips"])}) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is no report of `lila-cues verify --report`; name one, or leave --report out"
        ) from error


def _damaged_tasks(store: CueStore, findings: Iterable[Finding]) -> list[int]:
    """Tasks with damaged clips, or with a ledger record that cannot be believed."""
    tasks = {clip // store.spec.shard_clips for finding in findings for clip in finding.clips}
    return sorted(tasks | {finding.task for finding in findings if finding.task is not None})
