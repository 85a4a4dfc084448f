"""Test how requests are read: within limits of bytes and seconds, in order, and only if their meaning is certain."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from local_server.__main__ import uvicorn_config
from local_server.protocol import http_protocol
from local_server.protocol.connections import MAX_SURPLUS, ConnectionRegistry
from local_server.protocol.http_protocol import MAX_LINGER_BYTES, HttpProtocol
from local_server.protocol.request_head import MAX_FIELDS, MAX_HEAD_BYTES
from tests.support.raw_client import RawClient
from tests.support.serving import RunningServer, Server, wait_until

HEAD = b"GET /a HTTP/1.1\r\nHost: a\r\n"
REQUEST = HEAD + b"\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Echo:
    """An ASGI application that answers with what it has received.

    `/hc` is answered without reading the body, `/big` with a large body, and `/wait` once `may_answer` is set.
    """

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.waiting = 0  # requests for /wait that are not answered
        self.left = 0  # requests whose clients have left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b"" if scope["path"] == "/hc" else await self._read(receive)
        if scope["path"] == "/wait":
            await self._wait(receive)
        headers = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
        content = json.dumps({"path": scope["path"], "headers": headers, "body": body.decode("latin-1")}).encode()
        if scope["path"] == "/big":
            content = bytes(32 * 1024**2)
        length = (b"content-length", str(len(content)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body"})

    async def _read(self, receive: Receive) -> bytes:
        body, has_more = b"", True
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
        return body

    async def _wait(self, receive: Receive) -> None:
        self.waiting += 1
        disconnect = asyncio.ensure_future(receive())
        answer = asyncio.ensure_future(asyncio.to_thread(self.may_answer.wait))
        await asyncio.wait({disconnect, answer}, return_when=asyncio.FIRST_COMPLETED)
        self.left += disconnect.done()
        self.waiting -= 1
        disconnect.cancel()
        self.may_answer.set()
        await answer


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with RunningServer(Echo()) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[Server]:
    """Serve with so little time for a head that only one that is sent at once is in time."""
    with RunningServer(Echo(), head_s=0.2) as running_server:
        yield running_server


@pytest.fixture
def echo() -> Iterator[Echo]:
    app = Echo()
    yield app
    app.may_answer.set()


@pytest.fixture
def echo_server(echo: Echo) -> Iterator[Server]:
    """Serve `echo`, which no other test uses."""
    with RunningServer(echo) as running_server:
        yield running_server


@pytest.mark.parametrize(
    "start",
    [HEAD + b"X: ", HEAD + b"X", b"GET /", b""],
    ids=["value", "name", "url", "blank lines"],
)
def test_an_endless_head_is_refused_at_its_limit(server: Server, start: bytes) -> None:
    filler = b"\r\n" if not start else b"1"
    with RawClient(server) as client:
        client.send((start + filler * MAX_HEAD_BYTES)[:MAX_HEAD_BYTES])
        refusal = client.receive()
        assert (refusal.status, refusal.error["code"]) == (431, "too_large")
        assert str(MAX_HEAD_BYTES) in refusal.error["message"]
        assert refusal.headers["connection"] == "close"
        client.send(bytes(2 * MAX_LINGER_BYTES))
        assert client.is_closed()


def test_a_head_within_the_limit_is_read_although_it_comes_in_pieces(server: Server) -> None:
    value = b"b" * (MAX_HEAD_BYTES - len(HEAD) - len(b"X: \r\n\r\n") - 1)
    with RawClient(server) as client:
        for piece in (HEAD[:7], HEAD[7:], b"X: ", value[:40_000], value[40_000:], b"\r\n\r\n" + REQUEST):
            client.send(piece)
        assert ["x", value.decode()] in json.loads(client.receive().body)["headers"]
        assert client.receive().status == 200


def test_too_many_header_lines_are_refused(server: Server) -> None:
    with RawClient(server) as client:
        client.send(HEAD + b"a: b\r\n" * (MAX_FIELDS - 1) + b"\r\n")
        assert client.receive().status == 200
        client.send(HEAD + b"a: b\r\n" * MAX_FIELDS + b"\r\n")
        assert client.receive().status == 431


@pytest.mark.parametrize("start", [b"G", b"GET /\r\n", HEAD, HEAD + b"X: "])
@pytest.mark.parametrize("earlier", [b"", REQUEST])
def test_half_a_head_is_refused_in_time(hasty_server: Server, earlier: bytes, start: bytes) -> None:
    with RawClient(hasty_server) as client:
        client.send(earlier + start)
        if earlier:
            assert client.receive().status == 200
        refusal = client.receive()
        assert (refusal.status, refusal.error["code"]) == (408, "deadline_exceeded")
        assert client.is_closed()


@pytest.mark.parametrize("earlier", [b"", REQUEST])
@pytest.mark.parametrize("blank", [b"", b"\r\n"])
def test_a_connection_that_sends_no_request_is_closed_without_a_word(
    hasty_server: Server, earlier: bytes, blank: bytes
) -> None:
    with RawClient(hasty_server) as client:
        client.send(earlier)
        if earlier:
            assert client.receive().status == 200
            client.send(blank or b"\r\n")
        client.send(blank)
        assert client.is_closed()


def test_bytes_that_keep_coming_do_not_extend_the_time_for_a_head(hasty_server: Server) -> None:
    with RawClient(hasty_server) as client:
        has_answer = threading.Event()

        def drip() -> None:
            client.send(HEAD)
            while not has_answer.wait(0.01):
                client.send(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert client.receive().status == 408
        finally:
            has_answer.set()
            thread.join()


def test_a_request_that_takes_longer_than_a_head_may_is_not_ended(echo: Echo) -> None:
    with (
        RunningServer(echo, head_s=0.2) as server,
        RawClient(server) as client,
        RawClient(server) as silent_client,
    ):
        client.send(REQUEST.replace(b"/a", b"/wait"))
        assert silent_client.is_closed()
        echo.may_answer.set()
        assert client.receive().status == 200


AMBIGUOUS = {
    "no host": (b"GET /a HTTP/1.1\r\n\r\n", 400, "host"),
    "two hosts": (HEAD + b"Host: a\r\n\r\n", 400, "host"),
    "two keys": (HEAD + b"X-API-Key: a\r\nx-api-key: b\r\n\r\n", 400, "x-api-key"),
    "two authorizations": (HEAD + b"Authorization: a\r\nAuthorization: a\r\n\r\n", 400, "authorization"),
    "two content types": (HEAD + b"Content-Type: a/b\r\nContent-Type: a/c\r\n\r\n", 400, "content-type"),
    "a length of many zeros": (POST + b"Content-Length: " + b"0" * 5000 + b"\r\n\r\n", 400, "content-length"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400, "HTTP/1.1"),
    "a length and chunks": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.1"),
    "a later version": (HEAD.replace(b"1.1", b"2.0") + b"\r\n", 505, "HTTP/2.0"),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "HTTP/1.1"),
    "an upgrade with a body": (
        POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nbody",
        400,
        "upgrade",
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_request_whose_meaning_is_uncertain_is_refused_after_the_ones_before_it(server: Server, name: str) -> None:
    request, status, message = AMBIGUOUS[name]
    with RawClient(server) as client:
        client.send(REQUEST + POST + b"Content-Length: 4\r\n\r\nbody" + request + REQUEST)
        assert [json.loads(client.receive().body)["body"] for _ in range(2)] == ["", "body"]
        refusal = client.receive()
        assert (refusal.status, refusal.error["code"]) == (status, "invalid_request")
        assert message in refusal.error["message"]
        assert client.is_closed()


def test_a_request_of_an_old_client_needs_no_host(server: Server) -> None:
    with RawClient(server) as client:
        client.send(b"GET /a HTTP/1.0\r\n\r\n")
        assert client.receive().status == 200
        assert client.is_closed()


def test_trailers_are_dropped(server: Server) -> None:
    with RawClient(server) as client:
        for _ in range(2):
            client.send(CHUNKED + b"4\r\nbody\r\n0\r\nX-API-Key: a\r\nHost: b\r\n\r\n")
            content = json.loads(client.receive().body)
            assert content["headers"] == [["host", "a"], ["transfer-encoding", "chunked"]]
            assert content["body"] == "body"


@pytest.mark.parametrize("start", [b"4;a=", b"4\r\nbody\r\n0\r\nX: ", b"4\r\nbody\r\n0\r\n"])
def test_endless_extensions_and_trailers_are_refused(echo_server: Server, echo: Echo, start: bytes) -> None:
    filler = b"a: b\r\n" if start.endswith(b"0\r\n") else b"a"
    with RawClient(echo_server) as client:
        client.send(CHUNKED + start + filler * 2 * MAX_HEAD_BYTES)
        refusal = client.receive()
        assert (refusal.status, refusal.error["code"]) == (400, "invalid_request")
        assert client.is_closed()
    wait_until(lambda: echo.left == 1)


def test_a_body_that_cannot_be_parsed_ends_its_request(echo_server: Server, echo: Echo) -> None:
    with RawClient(echo_server) as client:
        client.send(REQUEST)
        assert client.receive().status == 200
        client.send(CHUNKED + b"4\r\nbody\r\nno number\r\n")
        assert client.receive().status == 400
        assert client.is_closed()
    wait_until(lambda: echo.left == 1)


def test_a_queued_body_that_cannot_be_parsed_is_refused_in_its_turn(echo_server: Server, echo: Echo) -> None:
    with RawClient(echo_server) as client:
        client.send(REQUEST.replace(b"/a", b"/wait") + REQUEST + CHUNKED + b"4\r\nbody\r\nno number\r\n")
        echo.may_answer.set()
        assert [client.receive().status for _ in range(3)] == [200, 200, 400]
        assert client.is_closed()


@pytest.mark.parametrize("size", [1, 1000, 70_000])
def test_large_bodies_and_requests_behind_them_are_read_exactly(server: Server, size: int) -> None:
    body = bytes(ord("a") + index % 26 for index in range(size))
    with_length = POST + b"Content-Length: %d\r\n\r\n" % size + body
    in_chunks = CHUNKED + b"%x;a=b\r\n" % size + body + b"\r\n0\r\n\r\n"
    with RawClient(server) as client:
        client.send((with_length + in_chunks) * 2 + REQUEST)
        bodies = [json.loads(client.receive().body)["body"] for _ in range(5)]
    assert bodies == [body.decode()] * 4 + [""]


def test_many_requests_at_once_are_answered_in_order(server: Server) -> None:
    count = 2000
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(count))
    with RawClient(server) as client:
        threading.Thread(target=client.send, args=(requests,)).start()
        paths = [json.loads(client.receive().body)["path"] for _ in range(count)]
    assert paths == [f"/{number}" for number in range(count)]


def test_a_client_that_leaves_ends_all_of_its_requests(echo_server: Server, echo: Echo) -> None:
    with RawClient(echo_server) as client:
        client.send(REQUEST.replace(b"/a", b"/wait") + REQUEST)
        wait_until(lambda: echo.waiting)
    wait_until(lambda: echo.left == 1)


def test_another_protocol_is_not_spoken(server: Server) -> None:
    with RawClient(server) as client:
        client.send(HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n" + bytes(100))
        assert client.receive().status == 200
        assert client.is_closed()


def test_a_body_that_nobody_reads_is_not_received_for_ever(server: Server) -> None:
    with RawClient(server) as client:
        client.send(b"GET /hc HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        assert client.receive().status == 200
        client.send(bytes(2 * MAX_LINGER_BYTES))
        assert client.is_closed()


def test_a_client_that_does_not_read_is_disconnected(
    echo_server: Server, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "WRITE_STALL_S", 0.05)
    with RawClient(echo_server, receive_buffer=4096) as client:
        client.send(REQUEST.replace(b"/a", b"/big") + REQUEST.replace(b"/a", b"/wait"))
        wait_until(lambda: not client.can_send())


class SlowTransport(asyncio.Transport):
    """A transport whose client reads when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.aborted = asyncio.Event()

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted.set()


async def test_a_client_that_has_read_one_answer_has_the_whole_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "WRITE_STALL_S", 0.01)
    registry = ConnectionRegistry(1)
    config = uvicorn_config(Echo(), registry)
    config.load()
    protocol = http_protocol.http_protocol(registry)(config, ServerState(), {})
    protocol.transport = transport = SlowTransport()
    transport.unsent = 10
    protocol._watch_writes()
    transport.unsent = 0
    protocol._watch_writes()  # after the next answer, which was read at once
    assert protocol._timers._pending == {}
    transport.unsent = 10
    protocol._watch_writes()
    await asyncio.wait_for(transport.aborted.wait(), 60)


def test_a_head_that_this_server_does_not_read_is_not_late(echo: Echo) -> None:
    with RunningServer(echo, head_s=0.05) as server, RawClient(server) as client:
        client.send(REQUEST.replace(b"/a", b"/wait"))
        wait_until(lambda: echo.waiting)
        client.send(REQUEST + REQUEST[:20])  # the server reads no further while two requests are open
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + 0.2)
        client.send(REQUEST[20:])
        echo.may_answer.set()
        assert [client.receive().status for _ in range(3)] == [200] * 3


def test_nothing_is_written_to_a_request_that_was_given_up(
    echo_server: Server, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), RawClient(echo_server) as client:
        client.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") + b"zz\r\n")
        assert client.receive().status == 400
        wait_until(lambda: echo.left)
    assert caplog.messages == []


def test_a_client_that_still_sends_need_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 32 * 1024**2
    checks: list[HttpProtocol] = []

    class CheckedProtocol(HttpProtocol):
        def _on_write_timeout(self) -> None:
            checks.append(self)
            super()._on_write_timeout()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
            await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
            await send({"type": "http.response.body"})

    monkeypatch.setattr(http_protocol, "WRITE_STALL_S", 0.05)
    monkeypatch.setattr(http_protocol, "HttpProtocol", CheckedProtocol)
    with RunningServer(stream) as server, RawClient(server, receive_buffer=4096) as client:
        client.send(POST + b"Content-Length: 2\r\n\r\na")
        wait_until(lambda: len(checks) > 3)
        assert client.receive().body == bytes(size)


def test_silent_connections_do_not_keep_others_out(echo: Echo) -> None:
    limit = 2 * MAX_SURPLUS
    with RunningServer(echo, max_connections=limit) as server, ExitStack() as stack:
        silent_clients = [stack.enter_context(RawClient(server)) for _ in range(2 * limit)]
        client = stack.enter_context(RawClient(server))
        client.send(REQUEST)
        assert client.receive().status == 200
        assert all(silent_client.is_closed() for silent_client in silent_clients[:limit])
        silent_clients[-1].send(REQUEST)
        assert silent_clients[-1].receive().status == 200


def test_a_client_whose_head_gives_way_to_others_is_told_so(echo: Echo) -> None:
    with RunningServer(echo, max_connections=MAX_SURPLUS) as server, ExitStack() as stack:
        first_client = stack.enter_context(RawClient(server))
        first_client.send(HEAD)
        for _ in range(2 * MAX_SURPLUS):
            stack.enter_context(RawClient(server))
        refusal = first_client.receive()
        assert (refusal.status, refusal.error["code"], refusal.headers["retry-after"]) == (429, "overloaded", "1")


def test_a_full_server_answers_health_checks_and_refuses_the_rest(echo: Echo) -> None:
    with RunningServer(echo, max_connections=3) as server, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server)) for _ in range(3)]
        for client in clients:
            client.send(REQUEST.replace(b"/a", b"/wait"))
        wait_until(lambda: echo.waiting == 3)
        for path, status in ((b"/hc", 200), (b"/hc?a=b", 200), (b"/a", 429), (b"/hc/a", 429)) * 20:
            with RawClient(server) as client:
                client.send(REQUEST.replace(b"/a", path))
                assert client.receive().status == status
                assert client.is_closed()
        echo.may_answer.set()
        assert [client.receive().status for client in clients] == [200] * 3
        with RawClient(server) as client:
            client.send(REQUEST)
            assert client.receive().status == 200
