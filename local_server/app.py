"""The HTTP door's routes: `/hc`, `/asr` and `/docs` over one pipeline. Knows nothing of decoding; never blocks its event loop."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST as METRICS_TYPE
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from handler import __version__, logs
from handler.errors import AsrError, Internal, InvalidRequest
from handler.formats import TEXTS, chunk, render, to_object
from handler.schema import Options, Transcript
from handler.sendable import encoded
from handler.settings import Settings
from local_server.body import asked, in_work
from local_server.errors import error_response
from local_server.front import Asgi, House
from local_server.gate import Gate
from local_server.linger import Linger
from local_server.metrics import Metrics
from local_server.openai_api import add_openai
from local_server.openapi import ASR_REQUEST, ASR_RESPONSES, HEALTH_RESPONSES
from local_server.sse import Told, event, response, told
from local_server.web_page import add_page


def make_app(house: House) -> Asgi:
    """The application with every route, behind its gate; the life of the pipeline is somebody else's."""
    settings, metrics = house.settings, Metrics(house)
    if not settings.api_keys:
        logs.warning("server_is_open", expected="API_KEY, where others can reach this server")
    app: Asgi = Linger(Gate(_routes(house, metrics), settings.api_keys, metrics))
    if settings.cors_origins:
        app = CORSMiddleware(
            app, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=["*"]
        )
    return app


def _routes(house: House, metrics: Metrics) -> FastAPI:
    settings = house.settings
    app = FastAPI(title="asr-handler", version=__version__, description="Speech to text.")
    app.add_exception_handler(AsrError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_crash)

    @app.get("/hc", responses=HEALTH_RESPONSES)
    async def health() -> Response:
        """Whether the server can take work."""  # behind a Front that answers it itself, this tells /docs of it
        status, content = house.health()
        return Response(status_code=status) if content is None else JSONResponse(content, status)

    @app.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(await asyncio.to_thread(metrics.text), media_type=METRICS_TYPE)

    add_openai(app, house)
    add_page(app)

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

    return app


async def _events(found: Told, options: Options) -> AsyncGenerator[str]:
    """`progress` with the text that was settled since the last one, and `done` with the whole answer."""
    async with aclosing(found):
        async for one in found:
            if isinstance(one, Transcript):
                yield await asyncio.to_thread(_done, one, options)
            else:
                chunks = [chunk(segment, options) for segment in one.settled]
                text = "".join(segment.text for segment in one.settled)
                yield event({"done_s": round(one.done_s, 3), "total_s": one.total_s, "text": text, "chunks": chunks}, "progress")


def _done(transcript: Transcript, options: Options) -> str:
    return event(to_object(transcript, options.format), "done")


def _failure(exc: AsrError) -> str:
    return event({"error": exc.as_dict()}, "error")


def _body(transcript: Transcript, format: str) -> bytes:
    rendered = render(transcript, format)
    return rendered.encode() if isinstance(rendered, str) else encoded(rendered)


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


async def _on_error(request: Request, exc: Any) -> Response:
    request.scope["asr_code"] = exc.code
    logs.info("request_refused", id=request.scope.get("asr_request_id"), path=request.url.path, **exc.as_dict())
    return error_response(exc, request.url.path)


async def _on_invalid(request: Request, exc: Any) -> Response:
    return await _on_error(request, InvalidRequest(str(exc.errors()[0].get("msg", "the request is malformed"))))


async def _on_http(request: Request, exc: Any) -> Response:
    """What the router itself refuses: an unknown path, a wrong method."""
    refused = error_response(InvalidRequest(f"{request.method} {request.url.path}: {exc.detail}"), request.url.path)
    refused.status_code = exc.status_code
    refused.headers.update(exc.headers or {})
    return refused


async def _on_crash(request: Request, exc: Exception) -> Response:
    """The server logs it, with its traceback."""
    return error_response(Internal(f"a fault of this server: {type(exc).__name__}"), request.url.path)
