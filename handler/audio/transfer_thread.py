"""Wait for what blocks without blocking the event loop, and no longer than a limit. Knows no protocol."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from handler.audio.transfer import Transfer

T = TypeVar("T")


async def run_transfer(work: Callable[[Transfer], T], timeout_s: float) -> T:
    """Return what `work` returns for a transfer. Raises what it raises.

    After `timeout_s` seconds, ends the transfer and raises TimeoutError. Also ends the transfer when the caller is
    cancelled.
    """
    transfer = Transfer()

    def run() -> T:
        try:
            return work(transfer)
        finally:
            transfer.close()

    try:
        return await run_apart(run, timeout_s)
    finally:
        transfer.abort()


async def run_apart(work: Callable[[], T], timeout_s: float) -> T:
    """Return what `work` returns, which runs in a daemon thread of its own, so that the process can exit meanwhile.

    Raises what `work` raises, and TimeoutError after `timeout_s` seconds, while the thread goes on.
    """
    loop = asyncio.get_running_loop()
    completion: asyncio.Future[T] = loop.create_future()

    def complete(result: T | None, error: Exception | None) -> None:
        if completion.done():
            return
        if error is None:
            completion.set_result(result)  # type: ignore[arg-type]  # there is a result if there is no error
        else:
            completion.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = work()
        except Exception as exc:
            error = exc
        with suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(complete, result, error)

    threading.Thread(target=run, name="apart", daemon=True).start()
    async with asyncio.timeout(timeout_s):
        return await completion
