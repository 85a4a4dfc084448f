"""A model hub on loopback that serves one repository, as huggingface_hub's client asks for it."""

import hashlib
import json
from pathlib import Path

from tests.loopback import Loopback, QuietHandler

REVISION = "a" * 40


class Hub:
    """`asked` holds every path that was asked for."""

    def __init__(self, folder: Path) -> None:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub = self
        self.asked: list[str] = []

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                if "/resolve/" not in path:
                    self._answer(json.dumps(self._listing(path)).encode(), {"Content-Type": "application/json"})
                elif (data := files.get(path.rpartition("/")[2])) is not None:
                    self._answer(data, {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})
                else:
                    self._answer(b"", {"X-Error-Code": "EntryNotFound"}, 404)

            do_HEAD = do_GET

            def _listing(self, path: str) -> object:
                if "/tree/" in path:
                    return [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
                return {"id": "org/whisper", "sha": REVISION, "siblings": [{"rfilename": name} for name in files]}

            def _answer(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

        self._server = Loopback(Handler)
        self.url = self._server.url

    def __enter__(self) -> "Hub":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
