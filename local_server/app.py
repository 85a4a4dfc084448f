"""The HTTP door's routes: `/hc`, `/asr` and `/docs` over one pipeline. Knows nothing of decoding; never blocks its event loop."""

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from handler import __version__, logs
from handler.errors import AsrError, Cancelled, Internal, InvalidRequest
from handler.formats import TEXTS, render
from handler.schema import Transcript
from handler.settings import Settings
from local_server.body import drain, parsed
from local_server.errors import error_response
from local_server.front import House
from local_server.openapi import ASR_REQUEST, ASR_RESPONSES, HEALTH_RESPONSES

_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def make_app(house: House) -> FastAPI:
    """The application with every route; the life of the pipeline is somebody else's."""
    settings = house.settings
    app = FastAPI(title="asr-handler", version=__version__, description="Speech to text.")
    app.add_exception_handler(AsrError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(ClientDisconnect, _on_left)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_crash)

    @app.get("/hc", responses=HEALTH_RESPONSES)
    async def health() -> Response:
        """Whether the server can take work."""  # behind a Front that answers it itself, this tells /docs of it
        status, content = house.health()
        return Response(status_code=status) if content is None else JSONResponse(content, status)

    @app.post("/asr", openapi_extra=ASR_REQUEST, responses=ASR_RESPONSES)
    async def asr(request: Request) -> Response:
        """Transcribe an address, the bytes in the body, or an uploaded file."""
        began = time.perf_counter()
        try:
            pipeline = house.ready()
            pipeline.check_room()
            async with parsed(request, settings.max_bytes) as (source, options):
                transcript = await _while_there(request, pipeline.transcribe(source, options))
        except AsrError:
            await drain(request, settings.max_bytes)
            raise
        except asyncio.CancelledError:  # the server ends, and the time for what is in work is over
            raise Cancelled("the server is shutting down") from None
        headers = _headers(transcript, time.perf_counter() - began, pipeline.engine.device_name, settings)
        body = await asyncio.to_thread(_body, transcript, options.format)
        return Response(body, headers=headers, media_type=TEXTS[options.format][1] if options.format in TEXTS else "application/json")

    return app


def _body(transcript: Transcript, format: str) -> bytes:
    """A transcript as it is sent. JSON is put together item by item: the interpreter does nothing else while it encodes one."""
    rendered = render(transcript, format)
    if isinstance(rendered, str):
        return rendered.encode()
    fields = []
    for name, value in rendered.items():
        shown = f"[{','.join(map(_json, value))}]" if isinstance(value, list) else _json(value)
        fields.append(f"{_json(name)}:{shown}")
    return f"{{{','.join(fields)}}}".encode()


async def _while_there(request: Request, work: Coroutine[Any, Any, Transcript]) -> Transcript:
    """The result of some work, which is cancelled when the client leaves. Raises Cancelled then."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client has left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
    logs.info("request_refused", path=request.url.path, **exc.as_dict())
    return error_response(exc)


async def _on_invalid(request: Request, exc: Any) -> Response:
    return await _on_error(request, InvalidRequest(str(exc.errors()[0].get("msg", "the request is malformed"))))


async def _on_left(request: Request, _: Any) -> Response:
    return await _on_error(request, Cancelled("the client has left"))


async def _on_http(request: Request, exc: Any) -> Response:
    """What the router itself refuses: an unknown path, a wrong method."""
    body = InvalidRequest(f"{request.method} {request.url.path}: {exc.detail}").as_dict()
    return JSONResponse({"error": body}, exc.status_code, exc.headers)


async def _on_crash(request: Request, exc: Exception) -> Response:
    """The server logs it, with its traceback."""
    return error_response(Internal(f"a fault of this server: {type(exc).__name__}"))
