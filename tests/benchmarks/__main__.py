"""Run every benchmark of this folder, or those that are named, each in a process of its own.

python -m tests.benchmarks [NAME…] [--device cuda]

With another device than the CPU, those that have no use for one are left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def names(device: str = "cpu") -> list[str]:
    """Modules that have a `main`, and for another device an option for it."""
    modules = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__main__")
    texts = {path.stem: path.read_text() for path in modules}
    return [name for name, text in texts.items() if "\ndef main(" in text and (device == "cpu" or '"--device"' in text)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    chosen = options.names or names(options.device)
    on_device = [] if options.device == "cpu" else ["--device", options.device]
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        sys.exit(f"error: no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    failed = []
    for name in chosen:
        print(f"\n── {name} ──", flush=True)
        if subprocess.run([sys.executable, "-m", f"{__package__}.{name}", *on_device], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"error: {', '.join(failed)} did not end well; see above")


if __name__ == "__main__":
    main()
