"""OpenAI's audio API over the same pipeline: transcriptions, translations, models. Knows nothing of decoding.

Every field of the specification is honoured or refused by its name. Source: platform.openai.com/docs/api-reference/audio; the
types of the public `openai` package.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.languages import LANGUAGES
from handler.output.formats import TEXTS, render, verbose
from handler.output.json_encoding import encode_json
from handler.schema.model_names import check_model
from handler.schema.options import Options
from handler.schema.transcript import Segment, Transcript, text_of
from handler.settings import Settings
from handler.validators import boolean, number, one_of
from local_server.errors import openai_error
from local_server.openapi.openai import MODELS_RESPONSES, TRANSCRIPTION_REQUEST, TRANSCRIPTION_RESPONSES, TRANSLATION_REQUEST
from local_server.state import ServerState
from local_server.streaming import Told, event, response, told
from local_server.uploads.request_body import RequestBody, in_work

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment", "word")
STARTED = int(time.time())
Spelled = Callable[[int], bytes]  # the bytes that a token stands for
_REFUSED = {
    "known_speaker_names": "speakers are not told apart here",
    "known_speaker_references": "speakers are not told apart here",
}
_ARRAYS = ("include", "timestamp_granularities", "languages", "keywords", *_REFUSED)
_TRANSLATION = {"file", "url", "model", "prompt", "response_format", "temperature"}
_TRANSCRIPTION = _TRANSLATION | {"language", "stream", "chunking_strategy", *_ARRAYS}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants, in OpenAI's terms."""

    options: Options
    format: str  # one of FORMATS
    granularities: tuple[str, ...]
    stream: bool
    logprobs: bool  # of tokens


def add_openai(app: FastAPI, house: ServerState) -> None:
    """Add the routes."""
    settings = house.settings

    @app.post("/v1/audio/transcriptions", openapi_extra=TRANSCRIPTION_REQUEST, responses=TRANSCRIPTION_RESPONSES)
    async def transcriptions(request: Request) -> Response:
        """Transcribe a file, as OpenAI's API does; `url` instead of `file` is an extension."""
        return await _answer(request, house, "transcribe")

    @app.post("/v1/audio/translations", openapi_extra=TRANSLATION_REQUEST, responses=TRANSCRIPTION_RESPONSES)
    async def translations(request: Request) -> Response:
        """Translate a file into English, as OpenAI's API does."""
        return await _answer(request, house, "translate")

    @app.get("/v1/models", responses=MODELS_RESPONSES)
    async def models() -> Response:
        """The loaded model, under its own id and its aliases."""
        return JSONResponse({"object": "list", "data": [_model(name) for name in (settings.model_id, *settings.model_aliases)]})

    @app.get("/v1/models/{name:path}", responses=MODELS_RESPONSES)
    async def model(name: str) -> Response:
        """One of them."""
        check_model(name, settings.model_id, settings.model_aliases)
        return JSONResponse(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "asr-handler"}


async def _answer(request: Request, house: ServerState, task: str) -> Response:
    pipeline, settings = house.ready(), house.settings
    spelled = pipeline.engine.spelled
    async with in_work(request, pipeline, settings) as (incoming, stack):

        async def begin(held: AsyncExitStack) -> tuple[Told | Transcript, Asked]:
            source, fields = _source(incoming)
            asked = parse(fields, task, settings)
            request.scope["asr_kind"] = "url" if source.url else "file"
            if asked.stream:
                return told(pipeline, source, asked.options, held), asked
            return await pipeline.transcribe(source, asked.options), asked

        found, asked = await incoming.begun(begin)
        if not isinstance(found, Transcript):
            return await response(incoming, _events(found, asked, spelled), stack, lambda exc: event(openai_error(exc)), _headers(settings))
    body, media_type = await asyncio.to_thread(_body, found, asked, spelled)
    return Response(body, media_type=media_type, headers=_headers(settings))


def _headers(settings: Settings) -> dict[str, str]:
    return {"X-Model-ID": settings.model_id.encode("ascii", "backslashreplace").decode()}


def _source(incoming: RequestBody) -> tuple[AudioSource, list[tuple[str, str]]]:
    if incoming.form is None:
        raise InvalidRequest("the body must be multipart/form-data with one part named file, or with url")
    urls = [value for name, value in incoming.form.fields if name == "url"]
    if incoming.form.has_file == bool(urls) or len(urls) > 1:
        raise InvalidRequest("file must be there, as a file with a name, or url instead of it", "file")
    source = AudioSource(url=urls[0]) if urls else AudioSource(growing=incoming.spool)
    return source, [pair for pair in incoming.form.fields if pair[0] != "url"]


def parse(fields: Sequence[tuple[str, str]], task: str, settings: Settings) -> Asked:
    """The fields of a form, arrays with and without []. Raises InvalidRequest, ModelNotFound."""
    known = _TRANSCRIPTION if task == "transcribe" else _TRANSLATION
    given: dict[str, Any] = {}
    strategy: dict[str, str] = {}
    for name, value in fields:
        plain = name.removesuffix("[]")
        if name.startswith("chunking_strategy[") and task == "transcribe":
            strategy[name.removeprefix("chunking_strategy[").removesuffix("]")] = value
            given["chunking_strategy"] = strategy
            continue
        if plain not in known:
            raise InvalidRequest(f"{name[:60]} is not known here; expected one of {', '.join(sorted(known))}")
        if plain in _ARRAYS:
            given.setdefault(plain, []).extend(_items(value))
        elif plain in given or plain != name:
            raise InvalidRequest(f"{plain} must be given once", plain)
        else:
            given[plain] = value
    if "model" not in given:
        raise InvalidRequest(f"model must be there: {settings.model_id}, or one of {', '.join(settings.model_aliases)}", "model")
    check_model(given["model"], settings.model_id, settings.model_aliases)
    for name, why in _REFUSED.items():
        if given.get(name):
            raise InvalidRequest(f"{name} must not be set: {why}", name)
    format = one_of(FORMATS)("response_format", given.get("response_format") or "json")
    granularities = tuple(one_of(GRANULARITIES)("timestamp_granularities", one) for one in given.get("timestamp_granularities", ()))
    if granularities and format != "verbose_json":
        raise InvalidRequest("timestamp_granularities must come with response_format verbose_json", "timestamp_granularities")
    include = [one_of(("logprobs",))("include", one) for one in given.get("include", ())]
    if include and format != "json":
        raise InvalidRequest("include must come with response_format json", "include")
    stream = boolean("stream", given.get("stream") or "false")
    if stream and format not in ("json", "text"):
        raise InvalidRequest("stream must come with response_format json or text", "stream")
    return Asked(_options(given, task), format, granularities or ("segment",), stream, bool(include))


def _items(value: str) -> list[str]:
    """The items of a field of an array: one a field, or all of them as JSON."""
    if value.startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
        return [str(item) for item in found]
    return [value] if value else []


def _options(given: Mapping[str, Any], task: str) -> Options:
    languages = [*given.get("languages", ()), *([given["language"]] if given.get("language") else [])]
    if len(set(languages)) > 1:
        raise InvalidRequest("languages must name one language at most; without any, it is found out", "languages")
    return Options.parse(
        {
            "task": task,
            "language": languages[0] if languages else None,
            "prompt": given.get("prompt"),
            "temperature": number(0, 1)("temperature", given["temperature"]) if given.get("temperature") else None,
            "timestamps": "word",
            "hotwords": ", ".join(given.get("keywords", ())),
            "vad": _vad(given.get("chunking_strategy")),
        }
    )


def _vad(strategy: object) -> bool:
    """Speech is always looked for; how it is, is not the request's business."""
    if strategy in (None, "", "auto"):
        return True
    if isinstance(strategy, str):
        try:
            strategy = json.loads(strategy)
        except (ValueError, RecursionError):
            strategy = None
    if strategy == {"type": "server_vad"}:
        return True
    raise InvalidRequest("chunking_strategy must be auto, or server_vad without any of its thresholds", "chunking_strategy")


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _logprobs(segments: Sequence[Segment], spelled: Spelled) -> list[dict[str, Any]]:
    """The tokens of a text. One that is no whole character has the mark that stands for that as its text, but its own bytes."""
    tokens = ((spelled(token), logprob) for segment in segments for word in segment.words for token, logprob in word.tokens)
    return [{"token": raw.decode("utf-8", "replace"), "logprob": round(logprob, 5), "bytes": list(raw)} for raw, logprob in tokens]


def _body(transcript: Transcript, asked: Asked, spelled: Spelled) -> tuple[str, str]:
    """The answer and its media type."""
    if asked.format in TEXTS:
        return str(render(transcript, asked.format)), TEXTS[asked.format][1]
    content: dict[str, Any] = {"text": transcript.text, "usage": _usage(transcript)}
    if asked.format == "verbose_json":
        content = {"task": asked.options.task, "language": LANGUAGES.get(transcript.language or "", transcript.language or ""), **content}
        content["duration"] = round(transcript.duration, 3)
        if "segment" in asked.granularities:
            content["segments"] = [{"seek": round(one.start * 100), **verbose(at, one)} for at, one in enumerate(transcript.segments)]
        if "word" in asked.granularities:
            words = (word for segment in transcript.segments for word in segment.words)
            content["words"] = [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in words]
    if asked.logprobs:
        content["logprobs"] = _logprobs(transcript.segments, spelled)
    return encode_json(content).decode(), "application/json"


def _done(transcript: Transcript, asked: Asked, spelled: Spelled) -> str:
    done = {"type": "transcript.text.done", "text": transcript.text, "usage": _usage(transcript)}
    return event(done | ({"logprobs": _logprobs(transcript.segments, spelled)} if asked.logprobs else {}))


async def _events(found: Told, asked: Asked, spelled: Spelled) -> AsyncGenerator[str]:
    """`transcript.text.delta` as text is settled, and `transcript.text.done`."""
    begun = False
    async with aclosing(found):
        async for one in found:
            if isinstance(one, Transcript):
                yield await asyncio.to_thread(_done, one, asked, spelled)
            elif one.final_segments:
                delta = "".join(segment.text for segment in one.final_segments)
                content = {"type": "transcript.text.delta", "delta": delta if begun else delta.lstrip()}
                begun = begun or bool(text_of(one.final_segments))
                yield event(content | ({"logprobs": _logprobs(one.final_segments, spelled)} if asked.logprobs else {}))
