"""Run every benchmark of this folder, or those that are named, each in a process of its own.

python -m tests.benchmarks [NAME…]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Modules that have a `main`."""
    modules = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__main__")
    return [path.stem for path in modules if "\ndef main(" in path.read_text()]


def main() -> None:
    chosen = sys.argv[1:] or names()
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        sys.exit(f"error: no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    failed = []
    for name in chosen:
        print(f"\n── {name} ──", flush=True)
        if subprocess.run([sys.executable, "-m", f"{__package__}.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"error: {', '.join(failed)} did not end well; see above")


if __name__ == "__main__":
    main()
