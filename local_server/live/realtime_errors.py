"""Errors of OpenAI's realtime API, which end no session. Knows no connection."""

from typing import Any

from handler.errors import AsrError
from local_server.errors import openai_error


class RefusedEvent(Exception):
    """Raised for an event of a client that is not done. `code` and `param` are those of OpenAI's API."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def error_of(exc: RefusedEvent | AsrError) -> dict[str, Any]:
    """Return an error as the object that events hold."""
    if isinstance(exc, AsrError):
        error: dict[str, Any] = openai_error(exc)["error"]
        return error
    return {"type": "invalid_request_error", "code": exc.code, "message": exc.message, "param": exc.param}
