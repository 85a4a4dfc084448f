"""Answers that come before the whole request has: the client gets its answer at once, and may still send on for a while.

A connection that is closed while its client sends is reset, and the answer lost. Source: nginx, lingering_close. Pure ASGI.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENCE_S, LONGEST_S = 5.0, 30.0  # between two pieces, and in all. Source: nginx, lingering_timeout and lingering_time


class LingeringCloseMiddleware:
    """Reads and drops what is left of a request once it is answered, then closes the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        headers = dict(scope.get("headers", ()))
        over = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers  # there is no more of the request
        waits = headers.get(b"expect", b"").lower() == b"100-continue"  # for a word before it sends anything

        async def heard() -> Message:
            nonlocal over, waits
            waits = False
            message = await receive()
            over = over or not message.get("more_body", False)
            return message

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and not over:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            elif message["type"] == "http.response.body" and not message.get("more_body", False) and not (over or waits or _is_ending()):
                await send({**message, "more_body": True})
                await _drop(heard)
                message = {"type": "http.response.body"}
            await send(message)

        await self._app(scope, heard, told)


def _is_ending() -> bool:
    """Whether the server's time for what is in work is over."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _drop(heard: Receive) -> None:
    try:
        async with asyncio.timeout(LONGEST_S):
            while True:
                async with asyncio.timeout(SILENCE_S):
                    message = await heard()
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
