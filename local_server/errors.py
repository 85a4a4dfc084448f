"""Turn errors into HTTP responses: define the status and the body of each error code. Knows no route."""

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


_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_PARAMS: dict[str | None, str | None] = {
    "hotwords": "keywords",
    "task": None,
}  # name in OpenAI's API of options that are called differently there; None if there is no such field
OPENAI_PREFIX = "/v1/"  # errors on these paths have OpenAI's form


def openai_error(error: AsrError) -> dict[str, Any]:
    """Return an error in the form of OpenAI's API.

    `param` is the name of the API's field that caused the error, or None if there is no such field.
    """
    status = STATUS[error.code]
    default_type = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": _OPENAI_TYPES.get(status, default_type),
            "param": _OPENAI_PARAMS.get(error.field, error.field),
            "code": "invalid_api_key" if error.code == "unauthorized" else error.code,
        }
    }


def error_response(error: AsrError, path: str) -> JSONResponse:
    """Return the response to a request for `path` that failed.

    The body is `{"error": {"code", "message", "retryable"}}`, or an error of OpenAI's API on the paths of that API.
    """
    headers = {"Retry-After": "1"} if error.code == "overloaded" else None
    content = openai_error(error) if path.startswith(OPENAI_PREFIX) else {"error": error.as_dict()}
    return JSONResponse(content, STATUS[error.code], headers)
