"""Request and response schemas of `/asr` and `/hc`, which are shown in `/docs`. Knows no route.

The schemas of the options come from `Options`.
"""

from collections.abc import Callable
from typing import Any

from handler import __version__
from handler.errors import AsrError, all_kinds
from handler.output.formats import TEXT_FORMATS
from handler.schema.options import Options
from local_server.errors import STATUS


def text_option(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an option in a query or a form, where a number or a boolean is text, such as `1`."""
    return schema if schema.get("type") in (None, "string") else {**schema, "type": [schema["type"], "string"]}


def _json_option(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an option in a JSON body.

    In JSON, an option may also be null, which stands for the default. A number or a boolean may also be given as a
    string.
    """
    if "type" not in schema:
        annotations = {name: value for name, value in schema.items() if name in ("description", "examples")}
        return {"anyOf": [{"oneOf": schema["oneOf"]}, {"type": "null"}], **annotations}
    types = [schema["type"], "null"]
    if schema["type"] != "string":
        types.append("string")
    json_option = {**schema, "type": types}
    if "enum" in schema:
        json_option["enum"] = [*schema["enum"], None]
    return json_option


_TEXT_OPTIONS = {name: text_option(schema) for name, schema in Options.json_schema().items()}
_JSON_OPTIONS = {name: _json_option(schema) for name, schema in Options.json_schema().items()}
EXAMPLE = {
    "text": "The quick brown fox jumps over the lazy dog.",
    "chunks": [{"timestamp": [0.0, 2.6], "text": "The quick brown fox jumps over the lazy dog."}],
    "language": "en",
    "language_probability": 0.99,
    "task": "transcribe",
    "duration": 2.8,
    "model": "openai/whisper-large-v3",
    "timing": {"decode": 0.01, "vad": 0.01, "wait": 0.0, "device": 0.09, "transcribe": 0.1, "total": 0.11},
    "account": {
        "audio_s": 2.5,
        "total_s": 0.11,
        "real_time_factor": 22.7,
        "device_s": 0.09,
        "cold": False,
        "model": "openai/whisper-large-v3",
        "revision": "06f233fe06e710322aca913c1bc4249a0d71fce1",
        "dtype": "float16",
        "attention": "sdpa",
        "device": "NVIDIA L4",
        "version": "0.1.0",
    },
    "coverage": {"speech_s": 2.3, "covered_s": 2.3, "gaps": []},
    "warnings": [],
}
_NULLABLE_NUMBER = {"type": ["number", "null"]}
_SECONDS = {"type": "number", "description": "Seconds."}
_SPEAKER = {"type": ["string", "null"], "description": "With diarize: A, B, …; null where nobody is heard."}
_WORD = {
    "type": "object",
    "required": ["word", "start", "end", "probability"],
    "properties": {
        "word": {"type": "string"},
        "start": _SECONDS,
        "end": _SECONDS,
        "probability": {"type": "number"},
        "speaker": _SPEAKER,
    },
}
_COVERAGE = {
    "type": "object",
    "required": ["speech_s", "covered_s", "gaps"],
    "properties": {
        "speech_s": {"type": "number", "description": "Seconds of detected speech."},
        "covered_s": {"type": "number", "description": "Seconds of that speech that have text."},
        "gaps": {
            "type": "array",
            "description": "Speech without text, even after it was decoded again on its own.",
            "items": {
                "type": "object",
                "required": ["start", "end"],
                "properties": {"start": _SECONDS, "end": _SECONDS, "channel": {"type": "integer"}},
            },
        },
    },
}
TRANSCRIPT = {
    "type": "object",
    "required": list(EXAMPLE),
    "properties": {
        "text": {"type": "string"},
        "chunks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["timestamp", "text"],
                "properties": {
                    "timestamp": {
                        "type": "array",
                        "items": {"type": "number"},
                        "minItems": 2,
                        "maxItems": 2,
                        "description": "Seconds.",
                    },
                    "text": {"type": "string"},
                    "channel": {
                        "type": "integer",
                        "description": "With channels=split: number of the channel, from 0.",
                    },
                    "language": {"type": "string", "description": "With language=multi: code of the language."},
                    "speaker": _SPEAKER,
                    "overlap": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "With diarize: who else is heard during a third of the chunk.",
                    },
                    "words": {"type": "array", "items": _WORD, "description": "With timestamps=word."},
                },
            },
        },
        "speakers": {"type": "array", "items": {"type": "string"}, "description": "With diarize: who speaks."},
        "redacted": {
            "type": "object",
            "additionalProperties": {"type": "integer"},
            "description": "With redact: how often each kind was replaced.",
        },
        "paragraphs": {
            "type": "array",
            "description": "With paragraphs.",
            "items": {
                "type": "object",
                "required": ["timestamp", "text"],
                "properties": {
                    "timestamp": {"type": "array", "items": {"type": "number"}, "description": "Seconds."},
                    "text": {"type": "string"},
                    "speaker": {"type": "string"},
                    "channel": {"type": "integer"},
                },
            },
        },
        "language": {"type": ["string", "null"]},
        "language_probability": _NULLABLE_NUMBER,
        "task": {"type": "string"},
        "duration": {"type": "number", "description": "Seconds of audio."},
        "model": {"type": "string"},
        "timing": {
            "type": "object",
            "properties": {
                "cold_start": {
                    "type": "object",
                    "additionalProperties": {"type": "number"},
                    "description": "In the first response of a process: seconds by stage since its start.",
                }
            },
            "additionalProperties": {"type": "number"},
            "description": "Seconds by stage.",
        },
        "account": {
            "type": "object",
            "description": "The time that the request used, and the process that it ran in;"
            " `price` if GPU_PRICE_PER_SECOND is set.",
        },
        "coverage": _COVERAGE,
        "warnings": {"type": "array", "items": {"type": "string"}},
        "resume_at": {
            "type": "number",
            "description": "With partial: seconds; the text after it is missing because time ran out.",
        },
        "segments": {
            "type": "array",
            "items": {"type": "object"},
            "description": "With verbose_json: segments with the evidence for their text.",
        },
    },
}
_BINARY = {"type": "string", "format": "binary"}


def json_content(schema: dict[str, Any], example: object) -> dict[str, Any]:
    """Return the content of a body in JSON."""
    return {"application/json": {"schema": schema, "example": example}}


def error_schema(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an error response whose object `error` has the given fields."""
    return {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "object", "required": list(fields), "properties": fields}},
    }


def error_responses(
    schema: dict[str, Any], to_content: Callable[[AsrError], dict[str, Any]], status_of: Callable[[str], int]
) -> dict[int | str, dict[str, Any]]:
    """Return the responses of all error statuses, by status.

    Each response has an example for the first of its error codes in alphabetical order. `schema` is the schema of the
    body, `to_content` makes the body of an error, and `status_of` returns the status of a code.
    """
    kinds_by_status: dict[int, list[type[AsrError]]] = {}
    for kind in sorted(all_kinds(), key=lambda kind: kind.code):
        if "code" in vars(kind) and kind is not AsrError:
            kinds_by_status.setdefault(status_of(kind.code), []).append(kind)
    return {
        status: {
            "description": " or ".join(kind.code for kind in kinds),
            "content": json_content(schema, to_content(kinds[0]("what was expected and what came"))),
        }
        for status, kinds in kinds_by_status.items()
    }


def request_of(more: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of a request with audio and options, and with more fields."""
    in_text, in_json = {**_TEXT_OPTIONS, **more}, {**_JSON_OPTIONS, **more}
    url = {"type": "string", "description": "http, https or s3 URL of an audio or video file."}
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "description": f"If the body is a file: {schema['description']}",
                "schema": schema,
            }
            for name, schema in in_text.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["url"],
                        "additionalProperties": False,
                        "properties": {"url": url, **in_json},
                    },
                    "example": {"url": "https://example.com/audio.mp3", "language": "en"},
                },
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY, **in_text}}
                },
                **{media: {"schema": _BINARY} for media in ("audio/*", "video/*", "application/octet-stream")},
            },
        },
    }


ASR_REQUEST = request_of({})
FAILURES = error_responses(
    error_schema(
        {
            "code": {"type": "string", "enum": sorted(STATUS)},
            "message": {"type": "string"},
            "retryable": {"type": "boolean"},
        }
    ),
    lambda error: {"error": error.as_dict()},
    STATUS.__getitem__,
)
ASR_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript.",
        "content": {
            **json_content(TRANSCRIPT, EXAMPLE),
            **{media: {"schema": {"type": "string"}} for _, media in TEXT_FORMATS.values()},
        },
    },
    **FAILURES,
}
HEALTH_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Ready.",
        "content": json_content({"type": "object"}, {"status": "ok", "version": __version__}),
    },
    204: {"description": "Starting, if PORT_HEALTH is set."},
    503: {"description": "Starting, or failed.", "content": json_content({"type": "object"}, {"status": "starting"})},
}
