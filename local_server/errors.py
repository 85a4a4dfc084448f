"""Turn errors into HTTP responses: define the status and the body of each error code. Knows no route."""

from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from handler.errors import AsrError, MediaError

STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "download_blocked": 403,
    "model_not_found": 404,
    "job_not_found": 404,
    "session_not_found": 404,
    "too_large": 413,
    "unsupported_media": 415,
    "no_audio_stream": 422,
    "corrupt_media": 422,
    "too_long": 422,
    "download_refused": 422,
    "upload_refused": 422,
    "overloaded": 429,
    "cancelled": 499,
    "internal": 500,
    "download_failed": 502,
    "upload_failed": 502,
    "device_lost": 503,
    "decoding_lost": 503,
    "model_unavailable": 503,
    "out_of_memory": 503,
    "storage_full": 503,
    "deadline_exceeded": 504,
}


_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_PARAMS: dict[str | None, str | None] = {"task": None}  # options for which OpenAI's API has no field
# OpenAI answers 400 if the file is at fault, and some of its clients know no other status for that.
_OPENAI_STATUS = dict.fromkeys(("unsupported_media", "no_audio_stream", "corrupt_media", "too_long"), 400)
OPENAI_PREFIX = "/v1/"  # errors on these paths have OpenAI's form
DEEPGRAM_PATH = "/v1/listen"  # and on this one Deepgram's


def openai_status(code: str) -> int:
    """Return the HTTP status of an error code on the paths of OpenAI's API."""
    return _OPENAI_STATUS.get(code, STATUS[code])


def openai_error(error: AsrError) -> dict[str, Any]:
    """Return an error in the form of OpenAI's API.

    `param` is the name of the API's field that caused the error, or None if there is no such field.
    """
    status = openai_status(error.code)
    field = "file" if isinstance(error, MediaError) and error.field is None else error.field
    default_type = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": _OPENAI_TYPES.get(status, default_type),
            "param": _OPENAI_PARAMS.get(field, field),
            "code": "invalid_api_key" if error.code == "unauthorized" else error.code,
        }
    }


def deepgram_error(error: AsrError) -> dict[str, Any]:
    """Return an error in the form of Deepgram's API."""
    return {"err_code": error.code, "err_msg": error.message}


def error_response(error: AsrError, path: str) -> JSONResponse:
    """Return the response to a request for `path` that failed.

    The body is `{"error": {"code", "message", "retryable"}}`, or an error of OpenAI's API on the paths of that API.
    """
    headers = {"Retry-After": "1"} if error.code == "overloaded" else None
    if path == DEEPGRAM_PATH:
        return JSONResponse(deepgram_error(error), openai_status(error.code), headers)
    if path.startswith(OPENAI_PREFIX):
        return JSONResponse(openai_error(error), openai_status(error.code), headers)
    return JSONResponse({"error": error.as_dict()}, STATUS[error.code], headers)


async def send_error(error: AsrError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the response to a request that is refused before it reaches a route, and note its code for the log."""
    scope["asr_code"] = error.code
    await error_response(error, scope["path"])(scope, receive, send)
