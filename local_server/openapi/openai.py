"""Request and response schemas of OpenAI's audio API, which are shown in `/docs`. Knows no route.

Source: the types of the public `openai` package.
"""

from typing import Any

from handler.schema.options import Options
from local_server.errors import STATUS, openai_error, openai_status
from local_server.openapi.asr import error_responses, error_schema, text_option
from local_server.routers.openai_request import FORMATS, OPTION_FIELDS

_ERROR = error_schema(
    {
        "message": {"type": "string"},
        "type": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "code": {"type": "string", "enum": sorted({*STATUS, "invalid_api_key"})},
    }
)
_SECONDS = {"type": "number", "description": "Seconds."}
_WORD = {
    "type": "object",
    "required": ["word", "start", "end"],
    "properties": {"word": {"type": "string"}, "start": _SECONDS, "end": _SECONDS},
}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_SEGMENT = {
    "type": "object",
    "required": ["id", "seek", "start", "end", "text", "tokens"],
    "properties": {
        "id": _INTEGER,
        "seek": _INTEGER,
        "start": _SECONDS,
        "end": _SECONDS,
        "text": {"type": "string"},
        "tokens": {"type": "array", "items": _INTEGER},
        "temperature": _NUMBER,
        "avg_logprob": _NUMBER,
        "compression_ratio": _NUMBER,
        "no_speech_prob": _NUMBER,
        "speaker": {"type": "string", "description": "Who says it, with `diarize`."},
    },
}
_DIARIZED_SEGMENT = {
    "type": "object",
    "required": ["type", "id", "start", "end", "text", "speaker"],
    "properties": {
        "type": {"const": "transcript.text.segment"},
        "id": {"type": "string"},
        "start": _SECONDS,
        "end": _SECONDS,
        "text": {"type": "string"},
        "speaker": {"type": "string", "description": "A, B, …; `?` where nobody is heard."},
    },
}
_LOGPROB = {
    "type": "object",
    "required": ["token", "logprob", "bytes"],
    "properties": {
        "token": {"type": "string", "description": "The text of a token."},
        "logprob": {"type": "number"},
        "bytes": {"type": "array", "items": {"type": "integer"}},
    },
}
_TEXT = {
    "type": "object",
    "required": ["text", "usage"],
    "properties": {
        "text": {"type": "string"},
        "usage": {
            "type": "object",
            "required": ["type", "seconds"],
            "properties": {"type": {"const": "duration"}, "seconds": {"type": "number"}},
        },
        "task": {"type": "string", "description": "With verbose_json and diarized_json."},
        "language": {"type": "string", "description": "With verbose_json: English name of the language."},
        "duration": {"type": "number", "description": "With verbose_json and diarized_json: seconds of audio."},
        "segments": {
            "type": "array",
            "items": {"anyOf": [_SEGMENT, _DIARIZED_SEGMENT]},
            "description": "With verbose_json, or with diarized_json.",
        },
        "words": {
            "type": "array",
            "items": _WORD,
            "description": "With verbose_json and timestamp_granularities word.",
        },
        "logprobs": {"type": "array", "items": _LOGPROB, "description": "With include logprobs: one entry per token."},
    },
}
_EXAMPLE = {"text": "The quick brown fox jumps over the lazy dog.", "usage": {"type": "duration", "seconds": 3}}
_STRING = {"type": "string"}
_FIELDS: dict[str, Any] = {
    "file": {"type": "string", "format": "binary", "description": "An audio or video file."},
    "url": {
        "type": "string",
        "description": "Instead of file: an http, https or s3 URL. An extension of OpenAI's API.",
    },
    "model": {
        "type": "string",
        "description": "The loaded model's id, or one of MODEL_ALIASES.",
        "examples": ["whisper-1"],
    },
    "prompt": {
        "type": "string",
        "description": "Text assumed to precede every window, to guide names, spelling and style.",
    },
    "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
    "temperature": text_option({"type": "number", "minimum": 0, "maximum": 1, "default": 0}),
    **{name: text_option(Options.json_schema()[name]) for name in OPTION_FIELDS},
    "vad_filter": text_option(
        {"type": "boolean", "description": "The option vad, under the name that Speaches has for it."}
    ),
}
_TRANSCRIPTION_FIELDS: dict[str, Any] = {
    "language": {
        "type": "string",
        "description": "A code, a tag or an English name. If not given, the language is detected.",
        "examples": ["en"],
    },
    "languages": {
        "type": "array",
        "items": _STRING,
        "description": "Languages of which one is spoken: it is detected among these.",
    },
    "keywords": {"type": "array", "items": _STRING, "description": "Names and terms that may occur."},
    "timestamp_granularities": {"type": "array", "items": {"type": "string", "enum": ["segment", "word"]}},
    "include": {
        "type": "array",
        "items": {"type": "string", "enum": ["logprobs"]},
        "description": "With json: the log-probability of each token.",
    },
    "stream": text_option(
        {
            "type": "boolean",
            "default": False,
            "description": "With json and text: respond with server-sent events.",
        }
    ),
    "chunking_strategy": {
        "oneOf": [
            {"type": "string", "enum": ["auto"]},
            {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"type": "string", "enum": ["server_vad"]}},
                "additionalProperties": False,
            },
        ],
        "description": "Accepted for compatibility; speech is detected unless vad is false.",
    },
}
_CAPABILITIES: dict[str, dict[str, Any]] = {
    "languages": {"type": "array", "items": _STRING, "description": "Codes; empty if the checkpoint does not say."},
    "tells_language": {"type": "boolean", "description": "It finds out the language if the request names none."},
    "detects_language": {"type": "boolean", "description": "It can do so without decoding a text."},
    "needs_language": {"type": "boolean", "description": "Each request must name the language."},
    "translates": {"type": "boolean", "description": "It can translate into English."},
    "prompt": {"type": "boolean", "description": "It reads a text before the audio."},
    "hotwords": {"type": "boolean", "description": "It takes words that may be said."},
    "word_times": {"type": "boolean", "description": "Words have times and probabilities."},
    "token_logprobs": {"type": "boolean", "description": "Tokens have log-probabilities."},
    "sampling": {"type": "boolean", "description": "It decodes at temperatures, and again where thresholds say so."},
    "beam_search": {"type": "boolean", "description": "It takes a `beam_size`."},
    "diarization": {"type": "boolean", "description": "Speakers are told apart, with `diarize`."},
    "live_diarization": {"type": "boolean", "description": "The same while they speak, in live sessions."},
    "known_speakers": {"type": "boolean", "description": "They are compared with `known_speaker_references`."},
    "text_tokens": {"type": "integer", "description": "Number of tokens that `suppress_tokens` may name."},
    "longest_window_s": {"type": "number", "description": "Longest audio that it hears as a whole, seconds."},
}
_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": _STRING,
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": _STRING,
        "root": {"type": "string", "description": "The model that is loaded, whatever alias it is asked for by."},
        "capabilities": {
            "type": "object",
            "description": "What the model can do; there once it is loaded. Other options are refused by name.",
            "required": list(_CAPABILITIES),
            "properties": _CAPABILITIES,
            "additionalProperties": False,
        },
    },
}


def _form(fields: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["file", "model"], "properties": fields, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


TRANSCRIPTION_REQUEST = _form({**_FIELDS, **_TRANSCRIPTION_FIELDS})
TRANSLATION_REQUEST = _form(_FIELDS)
FAILURES = error_responses(_ERROR, openai_error, openai_status)
TRANSCRIPTION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text.",
        "content": {
            "application/json": {"schema": _TEXT, "example": _EXAMPLE},
            "text/plain": {"schema": _STRING},
            "application/x-subrip": {"schema": _STRING},
            "text/vtt": {"schema": _STRING},
            "text/event-stream": {"schema": _STRING},
        },
    },
    **FAILURES,
}
MODELS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One model, or all.",
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        _MODEL,
                        {
                            "type": "object",
                            "required": ["object", "data"],
                            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}},
                        },
                    ]
                }
            }
        },
    },
    **FAILURES,
}
