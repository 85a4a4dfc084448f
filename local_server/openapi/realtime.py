"""Request and response schemas of client secrets, which are shown in `/docs`. Knows no route."""

from typing import Any

from local_server.live.client_secrets import DEFAULT_LIFE_S, MAX_LIFE_S, MIN_LIFE_S
from local_server.openapi.asr import json_content
from local_server.openapi.openai import FAILURES

_SECONDS = {"type": "integer", "minimum": MIN_LIFE_S, "maximum": MAX_LIFE_S, "default": DEFAULT_LIFE_S}
_EXPIRES_AFTER = {
    "type": ["object", "null"],
    "properties": {"anchor": {"type": "string", "enum": ["created_at"]}, "seconds": _SECONDS},
}
_SESSION = {
    "type": ["object", "null"],
    "description": "The configuration that sessions begin with, as in `session.update`.",
}
SECRET_REQUEST = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"expires_after": _EXPIRES_AFTER, "session": _SESSION}}
            }
        },
    }
}
_SECRET = {
    "type": "object",
    "required": ["value", "expires_at", "session"],
    "properties": {"value": {"type": "string"}, "expires_at": {"type": "integer"}, "session": {"type": "object"}},
}
_EXAMPLE = {"value": "ek_0f8e7c1d2b3a4f5e", "expires_at": 1764201600, "session": {"type": "transcription"}}
SECRET_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The key, and when it expires.", "content": json_content(_SECRET, _EXAMPLE)},
    **FAILURES,
}
