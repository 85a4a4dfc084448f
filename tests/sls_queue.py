"""RunPod's queue on loopback, as the SDK's worker loop sees it: take, batch take, stop, done."""

import json
import threading
from typing import Any
from urllib.parse import unquote

from tests.loopback import Loopback, QuietHandler


class Queue:
    """Jobs given to whoever asks; answers by job id, every one that was posted."""

    def __init__(self) -> None:
        self._jobs: list[dict[str, Any]] = []
        self._to_stop: list[str] = []
        self._changed = threading.Condition()
        self.answers: dict[str, list[dict[str, Any]]] = {}
        queue = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                if "/job-stop/" in path:
                    stopped = queue._take_stops()
                    self._answer({"jobsToStop": stopped} if stopped else None)
                    return
                batch = "/job-take-batch/" in path
                count = int(query.partition("batch_size=")[2].partition("&")[0]) if batch else 1
                jobs = queue._take(count)
                self._answer((jobs if batch else jobs[0]) if jobs else None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                queue._done(unquote(self.path.partition("?")[0].rpartition("/")[2]), json.loads(body))
                self._answer({})

            def _answer(self, content: object) -> None:
                body = b"" if content is None else json.dumps(content).encode()
                self.send_response(204 if content is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = Loopback(Handler)
        self._url = self._server.url

    def environment(self) -> dict[str, str]:
        """What points the SDK here."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self._url}/v2/test/job-take/worker?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self._url}/v2/test/job-done/worker/$ID?gpu=none",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_POD_ID": "worker",
        }

    def put(self, name: str, given: object) -> None:
        """Queue a job."""
        with self._changed:
            self._jobs.append({"id": name, "input": given})
            self._changed.notify_all()

    def stop(self, name: str) -> None:
        """Cancel a job."""
        with self._changed:
            self._to_stop.append(name)
            self._changed.notify_all()

    def answer(self, name: str) -> dict[str, Any]:
        """The answer to a job, as soon as it has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.answers, 60), f"no answer to {name}"
            return self.answers[name][-1]

    def _take(self, count: int) -> list[dict[str, Any]]:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs, 0.5)
            taken, self._jobs = self._jobs[:count], self._jobs[count:]
            return taken

    def _take_stops(self) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: self._to_stop, 0.5)
            taken, self._to_stop = self._to_stop, []
            return taken

    def _done(self, name: str, answer: dict[str, Any]) -> None:
        with self._changed:
            self.answers.setdefault(name, []).append(answer)
            self._changed.notify_all()

    def __enter__(self) -> "Queue":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
