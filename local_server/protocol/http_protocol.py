"""Read HTTP requests within limits of bytes and seconds: uvicorn's protocol, hardened against hostile clients.

A request head that is too long, too slow or ambiguous is refused with a JSON error, after the responses to all earlier
requests of its connection. Trailers are dropped. Knows no route except `/hc`, which is answered even if there are too
many connections. Limits on time: compare mod_reqtimeout of Apache, and send_timeout and lingering_time of nginx.
"""

from asyncio import BaseTransport, Transport
from collections import deque
from typing import Any, ClassVar, NoReturn, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from handler import logs
from local_server.middleware.security_headers import HEADERS as SECURITY_HEADERS
from local_server.protocol.connections import ConnectionRegistry
from local_server.protocol.flow import HoldableFlowControl, Timers
from local_server.protocol.request_head import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    RefusedRequest,
    check_head,
    head_too_large,
    head_too_slow,
    malformed,
    refusal_bytes,
    too_many_connections,
)

HEAD_S = 10.0  # seconds from the connection, or from the first byte of a later request, to the end of the head
WRITE_STALL_S = 60.0  # seconds after which a client that reads nothing of its response is disconnected
LINGER_S = 2.0  # seconds for which input is discarded after the last response, so that the client receives it
MAX_LINGER_BYTES = 1024**2
MAX_QUEUED_REQUESTS = 64  # pipelined requests of a connection; further ones are parsed after these are answered
PIECE_BYTES = 4096  # largest piece that is parsed at a time, unless it is known to hold no request head
HEALTH_PATH = b"/hc"


class HttpProtocol(HttpToolsProtocol):
    """One connection of a client. `http_protocol` makes the class that uvicorn can use."""

    registry: ClassVar[ConnectionRegistry]
    head_s: ClassVar[float]
    flow: HoldableFlowControl

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the protocol of a connection that is about to be made. See uvicorn for the arguments."""
        super().__init__(*args, **kwargs)
        self._is_surplus = False  # there are more connections than allowed
        self._is_reading_head = False
        self._is_reading_body = False
        self._is_discarding = False  # input is not parsed any more
        # Requests with a complete head that are not answered in full, the oldest first.
        self._open_requests: deque[RequestResponseCycle] = deque()
        self._body_left = 0  # bytes of the body, if the request has announced its length
        self._has_progress = False  # the last piece has completed a head or a request, or held a part of a body
        self._bytes_since_progress = 0
        self._unparsed = b""  # input that waits until fewer requests are queued
        self._discarded_bytes = 0
        self._refused: RefusedRequest | None = None  # why the parser was stopped by a callback
        self._refusal = b""  # response to send after those to all open requests
        self._timers = Timers(self.loop)
        self._stalled_bytes = 0

    # The connection

    def connection_made(self, transport: BaseTransport) -> None:
        """Register the connection, and expect a request head."""
        super().connection_made(cast(Transport, transport))
        self.flow = HoldableFlowControl(self.transport)
        self._is_surplus = not self.registry.add(self, self.transport.get_extra_info("socket").fileno())
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that belongs to the connection."""
        self.registry.discard(self)
        self._timers.cancel_all()
        self._unset_keepalive_if_required()
        for cycle in self._open_requests:  # uvicorn informs the last one only
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    @property
    def is_answered(self) -> bool:
        """Whether all requests of the connection are answered."""
        is_answered = self.cycle is not None and self.cycle.scope.get("asr_is_answered", False)
        return bool(is_answered or self._is_discarding or self.transport.is_closing())

    @property
    def is_stalled(self) -> bool:
        """Whether the client does not read what is sent to it just now, or has sent requests ahead of the answers."""
        return bool((self.flow.write_paused and not self._is_reading_body) or self.pipeline)

    def evict(self) -> None:
        """Close the connection in favour of another one."""
        if self._open_requests or self._is_discarding:
            self.transport.abort()
            return
        if self._is_reading_head:
            self.transport.write(self._refusal_of(too_many_connections()))
        self._discard_input()
        self.transport.close()

    def _refusal_of(self, refused: RefusedRequest) -> bytes:
        return refusal_bytes(refused.status, refused.error, (*self.server_state.default_headers, *SECURITY_HEADERS))

    # Input

    def data_received(self, data: bytes) -> None:
        """Parse input, or discard it if no further request of the connection will be answered."""
        self._unset_keepalive_if_required()
        if self._is_discarding:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > MAX_LINGER_BYTES:
                self.transport.abort()
        elif self._unparsed:
            self._unparsed += data
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse input piece by piece, so that no limit is exceeded by more than a piece."""
        rest = memoryview(data)
        while rest and not self._is_discarding:
            if len(self.pipeline) >= MAX_QUEUED_REQUESTS:
                self._unparsed = bytes(rest)
                self.flow.hold()
                return
            if self._is_reading_body:
                size = max(PIECE_BYTES, self._body_left)
            else:
                size = min(PIECE_BYTES, MAX_HEAD_BYTES - self._bytes_since_progress)
            self._parse_piece(rest[:size])
            rest = rest[size:]
        if self._is_reading_head or not self._open_requests:
            self._expect_head()

    def _parse_piece(self, piece: memoryview) -> None:
        self._has_progress = False
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError:
            self._refuse(self._refused or malformed("expected a request of HTTP/1.1; this one cannot be parsed"))
        else:
            self._count(len(piece))

    def _count(self, num_bytes: int) -> None:
        """Count parsed bytes. Refuse the request if too many of them bring it no further."""
        self._bytes_since_progress = 0 if self._has_progress else self._bytes_since_progress + num_bytes
        if self._bytes_since_progress < MAX_HEAD_BYTES:
            return
        limit = f"{MAX_HEAD_BYTES} bytes"
        in_body = malformed(f"expected extensions of a chunk, and trailers, of at most {limit}; got more")
        self._refuse(in_body if self._is_reading_body else head_too_large(limit))

    def _discard_input(self) -> None:
        """Parse nothing any more."""
        self._is_discarding = True
        self._is_reading_head = False
        self._unparsed = b""
        self._timers.cancel(self._on_head_timeout)

    # Callbacks of the parser. An exception in one of them stops the parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._is_reading_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header to the request. A trailer is dropped, so that it cannot replace what a proxy has checked."""
        if self._is_reading_body:
            return
        if len(self.headers) >= MAX_FIELDS:
            self._stop(head_too_large(f"{MAX_FIELDS} lines"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head of a request, and start the request, or queue it behind earlier ones."""
        if self._is_surplus and self.url.partition(b"?")[0] != HEALTH_PATH:
            self._stop(too_many_connections())
        try:
            length = check_head(self.parser.get_http_version(), self.headers, self.parser.should_upgrade())
        except RefusedRequest as exc:
            self._stop(exc)
        is_upgrade = self.parser.should_upgrade() and self._should_upgrade()
        if is_upgrade and self._open_requests:
            self._stop(malformed("expected a WebSocket on a connection whose requests are all answered"))
        super().on_headers_complete()
        if is_upgrade:
            return
        self.cycle.keep_alive = self.cycle.keep_alive and not self._is_surplus
        self._open_requests.append(self.cycle)
        self._body_left = length or 0
        self._is_reading_head, self._is_reading_body, self._has_progress = False, True, True
        self._timers.cancel(self._on_head_timeout)
        self.registry.mark_busy(self)

    def _upgrade(self) -> None:
        """Go on in the protocol that the client asks for if that is WebSocket. Else there is only the response."""
        self._discard_input()
        if self._should_upgrade():
            self._timers.cancel_all()
            self.registry.discard(self)
            self.handle_websocket_upgrade()
        else:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Add bytes to the body of the request."""
        self._has_progress = True
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body of the request."""
        self._has_progress = True
        self._is_reading_body = False
        super().on_message_complete()

    def _stop(self, refused: RefusedRequest) -> NoReturn:
        """Make the parser stop. It does not pass every exception on, so the reason is stored."""
        self._refused = refused
        raise refused

    # Responses

    def on_response_complete(self) -> None:
        """Start the next request if there is one. Else expect one, or end the connection."""
        self._open_requests.popleft()
        super().on_response_complete()
        self._watch_writes()
        if self.transport.is_closing():
            return
        if self._unparsed:
            self._parse_queued()
        elif not self._open_requests:
            self._finish_exchange()

    def _parse_queued(self) -> None:
        data, self._unparsed = self._unparsed, b""
        self.flow.release()
        self._unset_keepalive_if_required()
        self._parse(data)

    def _finish_exchange(self) -> None:
        """Decide what comes after the response to the last open request."""
        if self._refusal:
            self._send_refusal()
        elif self._is_reading_body:  # the response did not need the whole request
            self._linger()
        elif self._is_reading_head:
            self._unset_keepalive_if_required()
            self.registry.mark_reading_head(self)
        else:
            self.registry.mark_idle(self)

    def _refuse(self, refused: RefusedRequest) -> None:
        """Refuse the request that is being received, and everything after it, once earlier requests are answered."""
        client = self.client[0] if self.client else None
        logs.info("request_refused", client=client, status=refused.status.value, **refused.error.as_dict())
        self._discard_input()
        self._refusal = self._refusal_of(refused)
        if self._is_reading_body and self._open_requests:
            self._abandon_request()
        if self._open_requests:
            self.flow.hold()
        elif not self.transport.is_closing():
            self._send_refusal()

    def _abandon_request(self) -> None:
        """Give up the request whose body is being received. Close the connection if its response has begun."""
        if self.cycle.response_started:
            self.transport.close()
            return
        if self.pipeline:
            self.pipeline.popleft()  # the youngest
        self.cycle.disconnected = True
        self.cycle.waiting_for_100_continue = False  # nothing may be written any more
        self.cycle.message_event.set()
        self._open_requests.pop()

    def _send_refusal(self) -> None:
        self.transport.write(self._refusal)
        self._linger()

    def _linger(self) -> None:
        """End the connection after a short time in which input is discarded, so that the client can read all output.

        A connection with unread input would be reset instead of closed. Source: nginx, lingering_close.
        """
        self._discard_input()
        self._unset_keepalive_if_required()
        self.flow.release()
        self.transport.write_eof()
        self._timers.start(self.transport.abort, LINGER_S)

    def pause_writing(self) -> None:
        """Make requests wait before they send more, and watch whether the client reads."""
        super().pause_writing()
        self._watch_writes()

    def resume_writing(self) -> None:
        """Let requests send more."""
        self._timers.cancel(self._on_write_timeout)
        super().resume_writing()

    def _watch_writes(self) -> None:
        """Disconnect a client that has read nothing of what is to be sent to it in WRITE_STALL_S seconds."""
        self._timers.cancel(self._on_write_timeout)  # what it has compared with is no longer so
        self._stalled_bytes = self.transport.get_write_buffer_size()
        if self._stalled_bytes:
            self._timers.start(self._on_write_timeout, WRITE_STALL_S)

    # Timers

    def _expect_head(self) -> None:
        """Expect a whole request head within `head_s` seconds of the first call."""
        if self._is_discarding or self._is_reading_body or self.transport.is_closing():
            return
        self._timers.start(self._on_head_timeout, self.head_s)
        if not self._open_requests:
            self.registry.mark_reading_head(self)

    def _on_head_timeout(self) -> None:
        if self.flow.read_paused:  # by this server: the client cannot send the rest
            self._timers.start(self._on_head_timeout, self.head_s)
        elif self._is_reading_head:
            self._refuse(head_too_slow(self.head_s))
        else:
            self.transport.close()

    def _on_write_timeout(self) -> None:
        # Many clients read nothing before they have sent their whole request, which has limits of its own.
        if self._is_reading_body or self.transport.get_write_buffer_size() < self._stalled_bytes:
            self._watch_writes()
        else:
            self.transport.abort()


def http_protocol(registry: ConnectionRegistry, head_s: float = HEAD_S) -> type[HttpProtocol]:
    """Return the class of connections that `registry` keeps, for uvicorn's option `http`.

    `head_s` is the number of seconds that a client has to send a request head.
    """
    return type("RegisteredHttpProtocol", (HttpProtocol,), {"registry": registry, "head_s": head_s})
