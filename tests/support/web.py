"""A web server on loopback that serves bytes, and misbehaves where a path asks it to."""

import threading
from collections import Counter

from tests.support.loopback import Loopback, QuietHandler


class Web:
    """`files` by path. /redirect?TARGET redirects, /hang never answers, /cut ends half-way, /trickle sends byte by byte,
    /half?PATH stops half-way through a file until it is released."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()  # requests by path
        self.broken: set[str] = set()  # paths whose files end half-way
        self.asked = threading.Event()  # somebody has asked for something
        self.released = threading.Event()
        web = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                path, _, rest = self.path.partition("?")
                body = web.files.get(path)
                web.counts[path] += 1
                web.asked.set()
                if path == "/hang":
                    web.released.wait()
                elif path == "/redirect":
                    self.send_response(302)
                    self.send_header("Location", rest)
                    self.end_headers()
                elif path == "/cut":
                    self._head(200, 1000)
                    self.wfile.write(bytes(500))
                elif path == "/trickle":
                    self._head(200, 10**6)
                    while not web.released.wait(0.01):
                        self.wfile.write(b"\0")
                elif path == "/half":
                    body = web.files[rest]
                    self._head(200, len(body))
                    self.wfile.write(body[: len(body) // 2])
                    web.released.wait()
                    self.wfile.write(body[len(body) // 2 :])
                elif body is None:
                    self._head(404, 0)
                else:
                    self._head(200, None if rest == "chunked" else len(body))
                    self.wfile.write(body[: len(body) // 2] if path in web.broken else body)

            def _head(self, status: int, length: int | None) -> None:
                self.send_response(status)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()

        self._server = Loopback(Handler)
        self.url = self._server.url

    def put(self, path: str, body: bytes) -> str:
        """Serve a file; its address."""
        self.files[path] = body
        return self.url + path

    def __enter__(self) -> "Web":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.stop()
