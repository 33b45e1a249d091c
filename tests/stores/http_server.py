"""A web server of a folder, to read stores from."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Faults:
    """What a server does wrong, by the path of a request, and how it was asked."""

    answer: Callable[[str], int | None] = lambda path: None  # an HTTP status to give instead of the file
    cut: Callable[[str], bool] = lambda path: False  # send half of the body
    ranges: bool = True
    seconds: float = 0.0  # before an answer
    paths: list[str] = field(default_factory=list)  # of all requests
    at_once: int = 0  # most requests at the same time
    open: int = 0


class RangeHandler(SimpleHTTPRequestHandler):
    """Answers `Range: bytes=a-b` and `bytes=-n`, which Python's own handler does not."""

    def __init__(self, *arguments: Any, faults: Faults, **options: Any) -> None:
        self.faults = faults
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        faults = self.faults
        faults.paths.append(self.path)
        faults.open += 1
        faults.at_once = max(faults.at_once, faults.open)
        time.sleep(faults.seconds)
        faults.open -= 1
        if (status := faults.answer(self.path)) is not None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif faults.ranges:
            self.send_range()
        else:
            super().do_GET()

    def send_range(self) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first = int(asked[1]) if asked[1] else max(0, len(data) - int(asked[2]))
        last = min(int(asked[2]), len(data) - 1) if asked[1] and asked[2] else len(data) - 1
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : (first + last) // 2 if self.faults.cut(self.path) else last + 1])

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def serve(folder: Path, faults: Faults | None = None) -> Iterator[str]:
    """Serve a folder on this machine; yield its URL."""
    handler = partial(RangeHandler, directory=str(folder), faults=faults or Faults())
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
