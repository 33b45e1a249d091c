"""The folder of one evaluation: its identity, a record per finished part, the predictions, and the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lila_train.outputs import Json, read_json
from stores.errors import LilaError


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

    def own(self) -> list[Path]:
        """Return all that an evaluation writes, but for its identity."""
        return [self.result, *(self.root / name for name in ("parts", "predictions", "probes", "examples"))]


def fingerprint(identity: Json) -> str:
    """Return the hex SHA-256 of everything that determines the scores: protocol, model, settings, data."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def files_sha256(paths: Iterable[Path], root: Path) -> str:
    """Return the hex SHA-256 of the files' names below `root` and their sizes, in order; contents are not read."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


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
    tables = (content["counts"], content["settings"], content["scores"])
    rows = content["scores"].values() if isinstance(content["scores"], dict) else ()
    values = [value for row in rows if isinstance(row, dict) for value in row.values()]
    if not isinstance(content["protocol"], str) or not all(isinstance(table, dict) for table in (*tables, *rows)):
        raise LilaError(f"expected a result of lila-train eval in {file}, found other JSON; score the model again")
    if not all(isinstance(value, int | float | None) for value in values):
        raise LilaError(f"expected numbers as scores in {file}, found others; score the model again")
    return content
