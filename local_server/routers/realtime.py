"""The routes of OpenAI's realtime API for transcription sessions. Knows nothing of decoding.

Source: platform.openai.com/docs/guides/realtime-transcription.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocket

from handler.errors import AsrError, Cancelled, DeadlineExceeded, InvalidRequest, SessionNotFound
from handler.schema.model_names import check_model
from handler.validators import check, integer, one_of, short_repr
from local_server.live.client_secrets import DEFAULT_LIFE_S, MAX_LIFE_S, MIN_LIFE_S, ClientSecrets
from local_server.live.keys import key_of
from local_server.live.live_sessions import LiveSessions
from local_server.live.realtime_config import DIARIZING, RealtimeConfig
from local_server.live.realtime_errors import RefusedEvent
from local_server.live.realtime_session import RealtimeSession
from local_server.openapi.realtime import SECRET_REQUEST, SECRET_RESPONSES
from local_server.routers.live_socket import carry_session, refuse_session
from local_server.state import ServerState

QUERY = ("intent", "model", "session", "last_event_id")
MAX_BODY_BYTES, BODY_S = 64 * 1024, 10.0


def add_realtime(app: FastAPI, state: ServerState, sessions: LiveSessions, client_secrets: ClientSecrets) -> None:
    """Add the routes of live sessions to an application."""

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        """Transcribe speech while it is spoken, as OpenAI's realtime API does."""
        try:
            session, greeting = await _open(websocket, state, sessions, client_secrets)
        except AsrError as exc:
            await refuse_session(websocket, exc)
            return
        await carry_session(websocket, session, sessions, state.settings, greeting)

    @app.post("/v1/realtime/client_secrets", openapi_extra=SECRET_REQUEST, responses=SECRET_RESPONSES)
    async def create_client_secret(request: Request) -> Response:
        """Return a key for live sessions that expires soon, for a page that must not hold the server's own key."""
        pipeline = state.require_pipeline()
        body = await _read_json(request)
        unknown = next((name for name in body if name not in ("expires_after", "session")), None)
        if unknown is not None:
            raise InvalidRequest(f"{unknown[:60]} is not known here; expected expires_after, session", unknown[:60])
        config = RealtimeConfig()
        if body.get("session") is not None:
            try:
                config = config.updated(body["session"], state.settings, pipeline)
            except RefusedEvent as exc:
                raise InvalidRequest(exc.message, exc.param) from None
        secret = client_secrets.create(config, _life_s(body.get("expires_after")))
        session = config.as_dict(pipeline.model_id)
        return JSONResponse({"value": secret.value, "expires_at": round(secret.expires_at), "session": session})


async def _open(
    websocket: WebSocket, state: ServerState, sessions: LiveSessions, client_secrets: ClientSecrets
) -> tuple[RealtimeSession, str | None]:
    """Return the session that a client asks for, and for one that is resumed its first event. Raises AsrError."""
    pipeline, query = state.require_pipeline(), websocket.query_params
    for name in query:
        if name not in QUERY:
            raise InvalidRequest(f"{short_repr(name)} is not known here; expected one of {', '.join(QUERY)}", name[:60])
    if "intent" in query:
        check("intent", query["intent"], one_of(("transcription",)))
    if "model" in query:
        check_model(query["model"], state.settings.model_id, state.settings.model_aliases)
    if "session" in query:
        session = await sessions.resume(query["session"], RealtimeSession)
        if session is None:
            raise SessionNotFound("expected the id of a session whose connection was cut a short while ago", "session")
        try:
            return session, session.resume(query.get("last_event_id"))
        except BaseException:
            sessions.cut(session)
            raise
    if "last_event_id" in query:
        raise InvalidRequest("last_event_id must come with session", "last_event_id")
    sessions.check_room()
    key = key_of(dict(websocket.headers.raw), websocket.scope["subprotocols"]).decode("latin-1")
    secret = client_secrets.find(key)
    config = RealtimeConfig() if secret is None else secret.config
    if secret is None and query.get("model") == DIARIZING:
        config = RealtimeConfig(transcription={"model": DIARIZING})
        pipeline.check_live(config.live().options)
    session = RealtimeSession(pipeline, state.settings, config, sessions.latency)
    sessions.add(session)
    session.tell_created()
    return session, None


async def _read_json(request: Request) -> Mapping[str, Any]:
    """Return the JSON object of a body, which may be empty. Raises InvalidRequest."""
    raw = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                raw += piece
                if len(raw) > MAX_BODY_BYTES:
                    raise InvalidRequest(f"the body must be a JSON object of at most {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise DeadlineExceeded(f"expected the whole body within {BODY_S:g} s") from None
    except ClientDisconnect:
        raise Cancelled("the client has left") from None
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InvalidRequest(f"the body must be a JSON object; got {short_repr(raw)}")
    return body


def _life_s(value: object) -> float:
    """Return for how many seconds a key is to live. Raises InvalidRequest."""
    if value is None:
        return DEFAULT_LIFE_S
    if not isinstance(value, dict) or value.get("anchor", "created_at") != "created_at":
        expected = "an object with anchor created_at, and seconds"
        raise InvalidRequest(f"expires_after must be {expected}; got {short_repr(value)}", "expires_after")
    seconds = value.get("seconds", DEFAULT_LIFE_S)
    return check("expires_after.seconds", seconds, integer(MIN_LIFE_S, MAX_LIFE_S))
