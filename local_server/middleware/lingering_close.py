"""Receive the rest of a request whose response was sent before the request had arrived in full.

If a server closes the connection while the client is still sending, the connection is reset and the client may lose the
response. Pure ASGI. Source: nginx, lingering_close.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Source: nginx, lingering_timeout and lingering_time.
MAX_SILENCE_S = 5.0  # seconds between two pieces of the rest of a body
MAX_DRAIN_S = 30.0  # seconds for the whole rest of a body
MAX_DRAIN_BYTES = 256 * 1024**2  # of the rest of a body


class LingeringCloseMiddleware:
    """Reads and discards the rest of a request after its response, then closes the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = dict(reversed(scope.get("headers", ())))  # the first of a name counts
        has_length = headers.get(b"content-length", b"0") != b"0"
        is_complete = not has_length and b"transfer-encoding" not in headers  # no more of the body will come
        awaits_continue = headers.get(b"expect", b"").lower() == b"100-continue"  # the client waits to be asked

        async def receive_body() -> Message:
            nonlocal is_complete, awaits_continue
            awaits_continue = False
            message = await receive()
            is_complete = is_complete or not message.get("more_body", False)
            return message

        async def send_response(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_complete:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            elif _is_last(message) and not (is_complete or awaits_continue or _is_cancelled()):
                await send({**message, "more_body": True})
                scope["asr_is_answered"] = True  # the connection can be spared if there are too many
                await _drain(receive_body)
                message = {"type": "http.response.body"}
            await send(message)

        await self._app(scope, receive_body, send_response)


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def _is_cancelled() -> bool:
    """Return whether the server cancels this request, because the time limit of its graceful shutdown has passed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _drain(receive: Receive) -> None:
    """Discard the rest of a body until it ends or exceeds one of the limits above."""
    num_bytes = 0
    try:
        async with asyncio.timeout(MAX_DRAIN_S):
            while num_bytes <= MAX_DRAIN_BYTES:
                async with asyncio.timeout(MAX_SILENCE_S):
                    message = await receive()
                if not message.get("more_body", False):
                    return
                num_bytes += len(message.get("body", b""))
    except TimeoutError:
        return
