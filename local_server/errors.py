"""Errors as HTTP answers: each code's status and body. Knows no route."""

from fastapi.responses import JSONResponse

from handler.errors import AsrError

STATUS = {
    "invalid_request": 400,
    "unauthorized": 401,
    "download_blocked": 403,
    "too_large": 413,
    "unsupported_media": 415,
    "no_audio_stream": 422,
    "corrupt_media": 422,
    "too_long": 422,
    "overloaded": 429,
    "cancelled": 499,
    "internal": 500,
    "download_failed": 502,
    "model_unavailable": 503,
    "out_of_memory": 503,
    "deadline_exceeded": 504,
}


def error_response(error: AsrError) -> JSONResponse:
    """`{"error": {"code", "message", "retryable"}}` under the status of its code."""
    headers = {"Retry-After": "1"} if error.code == "overloaded" else None
    return JSONResponse({"error": error.as_dict()}, STATUS[error.code], headers)
