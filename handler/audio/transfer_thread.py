"""Wait for a transfer without blocking the event loop, and end it in time. Knows no protocol."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from handler.audio.transfer import Transfer

T = TypeVar("T")


async def run_transfer(work: Callable[[Transfer], T], timeout_s: float) -> T:
    """Return what `work` returns, which runs in a daemon thread, so that the process can exit during the transfer.

    Raises what `work` raises. After `timeout_s` seconds, ends the transfer and raises TimeoutError. Also ends the
    transfer when the caller is cancelled.
    """
    transfer = Transfer()
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
            result = work(transfer)
        except Exception as exc:
            error = exc
        transfer.close()
        with suppress(RuntimeError):  # the loop may have ended
            loop.call_soon_threadsafe(complete, result, error)

    threading.Thread(target=run, name="transfer", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            return await completion
    finally:
        transfer.abort()
