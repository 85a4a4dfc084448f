"""Accept or refuse the WebSocket of a live session, and carry it. Knows no protocol above that."""

from collections.abc import Sequence

from starlette.websockets import WebSocket

from handler import logs
from handler.errors import AsrError, Internal
from handler.settings import Settings
from local_server.errors import error_response
from local_server.live.connection import ConnectedSession, End, serve_session
from local_server.live.keys import accepted_subprotocol
from local_server.live.live_sessions import LiveSessions, log_name


async def refuse_session(websocket: WebSocket, error: AsrError) -> None:
    """Answer a request for a session with an error."""
    websocket.scope["asr_code"] = error.code
    logs.info("session_refused", id=websocket.scope["asr_request_id"], **error.as_dict())
    await websocket.send_denial_response(error_response(error, websocket.url.path))


async def carry_session(
    websocket: WebSocket,
    session: ConnectedSession,
    sessions: LiveSessions,
    settings: Settings,
    greeting: str | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Accept the WebSocket of a session, send `greeting` first if there is one, and carry messages until the end."""
    try:
        await websocket.accept(accepted_subprotocol(websocket.scope["subprotocols"]), headers)
        if greeting is not None:
            await websocket.send_text(greeting)
    except BaseException:  # the client has gone before anything began
        if session.is_resumable:
            sessions.cut(session)
        else:
            sessions.end(session.id)
        raise
    end = await serve_session(websocket, session, sessions, settings)
    if end is End.CRASHED:
        websocket.scope["asr_code"] = Internal.code
    fields = {"id": websocket.scope["asr_request_id"], "session": log_name(session)}
    logs.info("session_disconnected", **fields, reason=end.meaning)
