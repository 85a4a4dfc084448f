"""A model hub on loopback that serves one repository, as huggingface_hub's client requests it."""

import hashlib
import json
from pathlib import Path

from tests.support.loopback import Loopback, QuietHandler

REVISION = "a" * 40


class Hub:
    """Serves the files of `folder`, and records each request; the first answer with `truncated_file` ends half-way."""

    def __init__(self, folder: Path, truncated_file: str = "") -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.truncated_file = truncated_file
        self.requested_paths: list[str] = []
        self.headers: list[dict[str, str]] = []  # of each request, their names in lower case
        self._server = Loopback(_handler_class(self))
        self.url = self._server.url

    def __enter__(self) -> "Hub":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def _handler_class(hub: Hub) -> type[QuietHandler]:
    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            hub.requested_paths.append(path)
            hub.headers.append({header.lower(): value for header, value in self.headers.items()})
            if "/resolve/" not in path:
                self._answer(json.dumps(self._listing(path)).encode(), {"Content-Type": "application/json"})
            elif name in hub.files:
                self._answer_file(name, hub.files[name])
            else:
                self._answer(b"", {"X-Error-Code": "EntryNotFound"}, 404)

        do_HEAD = do_GET

        def _listing(self, path: str) -> object:
            if "/tree/" in path:
                return [
                    {"type": "file", "path": name, "size": len(data), "oid": name} for name, data in hub.files.items()
                ]
            return {"id": "org/whisper", "sha": REVISION, "siblings": [{"rfilename": name} for name in hub.files]}

        def _answer_file(self, name: str, data: bytes) -> None:
            headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            is_truncated = self.command == "GET" and name == hub.truncated_file
            status = 206 if start else 200
            self._answer(data[start:], headers, status, is_truncated)
            if is_truncated:
                hub.truncated_file = ""
                self.close_connection = True

        def _answer(self, data: bytes, headers: dict[str, str], status: int = 200, is_truncated: bool = False) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[: len(data) // 2] if is_truncated else data)

    return Handler
