"""The routes of OpenAI's audio API: transcriptions, translations and models. Knows nothing of decoding.

Source: platform.openai.com/docs/api-reference/audio; the types of the public `openai` package.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from handler.audio.source import AudioSource
from handler.errors import AsrError, InvalidRequest
from handler.languages import LANGUAGES
from handler.output.formats import TEXT_FORMATS, diarized, render, verbose
from handler.output.json_encoding import encode_json
from handler.schema.model_names import check_model
from handler.schema.transcript import Progress, Transcript, text_of
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from handler.transcription.transcript_stream import TranscriptStream
from handler.transcription.word_edits import all_words
from local_server.errors import openai_error
from local_server.openai_entries import TokenBytes, logprob_entries, usage_of, word_entries
from local_server.openapi.openai import (
    MODELS_RESPONSES,
    TRANSCRIPTION_REQUEST,
    TRANSCRIPTION_RESPONSES,
    TRANSLATION_REQUEST,
)
from local_server.routers.openai_request import DIARIZED, OpenAIRequest, parse_openai_request
from local_server.state import ServerState
from local_server.streaming import event, stream_events
from local_server.uploads.early_start import start_early
from local_server.uploads.raw_samples import options_of_type
from local_server.uploads.request_body import RequestBody, receive_body

CREATED_S = int(time.time())  # Unix time of this process's start, reported as the creation time of the model


def add_openai(app: FastAPI, state: ServerState) -> None:
    """Add the routes of OpenAI's audio API to an application."""
    settings = state.settings

    @app.post("/v1/audio/transcriptions", openapi_extra=TRANSCRIPTION_REQUEST, responses=TRANSCRIPTION_RESPONSES)
    async def transcriptions(request: Request) -> Response:
        """Transcribe a file as OpenAI's API does. As an extension, `url` may be given instead of `file`."""
        return await _respond(request, state, "transcribe")

    @app.post("/v1/audio/translations", openapi_extra=TRANSLATION_REQUEST, responses=TRANSCRIPTION_RESPONSES)
    async def translations(request: Request) -> Response:
        """Translate the speech in a file into English text, as OpenAI's API does."""
        return await _respond(request, state, "translate")

    @app.get("/v1/models", responses=MODELS_RESPONSES)
    async def models() -> Response:
        """List the loaded model, once under its own id and once under each of its aliases."""
        names = (settings.model_id, *settings.model_aliases)
        return JSONResponse({"object": "list", "data": [_model(name, state.pipeline) for name in names]})

    @app.get("/v1/models/{name:path}", responses=MODELS_RESPONSES)
    async def model(name: str) -> Response:
        """Describe the loaded model, which may be named by its id or by an alias."""
        check_model(name, settings.model_id, settings.model_aliases)
        return JSONResponse(_model(name, state.pipeline))


def _model(name: str, pipeline: Pipeline | None) -> dict[str, Any]:
    """Return a model's entry, with what the model can do as soon as it is loaded."""
    entry = {"id": name, "object": "model", "created": CREATED_S, "owned_by": "asr-handler"}
    if pipeline is None:
        return entry
    return entry | {"root": pipeline.model_id, "capabilities": pipeline.capabilities.as_dict()}


async def _respond(request: Request, state: ServerState, task: str) -> Response:
    pipeline, settings = state.require_pipeline(), state.settings
    token_bytes, headers = pipeline.token_bytes, _headers(settings)
    async with receive_body(request, pipeline, settings) as body:

        async def start(work: AsyncExitStack) -> tuple[TranscriptStream | Transcript, OpenAIRequest]:
            source, fields = _split_source(body)
            openai_request = parse_openai_request(fields, task, settings)
            openai_request.check(pipeline.capabilities, settings.model_id)
            request.scope["asr_kind"] = "url" if source.url else "file"
            if openai_request.stream:
                stream = pipeline.stream(source, openai_request.options, place=body.place)
                work.push_async_callback(stream.aclose)
                return stream, openai_request
            return await pipeline.transcribe(source, openai_request.options, place=body.place), openai_request

        result, openai_request = await start_early(body, start)
        if not isinstance(result, Transcript):
            events = _events(result, openai_request, token_bytes)
            return await stream_events(body, events, _error_event, headers)
    content, media_type = await asyncio.to_thread(_content, result, openai_request, token_bytes)
    return Response(content, media_type=media_type, headers=headers)


def _headers(settings: Settings) -> dict[str, str]:
    return {"X-Model-ID": settings.model_id.encode("ascii", "backslashreplace").decode()}


def _split_source(body: RequestBody) -> tuple[AudioSource, list[tuple[str, str]]]:
    """Return the audio source of a form, and all fields that do not name the source. Raises InvalidRequest.

    If the file's content type is one of samples without a header, the fields include what it says about them.
    """
    form = body.form
    if form is None:
        raise InvalidRequest("the body must be multipart/form-data with one part named file, or with url")
    urls = [value for name, value in form.fields if name == "url"]
    if form.has_file == bool(urls) or len(urls) > 1:
        raise InvalidRequest("file must be there, as a file with a name, or url instead of it", "file")
    source = AudioSource(url=urls[0]) if urls else AudioSource(growing=body.spool)
    fields = [(name, value) for name, value in form.fields if name != "url"]
    of_type = options_of_type(form.file_type)
    return source, fields + [(name, of_type[name]) for name in of_type.keys() - dict(fields).keys()]


def _content(transcript: Transcript, openai_request: OpenAIRequest, token_bytes: TokenBytes) -> tuple[str, str]:
    """Return the body of the response, and its media type."""
    if openai_request.format in TEXT_FORMATS:
        return str(render(transcript, openai_request.format)), TEXT_FORMATS[openai_request.format][1]
    content: dict[str, Any] = {"text": transcript.text, "usage": usage_of(transcript.duration)}
    if openai_request.format == DIARIZED:
        duration = round(transcript.duration, 3)
        content = {"task": "transcribe", "duration": duration, **content, "segments": diarized(transcript)}
    if openai_request.format == "verbose_json":
        content = _verbose_content(transcript, openai_request, content)
    if openai_request.logprobs:
        content["logprobs"] = logprob_entries(all_words(transcript.segments), token_bytes)
    return encode_json(content).decode(), "application/json"


def _verbose_content(transcript: Transcript, openai_request: OpenAIRequest, content: dict[str, Any]) -> dict[str, Any]:
    """Return `content` with the additional fields of a `verbose_json` response."""
    language = transcript.language or ""
    content = {
        "task": openai_request.options.task,
        "language": LANGUAGES.get(language, language),
        **content,
        "duration": round(transcript.duration, 3),
    }
    if "segment" in openai_request.granularities:
        content["segments"] = [
            {"seek": round(segment.start * 100), **verbose(index, segment)}
            for index, segment in enumerate(transcript.segments)
        ]
    if "word" in openai_request.granularities:
        content["words"] = word_entries(all_words(transcript.segments))
    return content


async def _events(
    stream: TranscriptStream, openai_request: OpenAIRequest, token_bytes: TokenBytes
) -> AsyncGenerator[str]:
    """Yield `transcript.text.delta` events for text that can no longer change, then a `transcript.text.done` event.

    Who said what is known at the end: with diarized_json, a `transcript.text.segment` event for each segment comes
    then.
    """
    has_text = False
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, Transcript):
                if openai_request.format == DIARIZED:
                    for segment in diarized(item):
                        yield event(segment)
                yield await asyncio.to_thread(_done_event, item, openai_request, token_bytes)
            elif item.final_segments:
                yield _delta_event(item, openai_request, token_bytes, is_first=not has_text)
                has_text = has_text or bool(text_of(item.final_segments))


def _delta_event(progress: Progress, openai_request: OpenAIRequest, token_bytes: TokenBytes, *, is_first: bool) -> str:
    text = "".join(segment.text for segment in progress.final_segments)
    delta = text.lstrip() if is_first else text
    content: dict[str, Any] = {"type": "transcript.text.delta", "delta": delta}
    if openai_request.logprobs:
        content["logprobs"] = logprob_entries(all_words(progress.final_segments), token_bytes)
    return event(content)


def _done_event(transcript: Transcript, openai_request: OpenAIRequest, token_bytes: TokenBytes) -> str:
    content: dict[str, Any] = {
        "type": "transcript.text.done",
        "text": transcript.text,
        "usage": usage_of(transcript.duration),
    }
    if openai_request.logprobs:
        content["logprobs"] = logprob_entries(all_words(transcript.segments), token_bytes)
    return event(content)


def _error_event(error: AsrError) -> str:
    return event(openai_error(error))
