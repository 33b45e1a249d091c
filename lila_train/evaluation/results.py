"""The folder of one evaluation: what it is of, the parts that are done, the predictions, and at the end the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.atomic import atomic_path
from stores.errors import LilaError

Json = dict[str, Any]


def fingerprint(identity: Json) -> str:
    """Hex SHA-256 of everything that decides the figures: protocol, model, settings, data."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def files_sha256(paths: Iterable[Path], root: Path) -> str:
    """Hex SHA-256 of the names below `root` and the sizes of files, in their order; their contents are not read."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class ResultFolder:
    """Files below `root`; each is written whole or not at all."""

    root: Path

    @property
    def result(self) -> Path:
        """The figures, when all parts are done."""
        return self.root / "result.json"

    @property
    def identity(self) -> Path:
        """What this folder is an evaluation of."""
        return self.root / "identity.json"

    def part(self, head: str, part: str) -> Path:
        """The record of one head on one part of the data."""
        return self.root / "parts" / head / f"{part}.json"

    def claim(self, identity: Json) -> None:
        """Begin here, or go on with the same evaluation; a folder of anything else is refused."""
        if self.root.exists() and not self.root.is_dir():
            raise LilaError(f"expected a folder for --out, found a file at {self.root}; pass another --out")
        if self._holds_nothing():
            write_json(self.identity, identity)
        elif (there := read_json(self.identity)) is None:
            raise LilaError(
                f"expected an empty folder or an evaluation in {self.root}, found neither; pass another --out"
            )
        elif there != identity:
            raise LilaError(
                f"expected an evaluation of the same thing in {self.root}, found one that differs in "
                f"{', '.join(differences(there, identity))}; pass another --out, or delete that folder"
            )

    def _holds_nothing(self) -> bool:
        """Empty, or begun by a run that ended before it had computed anything."""
        return not self.root.is_dir() or {path.name for path in self.root.iterdir()} <= {self.identity.name}

    def finished(self) -> Json | None:
        """The result, if the evaluation is finished."""
        return read_json(self.result)


def differences(there: Json, wanted: Json, prefix: str = "") -> list[str]:
    """`name (there: …, now: …)` for each leaf that differs."""
    found = []
    for key in sorted({*there, *wanted}):
        old, new = there.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} (there: {_short(old)}, now: {_short(new)})")
    return found


def read_json(path: Path) -> Json | None:
    """A JSON object, or None where there is none; a file that cannot be read as one is a damaged one."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LilaError(f"{path} is damaged ({error}); delete it, what it holds is computed again") from error
    if not isinstance(content, dict):
        raise LilaError(f"{path} is damaged (no JSON object); delete it, what it holds is computed again")
    return content


def read_result(path: Path) -> Json:
    """The result in a folder of `lila-train eval`, or the file itself; LilaError where none is, or a part."""
    file = ResultFolder(path).result if path.is_dir() else path
    content = read_json(file)
    if content is None:
        raise LilaError(
            f"expected a result of lila-train eval at {path}, found none; pass the folder that was its --out"
        )
    if missing := [key for key in ("protocol", "scores", "counts", "settings") if key not in content]:
        raise LilaError(f"expected a result of lila-train eval in {file}, found one without {', '.join(missing)}")
    return content


def write_json(path: Path, content: Json) -> None:
    """Write atomically: a reader sees the whole file or none."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else text[:20] + "…"
