"""Test the middleware around bare applications: ids, keys, counts, and what is left of a request that is answered."""

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_server.metrics import Metrics
from local_server.middleware import lingering_close
from local_server.middleware.access import AccessMiddleware
from local_server.middleware.lingering_close import LingeringCloseMiddleware
from local_server.state import ServerState
from tests.conftest import settings

KEYS = ("first key", "schlüssel")
PIECES = (b"one", b"two", b"three")
LENGTH = {"content-length": "11"}
CHUNKED = {"transfer-encoding": "chunked"}


class Exchange:
    """One request of a client that sends `pieces` and then leaves, and everything that is sent to it."""

    def __init__(self, *pieces: bytes, path: str = "/asr", method: str = "POST", **headers: str) -> None:
        raw_headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: Scope = {"type": "http", "path": path, "method": method, "headers": raw_headers}
        self.order: list[str] = []  # of the messages: what was received and sent
        self.sent: list[Message] = []
        self._rest = list(pieces)

    async def receive(self) -> Message:
        self.order.append("receive")
        if not self._rest:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._rest.pop(0), "more_body": bool(self._rest)}

    async def send(self, message: Message) -> None:
        self.order.append("send")
        self.sent.append(dict(message))

    async def run(self, app: ASGIApp) -> "Exchange":
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        """The response's body. It has to be complete: its last message, and no other, says that it ends."""
        start, *parts = self.sent
        assert start["type"] == "http.response.start"
        assert [part.get("more_body", False) for part in parts] == [True] * (len(parts) - 1) + [False]
        return b"".join(part.get("body", b"") for part in parts)


async def respond(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    read: int = 0,
    status: int = 200,
    body: tuple[bytes, ...] = (b"done",),
) -> None:
    """Answer with the parts of a body after having received `read` messages."""
    for _ in range(read):
        await receive()
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1")]})
    for index, part in enumerate(body):
        await send({"type": "http.response.body", "body": part, "more_body": index < len(body) - 1})


async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(f"{scope['path']} has reached the application")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(ServerState(settings()))


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """Yield the records of this package's log, which other tests may have configured."""
    records: list[Any] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Recorder()
    logger = logging.getLogger("asr")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


def counts(metrics: Metrics) -> dict[tuple[str, str, str], float]:
    """Return how many requests were counted, by route, code and kind."""
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == "asr_requests_total"]
    return {(s.labels["door"], s.labels["code"], s.labels["kind"]): s.value for s in samples}


@pytest.mark.parametrize("request_id", ["7", "mine-7", "a_b.c:D", "x" * 128])
async def test_the_id_of_a_client_is_kept(metrics: Metrics, request_id: str) -> None:
    exchange = await Exchange(x_request_id=request_id).run(AccessMiddleware(respond, (), metrics))
    assert exchange.headers == {"x-own": "1", "x-request-id": request_id}
    assert exchange.scope["asr_request_id"] == request_id


@pytest.mark.parametrize("request_id", ["", "a b", "a/b", "a\n", '"a"', "é", "١", "x" * 129, "a\r\nSet-Cookie: b"])
async def test_an_id_that_could_not_be_repeated_safely_is_replaced(metrics: Metrics, request_id: str) -> None:
    exchange = await Exchange(x_request_id=request_id).run(AccessMiddleware(respond, (), metrics))
    assert len(bytes.fromhex(exchange.headers["x-request-id"])) == 16
    assert exchange.scope["asr_request_id"] == exchange.headers["x-request-id"]


async def test_requests_without_an_id_get_different_ones(metrics: Metrics) -> None:
    exchanges = [await Exchange().run(AccessMiddleware(respond, (), metrics)) for _ in range(9)]
    assert len({exchange.headers["x-request-id"] for exchange in exchanges}) == 9


async def test_the_parts_of_a_stream_are_passed_on_one_by_one(metrics: Metrics) -> None:
    app = AccessMiddleware(partial(respond, read=1, body=(b"a", b"", b"b")), (), metrics)
    exchange = await Exchange(*PIECES, **LENGTH).run(LingeringCloseMiddleware(app))
    assert exchange.order == ["receive", "send", "send", "send", "send", "receive", "receive", "send"]
    assert [message.get("body") for message in exchange.sent[1:4]] == [b"a", b"", b"b"]


@pytest.mark.parametrize("path", ["/", "/hc", "/metrics", "/page/main.js"])
async def test_monitors_and_the_page_need_no_key(metrics: Metrics, path: str) -> None:
    assert (await Exchange(path=path).run(AccessMiddleware(respond, KEYS, metrics))).status == 200


@pytest.mark.parametrize("path", ["/asr", "/page", "/hc/", "//hc", "/HC", "/metrics/x", "/v1/models", "/docs", ""])
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_any_other_path_needs_a_key_whatever_the_method(metrics: Metrics, path: str, method: str) -> None:
    exchange = await Exchange(*PIECES, path=path, method=method).run(AccessMiddleware(unreachable, KEYS, metrics))
    assert exchange.status == 401
    assert "receive" not in exchange.order
    assert exchange.headers["x-request-id"] == exchange.scope["asr_request_id"]
    assert (await Exchange(path=path).run(AccessMiddleware(respond, (), metrics))).status == 200


@pytest.mark.parametrize(
    ("headers", "is_accepted"),
    [
        ({"x_api_key": KEYS[0]}, True),
        ({"x_api_key": KEYS[1]}, True),
        ({"X_API_Key": KEYS[0]}, True),
        ({"authorization": f"BEARER {KEYS[1]}"}, True),
        ({"AUTHORIZATION": f"Bearer   {KEYS[0]} "}, True),
        ({"authorization": "Basic abc", "x_api_key": KEYS[0]}, True),
        ({"authorization": "Bearer wrong", "x_api_key": KEYS[0]}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": f"Bearer{KEYS[0]}"}, False),
        ({"x_api_key": KEYS[0].upper()}, False),
        ({"x_api_key": f"{KEYS[0]},{KEYS[1]}"}, False),
        ({"x_api_key": f"Bearer {KEYS[0]}"}, False),
        ({"cookie": KEYS[0]}, False),
    ],
)
async def test_a_key_is_accepted_from_its_two_headers_only(
    metrics: Metrics, headers: dict[str, str], is_accepted: bool
) -> None:
    app = AccessMiddleware(respond if is_accepted else unreachable, KEYS, metrics)
    assert (await Exchange(**headers).run(app)).status == (200 if is_accepted else 401)


async def test_a_request_is_counted_once_by_what_its_route_has_noted(metrics: Metrics, log: list[Any]) -> None:
    class Route:
        path = "/files/{name}"

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        scope.update(asr_code="corrupt_media", asr_kind="file", route=Route)
        await respond(scope, receive, send, status=422)

    async def leave(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    await Exchange().run(AccessMiddleware(respond, (), metrics))
    await Exchange(path="/nothing").run(AccessMiddleware(partial(respond, status=404), (), metrics))
    await Exchange(path="/files/secret", x_request_id="7").run(AccessMiddleware(fail, (), metrics))
    await Exchange().run(AccessMiddleware(respond, KEYS, metrics))
    with pytest.raises(asyncio.CancelledError):
        await Exchange().run(AccessMiddleware(leave, (), metrics))
    for path in ("/hc", "/metrics"):
        await Exchange(path=path).run(AccessMiddleware(respond, (), metrics))
    assert counts(metrics) == {
        ("other", "ok", "none"): 1,
        ("other", "http_404", "none"): 1,
        ("/files/{name}", "corrupt_media", "file"): 1,
        ("other", "unauthorized", "none"): 1,
        ("other", "cancelled", "none"): 1,
    }
    lines = [(record.fields["path"], record.fields["status"], record.fields["code"]) for record in log]
    assert lines == [
        ("/asr", 200, "ok"),
        ("/nothing", 404, "http_404"),
        ("/files/secret", 422, "corrupt_media"),
        ("/asr", 401, "unauthorized"),
        ("/asr", 0, "cancelled"),
    ]
    assert (log[2].fields["id"], log[2].fields["kind"], log[2].fields["method"]) == ("7", "file", "POST")


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
@pytest.mark.parametrize("read", range(len(PIECES) + 1))
async def test_an_early_answer_is_sent_whole_before_the_rest_is_discarded(framing: dict[str, str], read: int) -> None:
    exchange = await Exchange(*PIECES, **framing).run(LingeringCloseMiddleware(partial(respond, read=read)))
    rest = len(PIECES) - read
    assert exchange.order.count("receive") == len(PIECES)
    assert exchange.body == b"done"
    assert ("connection" in exchange.headers) == (rest > 0)
    if rest:
        assert exchange.headers["connection"] == "close"
        assert exchange.order == ["receive"] * read + ["send", "send"] + ["receive"] * rest + ["send"]
        assert exchange.sent[1]["body"] == b"done"


@pytest.mark.parametrize("headers", [{}, {"content-length": "0"}])
async def test_a_request_without_a_body_is_answered_without_waiting_for_one(headers: dict[str, str]) -> None:
    exchange = await Exchange(**headers).run(LingeringCloseMiddleware(respond))
    assert exchange.order == ["send", "send"]
    assert exchange.headers == {"x-own": "1"}


@pytest.mark.parametrize(("read", "received"), [(0, 0), (1, len(PIECES)), (2, len(PIECES))])
async def test_a_client_that_waits_to_be_asked_is_not_waited_for_until_it_is(read: int, received: int) -> None:
    exchange = Exchange(*PIECES, expect="100-Continue", **LENGTH)
    await exchange.run(LingeringCloseMiddleware(partial(respond, read=read)))
    assert exchange.order.count("receive") == received
    assert (exchange.body, exchange.headers["connection"]) == (b"done", "close")


async def test_a_client_that_leaves_is_not_waited_for() -> None:
    left = await Exchange(**LENGTH).run(LingeringCloseMiddleware(respond))
    assert left.order == ["send", "send", "receive", "send"]
    noticed = await Exchange(**LENGTH).run(LingeringCloseMiddleware(partial(respond, read=1)))
    assert noticed.order == ["receive", "send", "send"]


class SilentClient(Exchange):
    async def receive(self) -> Message:
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never


class EndlessClient(Exchange):
    async def receive(self) -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"more", "more_body": True}


@pytest.mark.parametrize(
    ("limit", "client"),
    [("MAX_SILENCE_S", SilentClient), ("MAX_DRAIN_S", EndlessClient), ("MAX_DRAIN_BYTES", EndlessClient)],
)
async def test_a_client_that_is_silent_or_never_ends_still_gets_the_end_of_its_answer(
    monkeypatch: pytest.MonkeyPatch, limit: str, client: type[Exchange]
) -> None:
    monkeypatch.setattr(lingering_close, limit, 0.0)
    exchange = await client(**LENGTH).run(LingeringCloseMiddleware(respond))
    assert exchange.body == b"done"


async def test_a_server_that_shuts_down_does_not_wait_for_the_rest() -> None:
    has_begun = asyncio.Event()

    async def answer_when_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await respond(scope, receive, send, status=503)
            raise

    exchange = Exchange(*PIECES, **LENGTH)
    task = asyncio.create_task(exchange.run(LingeringCloseMiddleware(answer_when_cancelled)))
    await has_begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.order == ["send", "send"]
    assert (exchange.status, exchange.body, exchange.headers["connection"]) == (503, b"done", "close")


async def test_an_application_that_reads_everything_gets_everything() -> None:
    received = b""

    async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        while (message := await receive())["type"] == "http.request":
            received += message["body"]
        await respond(scope, receive, send)

    exchange = await Exchange(*PIECES, **LENGTH).run(LingeringCloseMiddleware(read_all))
    assert received == b"".join(PIECES)
    assert exchange.body == b"done"
    assert "connection" not in exchange.headers
