"""Run requests after they have been answered, and keep what becomes of them. Knows no route and no audio."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from handler import logs
from handler.errors import AsrError, Cancelled, Internal, JobNotFound, Overloaded
from handler.output.json_encoding import encode_json, to_jsonable
from handler.schema.transcript import Progress
from handler.settings import Settings
from local_server.background.kept_results import KeptResults
from local_server.background.webhook import WebhookSender

QUEUED, RUNNING, COMPLETED, FAILED = "queued", "running", "completed", "failed"
PENDING, DELIVERED, NOT_DELIVERED = "pending", "delivered", "failed"  # what becomes of a job's message
FOLDER = "jobs"  # in RESUME_DIR
CLOSE_S = 10.0  # for the last messages of a server that stops
Answer = dict[str, Any]


@dataclass(slots=True, eq=False)
class BackgroundJob:
    """One request that runs on, or has ended lately."""

    id: str
    callback_url: str | None
    created_at: float = field(default_factory=time.time)  # seconds since 1970
    status: str = QUEUED
    webhook: str | None = None  # PENDING, DELIVERED or NOT_DELIVERED; None without callback_url
    done_s: float | None = None  # seconds of audio that are done
    total_s: float | None = None  # of how many, if known
    is_removed: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the job waits or runs, or its message has not been taken yet."""
        return self.status in (QUEUED, RUNNING) or self.webhook == PENDING

    def begin(self) -> None:
        """Record that the work has begun."""
        self.status = RUNNING

    def report(self, progress: Progress) -> None:
        """Record how far the work has got."""
        self.done_s, self.total_s = progress.done_s, progress.total_s

    def as_dict(self) -> dict[str, Any]:
        """Return what is told of the job while it has no result."""
        content: dict[str, Any] = {"id": self.id, "status": self.status, "created_at": round(self.created_at, 3)}
        if self.done_s is not None:
            total_s = None if self.total_s is None else round(self.total_s, 3)
            content |= {"done_s": round(self.done_s, 3), "total_s": total_s}
        return content if self.webhook is None else content | {"webhook": self.webhook}


Work = Callable[[BackgroundJob], Coroutine[Any, Any, Answer]]


class BackgroundJobs:
    """All jobs of one server. Use it in one event loop; only `num_open` may be read in any thread."""

    def __init__(self, settings: Settings) -> None:
        folder = None if settings.resume_dir is None else settings.resume_dir / FOLDER
        self._kept = KeptResults(folder, settings.job_keep_s)
        self._keep_s = settings.job_keep_s
        self._max_jobs = settings.max_jobs
        self._jobs: dict[str, BackgroundJob] = {}  # that run, or whose result is kept
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of those that run, or whose message has not been taken yet
        self._sender = WebhookSender(settings.webhook_secrets)
        self._kept.drop_old()

    @property
    def num_open(self) -> int:
        """How many jobs wait or run, or wait for their webhook."""
        return sum(job.is_open for job in tuple(self._jobs.values()))

    def check_room(self) -> None:
        """Raise Overloaded if there are MAX_JOBS jobs already."""
        if self.num_open >= self._max_jobs:
            raise Overloaded(f"expected at most {self._max_jobs} jobs at once (MAX_JOBS)")

    async def start(self, work: Work, callback_url: str | None) -> BackgroundJob:
        """Start a job, whose answer is what `work` returns, and which has begun to run when this returns.

        Raises Overloaded if there are too many.
        """
        self.check_room()
        job = BackgroundJob(uuid.uuid4().hex, callback_url, webhook=None if callback_url is None else PENDING)
        self._jobs[job.id] = job
        task = asyncio.create_task(self._run(job, work))
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        try:
            await asyncio.sleep(0)  # a task that is cancelled before it has begun would not free what `work` owns
        except asyncio.CancelledError:
            self._jobs.pop(job.id)
            job.is_removed = True
            task.cancel()
            raise
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
        if job is not None:
            job.is_removed = True
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        was_kept = await asyncio.to_thread(self._kept.remove, job_id)
        if job is None and task is None and not was_kept:
            raise self._not_found()

    async def close(self, drain_s: float) -> None:
        """Wait up to `drain_s` for all jobs. Those that are left fail. Each message that waits gets a last attempt."""
        self._sender.close()
        tasks = set(self._tasks.values())
        if not tasks:
            return
        logs.info("jobs_drain", jobs=len(tasks))
        await asyncio.wait(tasks, timeout=drain_s)
        for job_id, job in self._jobs.items():
            if job.status in (QUEUED, RUNNING) and job_id in self._tasks:
                self._tasks[job_id].cancel()
        await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _not_found(self) -> JobNotFound:
        limit = f"at most {self._keep_s:g} s ago (JOB_KEEP_S)"
        return JobNotFound(f"expected the id of a job that runs, or that ended {limit} and whose result is still kept")

    async def _run(self, job: BackgroundJob, work: Work) -> None:
        started = time.perf_counter()
        error: AsrError | None = None
        content: Answer = {}
        try:
            content = {"result": await work(job)}
        except asyncio.CancelledError:
            if job.is_removed:  # nobody is to hear of it
                raise
            error = Cancelled("the server is shutting down")
        except AsrError as exc:
            error = exc
        except Exception as exc:
            logs.error("job_crashed", exc, job=job.id)
            error = Internal(f"a fault of this server: {type(exc).__name__}")
        if error is not None:
            content = {"error": error.as_dict()}
        code = "ok" if error is None else error.code
        logs.info("job", id=job.id, code=code, seconds=round(time.perf_counter() - started, 4))
        await self._keep(job, COMPLETED if error is None else FAILED, content)
        if job.callback_url is not None and not job.is_removed:
            await self._tell(job, job.callback_url)

    async def _keep(self, job: BackgroundJob, status: str, content: Answer) -> None:
        """Keep the record of a job that has ended, even if the caller is cancelled meanwhile."""
        keeping = asyncio.ensure_future(asyncio.to_thread(self._write_record, job, status, content))
        try:
            await asyncio.shield(keeping)
        except asyncio.CancelledError:
            await keeping
        except Exception as exc:  # such as too little memory
            logs.error("job_not_kept", exc, job=job.id)
        job.status = status
        asyncio.get_running_loop().call_later(self._keep_s, self._forget, job.id)

    def _write_record(self, job: BackgroundJob, status: str, content: Answer) -> None:
        ended_at = time.time()
        times = {"ended_at": round(ended_at, 3), "kept_until": round(ended_at + self._keep_s, 3)}
        about = {name: value for name, value in job.as_dict().items() if name != "webhook"}  # which is not known yet
        self._kept.put(job.id, encode_json(to_jsonable({**about, "status": status, **times, **content})))
        if job.is_removed:
            self._kept.remove(job.id)

    def _forget(self, job_id: str) -> None:
        """Forget a job whose result has been kept long enough."""
        self._jobs.pop(job_id, None)
        asyncio.get_running_loop().run_in_executor(None, self._kept.drop_old)

    async def _tell(self, job: BackgroundJob, url: str) -> None:
        """Send the record of a job that has ended to its webhook."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        head = encode_json({"type": f"job.{job.status}", "timestamp": now})

        def body() -> bytes:
            # Read anew for each attempt, because many messages may wait for a receiver for long.
            record = self._kept.get(job.id)
            if record is None:
                raise self._not_found()
            return head[:-1] + b', "data": ' + record + b"}"

        try:
            attempts = await self._sender.send(url, job.id, body)
        except asyncio.CancelledError:
            job.webhook = NOT_DELIVERED
            raise
        except AsrError as exc:
            job.webhook = NOT_DELIVERED
            logs.warning("webhook_failed", id=job.id, **exc.as_dict())
        except Exception as exc:
            job.webhook = NOT_DELIVERED
            logs.error("webhook_crashed", exc, id=job.id)
        else:
            job.webhook = DELIVERED
            logs.info("webhook", id=job.id, attempts=attempts)
