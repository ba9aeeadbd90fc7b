"""A web server of a folder, over a real loopback socket."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder with byte ranges; paths can be made to fail with a status.

    `asked` and `sent` take the path of each request, and the bytes of each answer to one for a
    range.
    """

    failing: tuple[str, int] = ("", 0)
    ranges = True
    tagged = True
    asked: list[str]
    sent: list[int]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        segment, status = self.failing
        path = Path(self.translate_path(self.path))
        if segment and segment in self.path:
            self.send_error(status)
        elif self.ranges and path.is_file() and "Range" in self.headers:
            self._send_range(path)
        else:
            super().do_GET()

    def _send_range(self, path: Path) -> None:
        content = path.read_bytes()
        low, high = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()
        start = int(low) if low else max(0, len(content) - int(high))
        body = content[start : int(high) + 1] if low and high else content[start:]
        if not body:
            self.send_error(416)
            return
        self.sent.append(len(body))
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(content)}")
        if self.tagged:
            self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{len(content):x}"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Clients that hang up in the midst of an answer are none of its errors."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(folder: Path, **changes: Any) -> Iterator[str]:
    """Serve a folder with some attributes of the handler changed; yields the URL."""
    kind = type("Handler", (Handler,), {"asked": [], "sent": [], **changes})
    server = Server(("127.0.0.1", 0), partial(kind, directory=str(folder)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
