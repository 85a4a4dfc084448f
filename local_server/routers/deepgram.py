"""The route of Deepgram's API: `/v1/listen`, live and for files. Knows nothing of decoding.

Source: developers.deepgram.com/reference.
"""

import asyncio
import json
from contextlib import AsyncExitStack

from fastapi import FastAPI, Request, Response
from starlette.websockets import WebSocket

from handler.audio.source import AudioSource
from handler.errors import AsrError, InvalidRequest
from handler.output.json_encoding import encode_json
from handler.schema.transcript import Transcript
from handler.validators import check, string
from local_server.errors import DEEPGRAM_PATH
from local_server.live.deepgram_options import ListenRequest, parse_listen
from local_server.live.deepgram_results import file_response
from local_server.live.deepgram_session import DeepgramSession
from local_server.live.live_sessions import LiveSessions
from local_server.openapi.deepgram import LISTEN_REQUEST, LISTEN_RESPONSES
from local_server.routers.live_socket import carry_session, refuse_session
from local_server.state import ServerState
from local_server.uploads.early_start import start_early
from local_server.uploads.request_body import JSON, RequestBody, receive_body


def add_deepgram(app: FastAPI, state: ServerState, sessions: LiveSessions) -> None:
    """Add the routes of Deepgram's API to an application."""

    @app.post(DEEPGRAM_PATH, openapi_extra=LISTEN_REQUEST, responses=LISTEN_RESPONSES)
    async def listen_to_file(request: Request) -> Response:
        """Transcribe a file as Deepgram's API does: the body is audio, or JSON with `url`."""
        return await _respond(request, state)

    @app.websocket(DEEPGRAM_PATH)
    async def listen(websocket: WebSocket) -> None:
        """Transcribe speech while it is spoken, as Deepgram's API does."""
        try:
            pipeline = state.require_pipeline()
            request = parse_listen(websocket.query_params.multi_items(), state.settings, is_live=True)
            pipeline.check_live(request.options)
            sessions.check_room()
        except AsrError as exc:
            await refuse_session(websocket, exc)
            return
        session = DeepgramSession(pipeline, state.settings, request, sessions.latency)
        sessions.add(session)
        headers = [(b"dg-request-id", session.id.encode())]
        await carry_session(websocket, session, sessions, state.settings, headers=headers)


async def _respond(request: Request, state: ServerState) -> Response:
    pipeline, settings = state.require_pipeline(), state.settings
    async with receive_body(request, pipeline, settings) as body:

        async def start(_: AsyncExitStack) -> tuple[Transcript, ListenRequest]:
            listen_request = parse_listen(request.query_params.multi_items(), settings, is_live=False)
            source = await _source(body)
            request.scope["asr_kind"] = "url" if source.url else "file"
            transcript = await pipeline.transcribe(source, listen_request.options, place=body.place)
            return transcript, listen_request

        transcript, listen_request = await start_early(body, start)
    request_id = request.scope["asr_request_id"]
    content = await asyncio.to_thread(lambda: encode_json(file_response(transcript, listen_request, request_id)))
    return Response(content, media_type=JSON, headers={"dg-request-id": request_id})


async def _source(body: RequestBody) -> AudioSource:
    """Return the audio of a request. Raises InvalidRequest."""
    if body.media_type != JSON:
        return AudioSource(growing=body.spool)
    try:
        content = json.loads(await body.read_all())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or set(content) != {"url"}:
        raise InvalidRequest("the body must be audio, or a JSON object with nothing but url", "url")
    return AudioSource(url=check("url", content["url"], string))
