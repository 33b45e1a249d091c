"""The folder of one evaluation: its identity, a record per finished part, the predictions, and the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.atomic import atomic_write
from stores.errors import LilaError

Json = dict[str, Any]


@dataclass(frozen=True)
class ResultFolder:
    """Files of one evaluation below `root`, each written atomically."""

    root: Path

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    def part(self, head: str, part: str) -> Path:
        """Return the place of the record of one head on one part of the data."""
        return self.root / "parts" / head / f"{part}.json"

    def claim(self, identity: Json) -> None:
        """Start an evaluation here or resume the same one; LilaError names what differs in a folder of another."""
        if self.root.exists() and not self.root.is_dir():
            raise LilaError(f"expected a folder for --out, found a file at {self.root}; pass another --out")
        if not self.root.is_dir() or {path.name for path in self.root.iterdir()} <= {self.identity.name}:
            write_json(self.identity, identity)  # empty, or started by a run that ended before its first record
            return
        if (existing := read_json(self.identity)) is None:
            raise LilaError(
                f"expected an empty folder or an evaluation in {self.root}, found neither; pass another --out"
            )
        if existing != identity:
            raise LilaError(
                f"expected an evaluation of the same thing in {self.root}, found one that differs in "
                f"{', '.join(differences(existing, identity))}; pass another --out, or delete that folder"
            )


def fingerprint(identity: Json) -> str:
    """Return the hex SHA-256 of everything that determines the scores: protocol, model, settings, data."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def files_sha256(paths: Iterable[Path], root: Path) -> str:
    """Return the hex SHA-256 of the files' names below `root` and their sizes, in order; contents are not read."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def differences(existing: Json, wanted: Json, prefix: str = "") -> list[str]:
    """Return `name (there: …, now: …)` for each leaf that differs."""

    def short(value: object) -> str:
        text = "nothing" if value is None else str(value)
        return text if len(text) <= 24 else text[:20] + "…"

    lines = []
    for key in sorted({*existing, *wanted}):
        old, new = existing.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key} (there: {short(old)}, now: {short(new)})")
    return lines


def read_result(path: Path) -> Json:
    """Read the result in an output folder of `lila-train eval`, or the result file itself; LilaError if incomplete."""
    file = ResultFolder(path).result if path.is_dir() else path
    content = read_json(file)
    if content is None:
        raise LilaError(
            f"expected a result of lila-train eval at {path}, found none; pass the folder that was its --out"
        )
    if missing := [key for key in ("protocol", "scores", "counts", "settings") if key not in content]:
        raise LilaError(f"expected a result of lila-train eval in {file}, found one without {', '.join(missing)}")
    return content


def read_json(path: Path) -> Json | None:
    """Read a JSON object; None where there is no file, LilaError where it is damaged."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LilaError(f"{path} is damaged ({error}); delete it, its content is computed again") from error
    if not isinstance(content, dict):
        raise LilaError(f"{path} is damaged (no JSON object); delete it, its content is computed again")
    return content


def write_json(path: Path, content: Json) -> Json:
    """Write atomically, and return the content as it is read back: new and resumed runs continue with equal values."""
    atomic_write(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)
    return as_json(content)


def as_json(content: Json) -> Json:
    """Return the content as JSON gives it back: lists for tuples, strings as keys."""
    stored: Json = json.loads(json.dumps(content))
    return stored
