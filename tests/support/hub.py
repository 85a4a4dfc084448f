"""A model hub on loopback that serves one repository, as huggingface_hub's client asks for it."""

import hashlib
import json
from pathlib import Path

from tests.support.loopback import Loopback, QuietHandler

REVISION = "a" * 40


class Hub:
    """`asked` holds every path that was asked for, `headers` what came with it; the first answer with `broken` breaks off in the middle."""

    def __init__(self, folder: Path, broken: str = "") -> None:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub = self
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        breaking = {broken}

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                hub.asked.append(path)
                hub.headers.append({name.lower(): value for name, value in self.headers.items()})
                if "/resolve/" not in path:
                    self._answer(json.dumps(self._listing(path)).encode(), {"Content-Type": "application/json"})
                elif (data := files.get(path.rpartition("/")[2])) is not None:
                    about = {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
                    begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                    if begin:
                        about["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
                    whole = self.command == "HEAD" or path.rpartition("/")[2] not in breaking
                    self._answer(data[begin:], about, 206 if begin else 200, whole)
                    if not whole:
                        breaking.clear()
                        self.close_connection = True
                else:
                    self._answer(b"", {"X-Error-Code": "EntryNotFound"}, 404)

            do_HEAD = do_GET

            def _listing(self, path: str) -> object:
                if "/tree/" in path:
                    return [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
                return {"id": "org/whisper", "sha": REVISION, "siblings": [{"rfilename": name} for name in files]}

            def _answer(self, data: bytes, headers: dict[str, str], status: int = 200, whole: bool = True) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data if whole else data[: len(data) // 2])

        self._server = Loopback(Handler)
        self.url = self._server.url

    def __enter__(self) -> "Hub":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
