"""The SDK's own loop over the queue, with an end: on SIGTERM no job is taken any more, and those in work get a deadline.

The SDK's waits for its polls up to 90 s, runs no job that such a poll still brings, and has no deadline. Knows no engine.
Source: runpod/serverless/modules/rp_scale.py.
"""

import asyncio
import json
from collections.abc import Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from handler import logs
from handler.runpod_sdk import import_sdk

STOP_PAUSE_S = 0.5  # between two polls for cancels while jobs are drained, where nobody is to be cancelled
TAKE_PAUSE_S = 1.0  # before a queue that could not be reached is asked once more
POST_S = 10.0  # longest that an update may take on its way
T = TypeVar("T")
_scale = import_sdk("runpod.serverless.modules.rp_scale")
_job = import_sdk("runpod.serverless.modules.rp_job")
_http = import_sdk("runpod.serverless.modules.rp_http")
_session: ContextVar[Any] = ContextVar("session")  # the SDK's, of the job that the current task runs


class DrainingWorkerLoop(_scale.JobScaler):  # type: ignore[misc,name-defined]
    """Takes jobs and runs them. `stop_taking` may be called from any thread and as often as one likes."""

    drain_s = 60.0  # what jobs in work get after SIGTERM
    running: "DrainingWorkerLoop | None" = None  # the one of this process

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()  # no job is taken any more
        self._ended = asyncio.Event()  # no job is in work any more
        self._late = False  # the time for jobs in work is over
        self._loop: asyncio.AbstractEventLoop | None = None
        self.jobs_fetcher: Any = partial(self._take, self.jobs_fetcher)
        self.stop_signals_fetcher: Any = partial(self._stops, self.stop_signals_fetcher)
        type(self).running = self

    def handle_shutdown(self, signum: int, frame: object) -> None:
        """SIGTERM and SIGINT: end within the time for draining."""
        logs.info("drain_started", signal=signum, jobs=len(self.jobs_tasks), seconds=self.drain_s)
        self.stop_taking(self.drain_s)

    def stop_taking(self, drain_s: float) -> None:
        """Take no job any more, and end when those in work are answered; in `drain_s` seconds they are cancelled, without an answer."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop, drain_s)
        else:
            self.kill_worker()

    def _stop(self, drain_s: float) -> None:
        self._ending.set()
        asyncio.get_running_loop().call_later(drain_s, self._cancel_all)

    def _cancel_all(self) -> None:
        self._late = True
        tasks = list(self.jobs_tasks.values())
        if tasks:
            logs.warning("drain_cut", jobs=list(self.jobs_tasks))
        for task in tasks:
            task.cancel()

    async def _take(self, fetch: Any, session: Any, count: int) -> list[dict[str, Any]] | None:
        """Jobs, unless the worker ends. Only then do the loops end, so that what a last poll has brought is run."""
        if self._ending.is_set():
            self.kill_worker()
            return None
        try:
            return await _until(self._ending, fetch(session, count), None)
        except Exception:  # the SDK's loop tells it, and asks again at once
            await _until(self._ending, asyncio.sleep(TAKE_PAUSE_S), None)
            raise

    async def _stops(self, fetch: Any, session: Any) -> list[str]:
        """Jobs to cancel, as long as there may be any."""
        return await _until(self._ended, fetch(session), [])

    async def monitor_stop_signals(self, session: Any) -> None:
        """Cancels what the platform names, until the last job is answered."""
        if _job._job_stop_url() is None:
            logs.warning("no_stop_channel", expected="a take address with /job-take/")
            return
        await super().monitor_stop_signals(session)
        while not self._ended.is_set():
            try:
                names = await self.stop_signals_fetcher(session)
            except Exception as exc:  # whatever the client of the SDK meets; jobs end without it
                logs.warning("stop_poll_failed", reason=type(exc).__name__)
                names = []
            for name in names:
                await self.stop_job(name)
            await _until(self._ended, asyncio.sleep(0 if names else STOP_PAUSE_S), None)

    async def run(self) -> None:
        """The SDK's loops."""
        self._loop = asyncio.get_running_loop()
        try:
            await super().run()
        finally:
            self._loop = None

    async def run_jobs(self, session: Any) -> None:
        """Those that have been taken, to the last one."""
        try:
            await super().run_jobs(session)
        finally:
            self._ended.set()

    async def handle_job(self, session: Any, job: dict[str, Any]) -> None:
        """One job. A cancelled one ends without an answer."""
        _session.set(session)
        if self._late and (task := asyncio.current_task()) is not None:
            task.cancel()
        await super().handle_job(session, job)


def serve(config: dict[str, Any], drain_s: float) -> None:
    """The SDK's `start` with this loop; returns when the worker has ended."""
    DrainingWorkerLoop.drain_s = drain_s
    _scale.JobScaler = DrainingWorkerLoop  # type: ignore[attr-defined]
    import_sdk().serverless.start(config)


def ask_for_new_worker() -> None:
    """Every answer from here on asks the platform for a new worker, and no job is taken any more."""
    scaler = DrainingWorkerLoop.running
    if scaler is not None:
        scaler.config["refresh_worker"] = True
        scaler.stop_taking(scaler.drain_s)


async def post_update(job_id: str, content: Any) -> None:
    """Tell the platform how far a job is; one that does not arrive is missed by nobody. Outside of the SDK's loop nothing happens."""
    session = _session.get(None)
    if session is None:
        return
    import aiohttp

    body = json.dumps({"status": "IN_PROGRESS", "output": content}, ensure_ascii=False).encode()
    url = _http.JOB_DONE_URL.replace("$ID", job_id) + "&isStream=false"
    headers = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded", "X-Request-ID": job_id}
    try:
        async with session.post(url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=POST_S)) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError) as exc:
        logs.warning("update_not_sent", job=job_id, reason=type(exc).__name__)


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, T], otherwise: T) -> T:
    """What some work comes to; `otherwise` where an event is there first, and then the work is cancelled."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else otherwise
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
