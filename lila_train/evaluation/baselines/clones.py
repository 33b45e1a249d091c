"""Other people's code: a clone on this machine, or one revision of a public repository; imported only when asked for.

The code of a clone runs with the user's rights. It is therefore never fetched or imported but for a baseline that the
user has named, and always at the revision in the catalog unless a clone is given.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lila_cues.networks import hub
from stores.errors import LilaError

REPOSITORY_OPTION = "--baseline-repo"
ARCHIVES = "https://github.com/{repository}/archive/{revision}.zip"


@dataclass(frozen=True)
class Code:
    """A repository at one revision, and a file by which a clone of it is known."""

    repository: str
    revision: str
    marker: str

    def root(self, clone: Path | None) -> Path:
        """The folder of the code: the clone given, the copy of an earlier run, or a fresh one."""
        if clone is not None:
            if not (clone / self.marker).is_file():
                raise LilaError(
                    f"expected a clone of {self.repository}, with {self.marker} in it, found none at {clone}; pass its "
                    f"folder with {REPOSITORY_OPTION}"
                )
            return clone.resolve()
        kept = hub.torch_cache().parent / "lila" / f"{self.repository.replace('/', '_')}_{self.revision[:12]}"
        if not (kept / self.marker).is_file():
            self._download(kept)
        return kept

    def _download(self, kept: Path) -> None:
        url = ARCHIVES.format(repository=self.repository, revision=self.revision)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            archive = Path(folder) / f"{kept.name}.zip"
            hub.download(url, archive, f"pass a clone of {self.repository} with {REPOSITORY_OPTION}")
            try:
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(Path(folder) / "code")
            except (OSError, zipfile.BadZipFile) as error:
                raise LilaError(
                    f"expected the code of {self.repository} as a zip file at {url}, but it cannot be unpacked "
                    f"({error}); pass a clone with {REPOSITORY_OPTION}"
                ) from error
            (top,) = (Path(folder) / "code").iterdir()
            os.replace(top, kept)


@contextmanager
def imported(root: Path, module: str) -> Iterator[ModuleType]:
    """A module of a clone; afterwards its modules are forgotten, so that those of the next may have the same names."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(root))
    try:
        yield importlib.import_module(module)
    except ImportError as error:
        raise LilaError(
            f"the code in {root} needs a package that is not installed or does not work here ({error}); install it, "
            f"see {root / 'README.md'}"
        ) from error
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(f"{root}{os.sep}"):
                del sys.modules[name]
