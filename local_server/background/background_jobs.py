"""Run requests after they have been answered, and keep what becomes of them. Knows no route and no audio."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from handler import logs
from handler.errors import AsrError, Cancelled, Internal, JobNotFound, Overloaded
from handler.output.json_encoding import encode_json, to_jsonable
from handler.schema.transcript import Progress
from handler.settings import Settings
from local_server.background.kept_results import KeptResults
from local_server.background.webhook import RETRY_DELAYS_S, send_webhook

QUEUED, RUNNING, COMPLETED, FAILED = "queued", "running", "completed", "failed"
FOLDER = "jobs"  # in RESUME_DIR
MAX_WEBHOOKS = 16  # that are sent at the same time
CLOSE_S = 10.0  # for the webhooks of jobs that are cut off
Answer = dict[str, Any]


@dataclass(slots=True, eq=False)
class BackgroundJob:
    """One request that runs on, or has ended lately."""

    id: str
    callback_url: str | None
    created_at: float = field(default_factory=time.time)  # seconds since 1970
    status: str = QUEUED
    progress: Progress | None = None
    webhook: str | None = None  # `pending`, `delivered` or `failed`

    def report(self, progress: Progress) -> None:
        """Record how far the work has got."""
        self.status, self.progress = RUNNING, progress

    def as_dict(self) -> dict[str, Any]:
        """Return what is told of the job while it has no result."""
        content: dict[str, Any] = {"id": self.id, "status": self.status, "created_at": round(self.created_at, 3)}
        if self.progress is not None:
            content |= {"done_s": round(self.progress.done_s, 3), "total_s": self.progress.total_s}
        return content


Work = Callable[[BackgroundJob], Coroutine[Any, Any, Answer]]


class BackgroundJobs:
    """All jobs of one server. Use it in one event loop."""

    def __init__(self, settings: Settings) -> None:
        folder = None if settings.resume_dir is None else settings.resume_dir / FOLDER
        self._kept = KeptResults(folder, settings.job_keep_s)
        self._keep_s = settings.job_keep_s
        self._max_jobs = settings.max_jobs
        self._secrets = settings.webhook_secrets
        self._jobs: dict[str, BackgroundJob] = {}  # that run, or whose result is kept
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of those that run, or whose webhook has not been called yet
        self._webhook_turns = asyncio.Semaphore(MAX_WEBHOOKS)
        self._kept.drop_old()

    @property
    def num_open(self) -> int:
        """How many jobs are queued or running."""
        return sum(job.status in (QUEUED, RUNNING) for job in self._jobs.values())

    def check_room(self) -> None:
        """Raise Overloaded if there are MAX_JOBS jobs already."""
        if self.num_open >= self._max_jobs:
            raise Overloaded(f"expected at most {self._max_jobs} jobs at once (MAX_JOBS)")

    async def start(self, work: Work, callback_url: str | None) -> BackgroundJob:
        """Start a job, whose answer is what `work` returns, and which has begun to run when this returns.

        Raises Overloaded if there are too many.
        """
        self.check_room()
        job = BackgroundJob(uuid.uuid4().hex, callback_url, webhook=None if callback_url is None else "pending")
        self._jobs[job.id] = job
        task = asyncio.create_task(self._run(job, work))
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would not free what `work` owns
        return job

    async def describe(self, job_id: str) -> bytes:
        """Return a job as JSON, with its result or its error once it has ended. Raises JobNotFound."""
        job = self._jobs.get(job_id)
        if job is not None and job.status in (QUEUED, RUNNING):
            return encode_json(to_jsonable(job.as_dict()))
        record = await asyncio.to_thread(self._kept.get, job_id)
        if record is None:
            raise self._not_found()
        webhook = b"" if job is None or job.webhook is None else b'"webhook": ' + encode_json(job.webhook) + b", "
        return b"{" + webhook + record[1:]

    async def remove(self, job_id: str) -> None:
        """End a job if it runs, and forget it and its result. Raises JobNotFound."""
        job, task = self._jobs.pop(job_id, None), self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        was_kept = await asyncio.to_thread(self._kept.remove, job_id)
        if job is None and not was_kept:
            raise self._not_found()

    async def close(self, drain_s: float) -> None:
        """Wait up to `drain_s` for all jobs and their webhooks. Jobs that are left fail, and their webhooks hear it."""
        tasks = set(self._tasks.values())
        if not tasks:
            return
        logs.info("jobs_drain", jobs=len(tasks))
        for limit_s in (drain_s, CLOSE_S):
            await asyncio.wait(tasks, timeout=limit_s)
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _not_found(self) -> JobNotFound:
        return JobNotFound(
            f"expected the id of a job that runs, or that ended at most {self._keep_s:g} s ago (JOB_KEEP_S)"
        )

    async def _run(self, job: BackgroundJob, work: Work) -> None:
        started, delays_s = time.perf_counter(), RETRY_DELAYS_S
        error: AsrError | None = None
        content: Answer = {}
        try:
            content = {"result": await work(job)}
        except asyncio.CancelledError:
            if job.id not in self._jobs:  # nobody is to hear of it
                raise
            error, delays_s = Cancelled("the server is shutting down"), ()
        except AsrError as exc:
            error = exc
        except Exception as exc:
            logs.error("job_crashed", exc, job=job.id)
            error = Internal(f"a fault of this server: {type(exc).__name__}")
        if error is not None:
            content = {"error": error.as_dict()}
        code = "ok" if error is None else error.code
        logs.info("job", id=job.id, code=code, seconds=round(time.perf_counter() - started, 4))
        record = await asyncio.to_thread(self._keep, job, COMPLETED if error is None else FAILED, content)
        asyncio.get_running_loop().call_later(self._keep_s, self._forget, job.id)
        if job.callback_url is not None:
            await self._call_webhook(job, job.callback_url, record, delays_s)

    def _forget(self, job_id: str) -> None:
        """Forget a job whose result has been kept long enough."""
        self._jobs.pop(job_id, None)
        asyncio.get_running_loop().run_in_executor(None, self._kept.remove, job_id)

    def _keep(self, job: BackgroundJob, status: str, content: Answer) -> bytes:
        """Keep the record of a job that has ended, and return it."""
        ended_at = time.time()
        times = {"ended_at": round(ended_at, 3), "kept_until": round(ended_at + self._keep_s, 3)}
        record = encode_json(to_jsonable({**job.as_dict(), "status": status, **times, **content}))
        self._kept.put(job.id, record)
        job.status = status
        return record

    async def _call_webhook(self, job: BackgroundJob, url: str, record: bytes, delays_s: Sequence[float]) -> None:
        """Send the record of a job that has ended."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        head = encode_json({"type": f"job.{job.status}", "timestamp": now})
        body = head[:-1] + b', "data": ' + record + b"}"
        try:
            attempts = await send_webhook(url, job.id, body, self._secrets, self._webhook_turns, delays_s)
        except AsrError as exc:
            job.webhook = "failed"
            logs.warning("webhook_failed", id=job.id, **exc.as_dict())
        else:
            job.webhook = "delivered"
            logs.info("webhook", id=job.id, attempts=attempts)
