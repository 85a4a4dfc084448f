"""RunPod's queue on loopback, as the SDK's worker loop sees it: take, batch take, stop, done, stream."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from tests.support.loopback import Loopback, QuietHandler

Answers = dict[str, list[dict[str, Any]]]


class Queue:
    """Jobs given to whoever asks; by job id every answer, update and part of a stream that was posted."""

    def __init__(self) -> None:
        self._jobs: list[dict[str, Any]] = []
        self._to_stop: list[str] = []
        self._taken: dict[str, tuple[str, dict[str, Any]]] = {}  # job id: the worker that has it, and the job
        self._changed = threading.Condition()
        self.answers: Answers = {}
        self.updates: Answers = defaultdict(list)
        self.streams: Answers = defaultdict(list)
        self.late: list[str] = []  # jobs that an update or a part came for after their answer
        self.cancelled: set[str] = set()
        self._gone: set[str] = set()  # workers whose last polls get nothing
        queue = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                worker = path.rpartition("/")[2]
                if "/job-stop/" in path:
                    stopped = queue._take_stops(worker)
                    self._answer({"jobsToStop": stopped} if stopped else None)
                    return
                batch = "/job-take-batch/" in path
                count = int(query.partition("batch_size=")[2].partition("&")[0]) if batch else 1
                jobs = queue._take(worker, count)
                self._answer((jobs if batch else jobs[0]) if jobs else None)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                path = self.path.partition("?")[0]
                name = unquote(path.rpartition("/")[2])
                if "/job-stream/" in path:
                    queue._note(queue.streams, name, body)
                elif body.get("status") == "IN_PROGRESS":
                    queue._note(queue.updates, name, body["output"])
                else:
                    queue._done(name, body)
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

    def environment(self, worker: str = "worker") -> dict[str, str]:
        """What points a worker's SDK here."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self._url}/v2/test/job-take/{worker}?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self._url}/v2/test/job-done/{worker}/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self._url}/v2/test/job-stream/{worker}/$ID?gpu=none",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_POD_ID": worker,
        }

    def put(self, name: str, given: object, **fields: object) -> None:
        """Queue a job; `fields` stand beside its input."""
        with self._changed:
            self._jobs.append({"id": name, "input": given, **fields})
            self._changed.notify_all()

    def stop(self, name: str) -> None:
        """Cancel a job."""
        with self._changed:
            self.cancelled.add(name)
            self._jobs = [job for job in self._jobs if job["id"] != name]
            self._to_stop.append(name)
            self._changed.notify_all()

    def hang_up(self, worker: str) -> None:
        """A worker has ended: polls of it that are still open get nothing."""
        with self._changed:
            self._gone.add(worker)

    def gone(self, worker: str) -> list[str]:
        """What a worker that has ended has taken and not answered is given again."""
        with self._changed:
            again = [job for owner, job in self._taken.values() if owner == worker and job["id"] not in self.cancelled]
            self._jobs = again + self._jobs
            self._changed.notify_all()
            return [job["id"] for job in again]

    def answer(self, name: str, seconds: float = 180) -> dict[str, Any]:
        """The answer to a job, as soon as it has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.answers, seconds), f"no answer to {name}"
            return self.answers[name][-1]

    def update(self, name: str, wanted: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
        """The newest update on a job, as soon as it is as wanted."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.updates[name] and wanted(self.updates[name][-1]), 180), f"no update on {name}"
            return self.updates[name][-1]

    def wait_until_taken(self, name: str, seconds: float = 180) -> None:
        """Until a worker has a job."""
        with self._changed:
            assert self._changed.wait_for(lambda: name in self._taken, seconds), f"nobody took {name}"

    def _take(self, worker: str, count: int) -> list[dict[str, Any]]:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs, 0.5)
            if worker in self._gone:
                return []
            taken, self._jobs = self._jobs[:count], self._jobs[count:]
            self._taken |= {job["id"]: (worker, job) for job in taken}
            self._changed.notify_all()
            return taken

    def _take_stops(self, worker: str) -> list[str]:
        def mine() -> list[str]:
            return [name for name in self._to_stop if self._taken.get(name, ("",))[0] == worker]

        with self._changed:
            self._changed.wait_for(mine, 0.5)
            taken = mine()
            self._to_stop = [name for name in self._to_stop if name not in taken]
            return taken

    def _note(self, place: Answers, name: str, content: dict[str, Any]) -> None:
        with self._changed:
            place[name].append(content)
            self.late += [name] if name in self.answers else []
            self._changed.notify_all()

    def _done(self, name: str, answer: dict[str, Any]) -> None:
        with self._changed:
            self.answers.setdefault(name, []).append(answer)
            self._taken.pop(name, None)
            self._changed.notify_all()

    def __enter__(self) -> "Queue":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
