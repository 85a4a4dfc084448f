"""Request and response schemas of Deepgram's `/v1/listen` for files, which are shown in `/docs`. Knows no route."""

from typing import Any

from local_server.errors import deepgram_error, openai_status
from local_server.openapi.asr import error_responses, json_content

_TEXT = {"type": "string"}
_LIST = {"type": "array", "items": _TEXT}
_FLAG = {"type": "boolean", "default": False}
_QUERY: dict[str, tuple[dict[str, Any], str]] = {
    "model": (_TEXT, "A name of the loaded model."),
    "language": (_TEXT, "Code of the language; `multi` detects it again and again. Left out, it is detected once."),
    "detect_language": (_FLAG, "Tell the language that was detected."),
    "punctuate": (_FLAG, "Write punctuation and capitals."),
    "smart_format": (_FLAG, "The same, and paragraphs."),
    "paragraphs": (_FLAG, "Join the text to paragraphs."),
    "utterances": (_FLAG, "Part the text at pauses of `utt_split` seconds."),
    "utt_split": ({"type": "number", "default": 0.8}, "See `utterances`."),
    "diarize": (_FLAG, "Tell who speaks; needs DIARIZE_MODEL."),
    "diarize_model": (_TEXT, "The same: `latest` or `v1`."),
    "multichannel": (_FLAG, "Transcribe each channel on its own."),
    "keyterm": (_LIST, "Names and terms that may occur."),
    "keywords": (_LIST, "The same; an intensifier behind a colon has no effect on how much."),
    "replace": (_LIST, "What to replace, a colon, and by what."),
    "redact": (_LIST, "`numbers` or `pci`."),
    "encoding": (_TEXT, "Of samples without a header: `linear16`, `mulaw` or `alaw`."),
    "sample_rate": ({"type": "integer"}, "With `encoding`: Hz."),
    "channels": ({"type": "integer", "default": 1}, "With `encoding`."),
    "tag": (_LIST, "Comes back in the answer."),
    "extra": (_LIST, "A key, a colon and a value, which come back in the answer."),
}
_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {"schema": {"type": "object", "required": ["url"], "properties": {"url": _TEXT}}},
    },
}
LISTEN_REQUEST = {
    "requestBody": _BODY,
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
        for name, (schema, description) in _QUERY.items()
    ],
}
_RESULT = {
    "type": "object",
    "required": ["metadata", "results"],
    "properties": {"metadata": {"type": "object"}, "results": {"type": "object"}},
}
_FAILURE = {"type": "object", "required": ["err_code", "err_msg"], "properties": {"err_code": _TEXT, "err_msg": _TEXT}}
_WORD = {"word": "printing", "start": 0.1, "end": 0.6, "confidence": 0.98, "punctuated_word": "Printing"}
_EXAMPLE = {
    "metadata": {"request_id": "0f8e7c1d", "duration": 4.1, "channels": 1},
    "results": {"channels": [{"alternatives": [{"transcript": "Printing, in", "confidence": 0.98, "words": [_WORD]}]}]},
}
LISTEN_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The transcript.", "content": json_content(_RESULT, _EXAMPLE)},
    **error_responses(_FAILURE, deepgram_error, openai_status),
}
