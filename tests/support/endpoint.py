"""RunPod's REST interface to an endpoint on loopback, in front of a queue that a worker serves."""

import json
import threading
from typing import Any

from tests.support.loopback import Loopback, QuietHandler
from tests.support.sls_queue import Queue

KEY = "rpa-hunter2"


class Endpoint:
    """`run` puts a job into the queue, `status` reports on it."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.payloads: list[dict[str, Any]] = []  # the inputs of all jobs
        self.max_open_jobs = 0  # most jobs without an answer at any time
        self.failures_left = 0  # further requests to answer with 500
        self._lock = threading.Lock()
        self._server = Loopback(_handler_class(self))

    def add_job(self, payload: dict[str, Any]) -> str:
        """Queue a job and return its id."""
        with self._lock:
            job_id = f"job-{len(self.payloads)}"
            self.payloads.append(payload)
            self.queue.put(job_id, payload)
            self.max_open_jobs = max(self.max_open_jobs, len(self.payloads) - len(self.queue.answers))
            return job_id

    def has_job(self, job_id: str) -> bool:
        """Return whether a job was sent to this endpoint."""
        number = job_id.removeprefix("job-")
        return number.isdigit() and int(number) < len(self.payloads)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that point the SDK to this endpoint."""
        return {"RUNPOD_ENDPOINT_BASE_URL": f"{self._server.url}/v2", "RUNPOD_API_KEY": KEY}

    def __enter__(self) -> "Endpoint":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def _handler_class(endpoint: Endpoint) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if endpoint.failures_left:
                self._answer({})
                return
            self._answer({"id": endpoint.add_job(body["input"]), "status": "IN_QUEUE"})

        def do_GET(self) -> None:
            job_id = self.path.rpartition("/")[2]
            answers = endpoint.queue.answers.get(job_id)
            if answers is None:
                status = 200 if endpoint.has_job(job_id) else 404
                self._answer({"id": job_id, "status": "IN_PROGRESS"}, status)
                return
            answer = answers[-1]
            self._answer({"id": job_id, "status": "FAILED" if "error" in answer else "COMPLETED", **answer})

        def _answer(self, content: object, status: int = 200) -> None:
            if self.headers["Authorization"] != f"Bearer {KEY}":
                status = 401
            elif endpoint.failures_left:
                endpoint.failures_left -= 1
                status = 500
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
