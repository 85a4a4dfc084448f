"""A web server on loopback that serves bytes, and misbehaves on the paths that ask for it."""

import threading
from collections import Counter
from typing import Any

from tests.support.loopback import QuietHandler, Site


class Web(Site):
    """Serves `files` by path, and on its own paths misbehaves until `released` is set.

    /redirect?TARGET redirects, /hang does not answer, /cut ends half-way, /trickle sends byte by byte, and /partly?PATH
    stops after three fifths of the file at PATH.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()  # requests by path
        self.truncated_paths: set[str] = set()  # paths whose files end half-way
        self.request_received = threading.Event()
        super().__init__(_Handler)

    def put(self, path: str, body: bytes) -> str:
        """Serve a file and return its URL."""
        self.files[path] = body
        return self.url + path


class _Handler(QuietHandler):
    def __init__(self, web: Web, *args: Any) -> None:
        self._web = web
        super().__init__(*args)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self._web.counts[path] += 1
        self._web.request_received.set()
        if path == "/hang":
            self._web.released.wait()
        elif path == "/redirect":
            self.send_response(302)
            self.send_header("Location", query)
            self.end_headers()
        elif path == "/cut":
            self._send_head(200, 1000)
            self.wfile.write(bytes(500))
        elif path == "/trickle":
            self._trickle()
        elif path == "/partly":
            self._send_in_two_parts(self._web.files[query])
        elif path in self._web.files:
            self._send_file(path, query)
        else:
            self._send_head(404, 0)

    def _trickle(self) -> None:
        self._send_head(200, 10**6)
        while not self._web.released.wait(0.01):
            self.wfile.write(b"\0")

    def _send_in_two_parts(self, body: bytes) -> None:
        self._send_head(200, len(body))
        self.wfile.write(body[: len(body) * 3 // 5])
        self._web.released.wait()
        self.wfile.write(body[len(body) * 3 // 5 :])

    def _send_file(self, path: str, query: str) -> None:
        body = self._web.files[path]
        length = None if query == "chunked" else len(body)
        self._send_head(200, length)
        size = len(body) // 2 if path in self._web.truncated_paths else len(body)
        self.wfile.write(body[:size])

    def _send_head(self, status: int, length: int | None) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
