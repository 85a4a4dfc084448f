"""The route `POST /asr`, which transcribes one audio file. Knows nothing of decoding."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from fastapi import FastAPI, Request, Response

from handler.errors import AsrError
from handler.output.formats import TEXT_FORMATS, chunk, render, to_object
from handler.output.json_encoding import encode_json
from handler.schema.options import Options
from handler.schema.transcript import Progress, Transcript
from handler.settings import Settings
from handler.transcription.transcript_stream import TranscriptStream
from local_server.openapi.asr import ASR_REQUEST, ASR_RESPONSES
from local_server.routers.asr_request import parse_asr_request
from local_server.state import ServerState
from local_server.streaming import event, stream_events
from local_server.uploads.early_start import start_early
from local_server.uploads.fields import join_arrays
from local_server.uploads.request_body import receive_body


def add_asr(app: FastAPI, state: ServerState) -> None:
    """Add the route `POST /asr` to an application."""

    @app.post("/asr", openapi_extra=ASR_REQUEST, responses=ASR_RESPONSES)
    async def asr(request: Request) -> Response:
        """Transcribe audio from a URL, from the request body, or from an uploaded file."""
        return await _respond(request, state)


async def _respond(request: Request, state: ServerState) -> Response:
    start_time = time.perf_counter()
    pipeline, settings = state.require_pipeline(), state.settings
    async with receive_body(request, pipeline, settings) as body:
        wants_events = "text/event-stream" in request.headers.get("accept", "")

        async def start(work: AsyncExitStack) -> tuple[TranscriptStream | Transcript, Options]:
            query = join_arrays(request.query_params.multi_items())
            source, options = await parse_asr_request(body, query)
            request.scope["asr_kind"] = "url" if source.url else "file"
            if wants_events:
                stream = pipeline.stream(source, options, place=body.place)
                work.push_async_callback(stream.aclose)
                return stream, options
            return await pipeline.transcribe(source, options, place=body.place), options

        result, options = await start_early(body, start)
        if not isinstance(result, Transcript):
            return await stream_events(body, _events(result, options), _error_event, {})
    headers = _headers(result, time.perf_counter() - start_time, pipeline.device_name, settings)
    content = await asyncio.to_thread(_content, result, options.format)
    media_type = TEXT_FORMATS[options.format][1] if options.format in TEXT_FORMATS else "application/json"
    return Response(content, headers=headers, media_type=media_type)


async def _events(stream: TranscriptStream, options: Options) -> AsyncGenerator[str]:
    """Yield a `progress` event for each progress item, then a `done` event with the transcript.

    Each `progress` event has the text that has become final since the previous event. Final text can no longer change.
    """
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, Transcript):
                yield await asyncio.to_thread(_done_event, item, options)
            else:
                yield _progress_event(item, options)


def _progress_event(progress: Progress, options: Options) -> str:
    content = {
        "done_s": round(progress.done_s, 3),
        "total_s": progress.total_s,
        "text": "".join(segment.text for segment in progress.final_segments),
        "chunks": [chunk(segment, options, knows_speakers=False) for segment in progress.final_segments],
    }
    return event(content, "progress")


def _done_event(transcript: Transcript, options: Options) -> str:
    return event(to_object(transcript, options.format), "done")


def _error_event(error: AsrError) -> str:
    return event({"error": error.as_dict()}, "error")


def _content(transcript: Transcript, format: str) -> bytes:
    rendered = render(transcript, format)
    return rendered.encode() if isinstance(rendered, str) else encode_json(rendered)


def _headers(transcript: Transcript, seconds: float, device: str, settings: Settings) -> dict[str, str]:
    values = {
        "X-Processing-Time": f"{seconds:.4f}",
        "X-Audio-Length": f"{transcript.duration:.3f}",
        "X-Realtime-Factor": f"{transcript.duration / max(seconds, 1e-6):.3f}",
        "X-GPU-Name": device,
        "X-Model-ID": transcript.model,
        "X-Salad-Machine-ID": settings.salad_machine_id,
        "X-Salad-Container-Group-ID": settings.salad_container_group_id,
    }
    return {
        name: value.encode("ascii", "backslashreplace").decode() for name, value in values.items() if value is not None
    }
