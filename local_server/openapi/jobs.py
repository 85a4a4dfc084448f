"""Request and response schemas of `/jobs`, which are shown in `/docs`. Knows no route."""

from typing import Any

from local_server.background.background_jobs import COMPLETED, FAILED, QUEUED, RUNNING
from local_server.openapi.asr import EXAMPLE, FAILURES, TRANSCRIPT, json_content, request_of

_ID = "0f8e7c1d2b3a4f5e8d9c0b1a2f3e4d5c"
_TIME = {"type": "number", "description": "Seconds since 1970."}
_JOB = {
    "type": "object",
    "required": ["id", "status", "created_at"],
    "properties": {
        "id": {"type": "string"},
        "status": {"type": "string", "enum": [QUEUED, RUNNING, COMPLETED, FAILED]},
        "created_at": _TIME,
        "done_s": {"type": "number", "description": "Seconds of audio that are done."},
        "total_s": {"type": ["number", "null"], "description": "Seconds of audio in total, if known."},
        "ended_at": _TIME,
        "kept_until": _TIME,
        "result": TRANSCRIPT,
        "error": {"type": "object", "required": ["code", "message", "retryable"]},
        "webhook": {"type": "string", "enum": ["pending", "delivered", "failed"], "description": "With callback_url."},
    },
}
_CREATED = {"id": _ID, "status": QUEUED, "created_at": 1764201600.0}
_COMPLETED = {
    "id": _ID,
    "status": COMPLETED,
    "created_at": 1764201600.0,
    "ended_at": 1764201601.5,
    "kept_until": 1764205201.5,
    "result": EXAMPLE,
}
JOB_REQUEST = request_of(
    {
        "callback_url": {
            "type": "string",
            "description": "http or https URL of a webhook that gets the job once it has ended. Needs WEBHOOK_SECRET.",
        }
    }
)
CREATED_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"description": "The job.", "content": json_content(_JOB, _CREATED)},
    **FAILURES,
}
JOB_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The job.", "content": json_content(_JOB, _COMPLETED)},
    **FAILURES,
}
REMOVED_RESPONSES: dict[int | str, dict[str, Any]] = {204: {"description": "Forgotten."}, **FAILURES}
