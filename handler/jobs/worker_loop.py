"""Run the loop of RunPod's SDK over the job queue, and drain the loop on SIGTERM. Knows no engine.

To drain means to take no further job, and to cancel running jobs that are not answered before a deadline. The SDK's own
loop has no deadline. On SIGTERM that loop waits up to 90 s for its last poll, and does not run a job that this poll
returns. Source: runpod/serverless/modules/rp_scale.py. tests/jobs/test_sdk_contract.py lists the parts of the SDK that
this module relies on.
"""

import asyncio
import json
from collections.abc import Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from handler import logs
from handler.runpod_sdk import import_sdk
from handler.validators import short_repr

STOP_POLL_INTERVAL_S = 0.5  # during a drain, between polls for jobs to cancel, after a poll that returned none
TAKE_RETRY_DELAY_S = 1.0  # before the next poll of a queue that could not be reached
POST_TIMEOUT_S = 10.0  # for one update
EARLY_STOP_S = 30.0  # how long the request to stop a job that has not begun is remembered; the job may come back later
T = TypeVar("T")
_scale = import_sdk("runpod.serverless.modules.rp_scale")
_job = import_sdk("runpod.serverless.modules.rp_job")
_http = import_sdk("runpod.serverless.modules.rp_http")
_session: ContextVar[Any] = ContextVar("session")  # the SDK's HTTP session, for the job of the current asyncio task


class DrainingWorkerLoop(_scale.JobScaler):  # type: ignore[misc,name-defined]
    """Takes jobs from the queue and runs them, as the SDK's class does, but can be drained.

    `stop_taking` may be called from any thread, and more than once.
    """

    drain_s = 60.0  # seconds that running jobs have after SIGTERM
    current: "DrainingWorkerLoop | None" = None  # the loop of this process

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()  # set when no further job is to be taken
        self._drained = asyncio.Event()  # set when the last job has ended
        self._deadline_passed = False  # whether jobs are cancelled instead of run
        self._begun: set[str] = set()  # ids of the jobs whose tasks run
        self._early_stops: set[str] = set()  # ids of the jobs that are to be cancelled when they begin
        self._loop: asyncio.AbstractEventLoop | None = None
        self.jobs_fetcher: Any = partial(self._take_jobs, self.jobs_fetcher)
        self.jobs_handler: Any = partial(_handle_by_quoted_id, self.jobs_handler)
        self.stop_signals_fetcher: Any = partial(self._fetch_stop_signals, self.stop_signals_fetcher)
        type(self).current = self

    def handle_shutdown(self, signum: int, frame: object) -> None:
        """Start to drain. The SDK calls this method on SIGTERM and SIGINT."""
        logs.info("drain_started", signal=signum, jobs=len(self.jobs_tasks), seconds=self.drain_s)
        self.stop_taking(self.drain_s)

    def stop_taking(self, drain_s: float) -> None:
        """Take no further job, and end the loop when no job is running any more.

        Jobs that are still running after `drain_s` seconds are cancelled without an answer.
        """
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_drain, drain_s)
        else:
            self.kill_worker()

    def _start_drain(self, drain_s: float) -> None:
        self._stopping.set()
        asyncio.get_running_loop().call_later(drain_s, self._cancel_jobs)

    def _cancel_jobs(self) -> None:
        self._deadline_passed = True
        tasks = list(self.jobs_tasks.values())
        if tasks:
            logs.warning("drain_cut", jobs=list(self.jobs_tasks))
        for task in tasks:
            task.cancel()

    async def _take_jobs(self, fetch: Any, session: Any, max_count: int) -> list[dict[str, Any]] | None:
        """Poll for at most `max_count` jobs with the SDK's function `fetch`. Return None if the worker stops first.

        Leave out jobs whose id cannot be part of an address, because they cannot be answered.
        If the worker is already stopping, end the SDK's loops and do not poll. The loops do not end earlier, because
        jobs that the last poll has brought must still be run.
        """
        if self._stopping.is_set():
            self.kill_worker()
            return None
        try:
            jobs = await _run_until(self._stopping, fetch(session, max_count), None)
        except Exception:  # the SDK's loop logs it and polls again at once
            await _run_until(self._stopping, asyncio.sleep(TAKE_RETRY_DELAY_S), None)
            raise
        return None if jobs is None else [job for job in jobs if _has_usable_id(job)]

    async def _fetch_stop_signals(self, fetch: Any, session: Any) -> list[str]:
        """Poll for the ids of jobs to cancel with the SDK's `fetch`. Return [] if the last job ends meanwhile."""
        return await _run_until(self._drained, fetch(session), [])

    async def monitor_stop_signals(self, session: Any) -> None:
        """Cancel each job that the platform wants to be cancelled, until the last job has ended.

        Return at once if the platform offers no address to poll for such jobs.
        """
        if _job._job_stop_url() is None:
            logs.warning("no_stop_channel", expected="a take address with /job-take/")
            return
        await super().monitor_stop_signals(session)  # returns after kill_worker, when jobs may still be running
        while not self._drained.is_set():
            try:
                job_ids = await self.stop_signals_fetcher(session)
            except Exception as exc:  # any error of the SDK's client; no job depends on this poll
                logs.warning("stop_poll_failed", reason=type(exc).__name__)
                job_ids = []
            for job_id in job_ids:
                await self.stop_job(job_id)
            interval_s = 0 if job_ids else STOP_POLL_INTERVAL_S
            await _run_until(self._drained, asyncio.sleep(interval_s), None)

    async def run(self) -> None:
        """Run the SDK's three loops, which take, run and cancel jobs. Returns when all three have ended."""
        self._loop = asyncio.get_running_loop()
        try:
            await super().run()
        finally:
            self._loop = None

    async def run_jobs(self, session: Any) -> None:
        """Run every job that has been taken. Returns when the worker is stopping and its last job has ended."""
        try:
            await super().run_jobs(session)
        finally:
            self._drained.set()

    async def stop_job(self, job_id: str) -> bool:
        """Cancel a job, and return True. If the job has not begun, cancel it when it begins, and return False.

        The platform may want a job to be stopped while the job is still on its way to this worker, or in its queue. A
        task that is cancelled before its first step would never count as done in the SDK's loop.
        """
        if job_id in self._begun:
            return bool(await super().stop_job(job_id))
        self._early_stops.add(job_id)
        asyncio.get_running_loop().call_later(EARLY_STOP_S, self._early_stops.discard, job_id)
        return False

    async def handle_job(self, session: Any, job: dict[str, Any]) -> None:
        """Run one job. A job that is cancelled ends without an answer."""
        _session.set(session)
        is_stopped = job["id"] in self._early_stops or self._deadline_passed
        self._early_stops.discard(job["id"])
        if is_stopped and (task := asyncio.current_task()) is not None:
            task.cancel()
        self._begun.add(job["id"])
        try:
            await super().handle_job(session, job)
        finally:
            self._begun.discard(job["id"])


def serve(config: dict[str, Any], drain_s: float) -> None:
    """Run the SDK's `start` with a DrainingWorkerLoop. Returns when the worker has ended.

    `config` is the argument of `start`. `drain_s` is how many seconds running jobs have after SIGTERM.
    """
    DrainingWorkerLoop.drain_s = drain_s
    _scale.JobScaler = DrainingWorkerLoop  # type: ignore[attr-defined]
    import_sdk().serverless.start(config)


def _has_usable_id(job: object) -> bool:
    """Return whether the platform can be told about a job, by an address that ends in the job's id."""
    job_id = job.get("id") if isinstance(job, dict) else None
    is_usable = isinstance(job_id, str) and job_id not in ("", ".", "..")
    try:
        is_usable = is_usable and bool(quote(str(job_id)))
    except UnicodeEncodeError:  # half a character
        is_usable = False
    if not is_usable:
        logs.error("job_ignored", job=short_repr(job_id), expected="an id that can be part of an address")
    return is_usable


async def _handle_by_quoted_id(handle: Any, session: Any, config: dict[str, Any], job: dict[str, Any]) -> None:
    """Call the SDK's function `handle` for a job whose id is quoted for addresses.

    The SDK puts the id as it is into addresses, and into a header of its session, which control characters would make
    unusable for all other jobs. The ids that the platform gives to jobs are not changed by this.
    """
    await handle(session, config, {**job, "id": quote(job["id"], safe="")})


def ask_for_new_worker() -> None:
    """Take no further job. Let the answer to each running job ask the platform for a new worker."""
    worker_loop = DrainingWorkerLoop.current
    if worker_loop is not None:
        worker_loop.config["refresh_worker"] = True
        worker_loop.stop_taking(worker_loop.drain_s)


async def post_update(job_id: str, content: Any) -> None:
    """Send a progress update on a job to the platform. If that fails, log the failure and do not try again.

    `job_id` is the id that the handler received, which is quoted for addresses.
    Do nothing if the current asyncio task does not belong to a job of the SDK's loop.
    """
    session = _session.get(None)
    if session is None:
        return
    import aiohttp

    body = json.dumps({"status": "IN_PROGRESS", "output": content}, ensure_ascii=False).encode()
    url = _http.JOB_DONE_URL.replace("$ID", job_id) + "&isStream=false"
    headers = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded", "X-Request-ID": job_id}
    timeout = aiohttp.ClientTimeout(total=POST_TIMEOUT_S)
    try:
        async with session.post(url, data=body, headers=headers, timeout=timeout) as response:
            await response.read()
    except (aiohttp.ClientError, TimeoutError) as exc:
        logs.warning("update_not_sent", job=job_id, reason=type(exc).__name__)


async def _run_until(event: asyncio.Event, coroutine: Coroutine[Any, Any, T], default: T) -> T:
    """Return the result of a coroutine.

    If the event is set before the coroutine ends, cancel the coroutine and return `default`.
    """
    work, wait = asyncio.ensure_future(coroutine), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({work, wait}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else default
    finally:
        wait.cancel()
        work.cancel()
        await asyncio.gather(work, wait, return_exceptions=True)
