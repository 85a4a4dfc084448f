"""RunPod's queue on loopback, as the SDK's worker loop sees it: take, batch take, stop, done, stream."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from tests.support.loopback import Loopback, QuietHandler

WAIT_S = 180.0  # longest wait for a worker
POLL_S = 0.5  # how long a poll without a job stays open
Answers = dict[str, list[dict[str, Any]]]


class Queue:
    """Gives jobs to workers, and records by job id every answer, update and part of a stream that they post."""

    def __init__(self) -> None:
        self._jobs: list[dict[str, Any]] = []
        self._stop_requests: list[str] = []
        self._assignments: dict[str, tuple[str, dict[str, Any]]] = {}  # by job id: the worker, and the job
        self._disconnected: set[str] = set()  # workers whose open polls get nothing
        self._changed = threading.Condition()
        self.answers: Answers = {}
        self.updates: Answers = defaultdict(list)
        self.streams: Answers = defaultdict(list)
        self.posts_after_answer: list[str] = []  # ids of jobs with an update or a part after their answer
        self.cancelled: set[str] = set()
        self._server = Loopback(_handler_class(self))
        self._url = self._server.url

    def environment(self, worker: str = "worker") -> dict[str, str]:
        """Return the environment variables that point a worker's SDK to this queue."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self._url}/v2/test/job-take/{worker}?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self._url}/v2/test/job-done/{worker}/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self._url}/v2/test/job-stream/{worker}/$ID?gpu=none",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "RUNPOD_POD_ID": worker,
        }

    def put(self, job_id: str, payload: object, **fields: object) -> None:
        """Queue a job; `fields` are added next to its input."""
        with self._changed:
            self._jobs.append({"id": job_id, "input": payload, **fields})
            self._changed.notify_all()

    def stop(self, job_id: str) -> None:
        """Cancel a job."""
        with self._changed:
            self.cancelled.add(job_id)
            self._jobs = [job for job in self._jobs if job["id"] != job_id]
            self._stop_requests.append(job_id)
            self._changed.notify_all()

    def clear(self) -> None:
        """Remove the jobs that no worker has taken."""
        with self._changed:
            self._jobs.clear()

    def disconnect(self, worker: str) -> None:
        """Give nothing to the open polls of a worker that has ended."""
        with self._changed:
            self._disconnected.add(worker)

    def requeue(self, worker: str) -> list[str]:
        """Queue the jobs again that a worker took and did not answer, and return their ids."""
        with self._changed:
            jobs = [job for owner, job in self._assignments.values() if owner == worker]
            jobs = [job for job in jobs if job["id"] not in self.cancelled]
            self._jobs = jobs + self._jobs
            self._changed.notify_all()
            return [job["id"] for job in jobs]

    def wait_for(self, condition: Callable[[], object], timeout_s: float = WAIT_S, message: str = "") -> None:
        """Wait until a condition on the queue is true; fail after `timeout_s`."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), message

    def answer(self, job_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """Wait for the answer to a job and return it."""
        self.wait_for(lambda: job_id in self.answers, timeout_s, f"no answer to {job_id}")
        return self.answers[job_id][-1]

    def update(self, job_id: str, is_wanted: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
        """Wait until the latest update on a job is wanted, and return it."""
        with self._changed:
            updates = self.updates[job_id]
            self.wait_for(lambda: updates and is_wanted(updates[-1]), message=f"no update on {job_id}")
            return updates[-1]

    def wait_until_taken(self, job_id: str, timeout_s: float = WAIT_S) -> None:
        """Wait until a worker has taken a job."""
        self.wait_for(lambda: job_id in self._assignments, timeout_s, f"nobody took {job_id}")

    def take(self, worker: str, max_count: int) -> list[dict[str, Any]]:
        """Return jobs for a worker, which may have to wait for them."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs, POLL_S)
            if worker in self._disconnected:
                return []
            jobs, self._jobs = self._jobs[:max_count], self._jobs[max_count:]
            self._assignments |= {job["id"]: (worker, job) for job in jobs}
            self._changed.notify_all()
            return jobs

    def take_stop_requests(self, worker: str) -> list[str]:
        """Return the ids of a worker's jobs that are cancelled."""

        def pending_ids() -> list[str]:
            return [job_id for job_id in self._stop_requests if self._assignments.get(job_id, ("",))[0] == worker]

        with self._changed:
            self._changed.wait_for(pending_ids, POLL_S)
            job_ids = pending_ids()
            self._stop_requests = [job_id for job_id in self._stop_requests if job_id not in job_ids]
            return job_ids

    def record(self, posts: Answers, job_id: str, content: dict[str, Any]) -> None:
        """Record an update or a part of a stream in `posts`."""
        with self._changed:
            posts[job_id].append(content)
            if job_id in self.answers:
                self.posts_after_answer.append(job_id)
            self._changed.notify_all()

    def finish(self, job_id: str, answer: dict[str, Any]) -> None:
        """Record the answer to a job."""
        with self._changed:
            self.answers.setdefault(job_id, []).append(answer)
            self._assignments.pop(job_id, None)
            self._changed.notify_all()

    def __enter__(self) -> "Queue":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def _handler_class(queue: Queue) -> type[QuietHandler]:
    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            worker = path.rpartition("/")[2]
            if "/job-stop/" in path:
                job_ids = queue.take_stop_requests(worker)
                self._answer({"jobsToStop": job_ids} if job_ids else None)
                return
            is_batch = "/job-take-batch/" in path
            max_count = int(query.partition("batch_size=")[2].partition("&")[0]) if is_batch else 1
            jobs = queue.take(worker, max_count)
            self._answer((jobs if is_batch else jobs[0]) if jobs else None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = self.path.partition("?")[0]
            job_id = unquote(path.rpartition("/")[2])
            if "/job-stream/" in path:
                queue.record(queue.streams, job_id, body)
            elif body.get("status") == "IN_PROGRESS":
                queue.record(queue.updates, job_id, body["output"])
            else:
                queue.finish(job_id, body)
            self._answer({})

        def _answer(self, content: object) -> None:
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(204 if content is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
