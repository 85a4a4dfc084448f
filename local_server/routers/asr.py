"""`POST /asr`: transcribe an address, a body or an uploaded file. Knows nothing of decoding."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from fastapi import FastAPI, Request, Response

from handler.errors import AsrError
from handler.output.formats import TEXTS, chunk, render, to_object
from handler.output.json_encoding import encode_json
from handler.schema.options import Options
from handler.schema.transcript import Transcript
from handler.settings import Settings
from local_server.openapi.asr import ASR_REQUEST, ASR_RESPONSES
from local_server.state import ServerState
from local_server.streaming import Told, event, response, told
from local_server.uploads.request_body import asked, in_work


def add_asr(app: FastAPI, house: ServerState) -> None:
    """Add the route."""
    settings = house.settings

    @app.post("/asr", openapi_extra=ASR_REQUEST, responses=ASR_RESPONSES)
    async def asr(request: Request) -> Response:
        """Transcribe an address, the bytes in the body, or an uploaded file."""
        began = time.perf_counter()
        pipeline = house.ready()
        async with in_work(request, pipeline, settings) as (incoming, stack):
            events = "text/event-stream" in request.headers.get("accept", "")

            async def begin(held: AsyncExitStack) -> tuple[Told | Transcript, Options]:
                source, options = await asked(incoming, request.query_params)
                request.scope["asr_kind"] = "url" if source.url else "file"
                if events:
                    return told(pipeline, source, options, held), options
                return await pipeline.transcribe(source, options), options

            found, options = await incoming.begun(begin)
            if not isinstance(found, Transcript):
                return await response(incoming, _events(found, options), stack, _failure, {})
        headers = _headers(found, time.perf_counter() - began, pipeline.engine.device_name, settings)
        body = await asyncio.to_thread(_body, found, options.format)
        return Response(body, headers=headers, media_type=TEXTS[options.format][1] if options.format in TEXTS else "application/json")


async def _events(found: Told, options: Options) -> AsyncGenerator[str]:
    """`progress` with the text that was settled since the last one, and `done` with the whole answer."""
    async with aclosing(found):
        async for one in found:
            if isinstance(one, Transcript):
                yield await asyncio.to_thread(_done, one, options)
            else:
                chunks = [chunk(segment, options) for segment in one.final_segments]
                text = "".join(segment.text for segment in one.final_segments)
                yield event({"done_s": round(one.done_s, 3), "total_s": one.total_s, "text": text, "chunks": chunks}, "progress")


def _done(transcript: Transcript, options: Options) -> str:
    return event(to_object(transcript, options.format), "done")


def _failure(exc: AsrError) -> str:
    return event({"error": exc.as_dict()}, "error")


def _body(transcript: Transcript, format: str) -> bytes:
    rendered = render(transcript, format)
    return rendered.encode() if isinstance(rendered, str) else encode_json(rendered)


def _headers(transcript: Transcript, seconds: float, device: str, settings: Settings) -> dict[str, str]:
    named = {
        "X-Processing-Time": f"{seconds:.4f}",
        "X-Audio-Length": f"{transcript.duration:.3f}",
        "X-Realtime-Factor": f"{transcript.duration / max(seconds, 1e-6):.3f}",
        "X-GPU-Name": device,
        "X-Model-ID": transcript.model,
        "X-Salad-Machine-ID": settings.salad_machine_id,
        "X-Salad-Container-Group-ID": settings.salad_container_group_id,
    }
    return {name: value.encode("ascii", "backslashreplace").decode() for name, value in named.items() if value is not None}
