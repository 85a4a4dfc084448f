"""Add security headers to every response. Pure ASGI, without imports that would slow down the start.

A response may bring a Content-Security-Policy of its own, as those of pages do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing starlette would slow down the start
    from starlette.types import Message, Send

# A browser that shows a response of the API must load and run nothing of it. Source: OWASP, REST security.
API_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_POLICY_NAME = b"content-security-policy"
HEADERS = (
    (_POLICY_NAME, API_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def with_security_headers(send: Send) -> Send:
    """Return a `send` that adds those of HEADERS to a response which the response does not have."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            missing = [header for header in HEADERS if header[0] not in names]
            message = {**message, "headers": [*headers, *missing]}
        await send(message)

    return send_with_headers
