"""Errors as HTTP answers: each code's status and body. Knows no route."""

from typing import Any

from fastapi.responses import JSONResponse

from handler.errors import AsrError

STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "download_blocked": 403,
    "model_not_found": 404,
    "too_large": 413,
    "unsupported_media": 415,
    "no_audio_stream": 422,
    "corrupt_media": 422,
    "too_long": 422,
    "overloaded": 429,
    "cancelled": 499,
    "internal": 500,
    "download_failed": 502,
    "upload_failed": 502,
    "device_lost": 503,
    "model_unavailable": 503,
    "out_of_memory": 503,
    "deadline_exceeded": 504,
}


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "invalid_request_error", 429: "rate_limit_error"}
OPENAI = "/v1/"  # paths below it answer in OpenAI's form


def openai_error(error: AsrError) -> dict[str, Any]:
    """Return OpenAI's envelope; `param` is the field that the error is about."""
    status = STATUS[error.code]
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error"),
            "param": error.field,
            "code": "invalid_api_key" if error.code == "unauthorized" else error.code,
        }
    }


def error_response(error: AsrError, path: str) -> JSONResponse:
    """`{"error": {"code", "message", "retryable"}}` under the status of its code; on OpenAI's paths in OpenAI's form."""
    headers = {"Retry-After": "1"} if error.code == "overloaded" else None
    content = openai_error(error) if path.startswith(OPENAI) else {"error": error.as_dict()}
    return JSONResponse(content, STATUS[error.code], headers)
