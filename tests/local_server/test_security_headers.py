"""Test that no response of any route lacks the security headers, whoever makes the response."""

import http.client
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from local_server.__main__ import create_app
from local_server.app import _routes
from local_server.lifespan import LifespanApp
from local_server.live.client_secrets import ClientSecrets
from local_server.metrics import Metrics
from local_server.middleware import key_failures
from local_server.middleware.security_headers import API_POLICY
from local_server.routers import api_docs, web_page
from local_server.state import ServerState
from tests.conftest import settings
from tests.support.serving import RunningServer, Server, UnclosedPipeline, serving
from tests.support.speech import FOX, say, wav

KEY = "hunter2"
STATE = ServerState(settings())
PATHS = [getattr(route, "path", "") for route in _routes(STATE, Metrics(STATE), ClientSecrets()).routes]
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "DELETE")
OWN_POLICIES = {"/": web_page.POLICY, "/docs": api_docs.POLICY}
SPEECH = wav(say(FOX), format="FLAC")


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    keys = {"api_keys": (KEY,), "cors_origins": ("https://a.example",)}
    with pytest.MonkeyPatch.context() as patch, serving(pipeline, **keys) as running_server:
        patch.setattr(key_failures, "MAX_DELAY_S", 0.0)  # many requests come without a key
        yield running_server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, headers={"X-API-Key": KEY}) as http_client:
        yield http_client


def assert_secured(response: httpx.Response, policy: str = API_POLICY) -> None:
    """Check that a response has each security header once, and the Content-Security-Policy that is expected."""
    assert response.headers.get_list("Content-Security-Policy") == [policy]
    assert response.headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert response.headers.get_list("Referrer-Policy") == ["no-referrer"]


def test_the_routes_are_those_that_there_are() -> None:
    assert {"/asr", "/hc", "/metrics", "/openapi.json", "/docs", "/page", "/", "/v1/models"} <= set(PATHS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", PATHS)
def test_every_route_has_the_headers_with_and_without_a_key(client: httpx.Client, path: str, method: str) -> None:
    path = path.replace("{name:path}", "whisper-1")
    for key in (KEY, ""):
        response = client.request(method, path, headers={"X-API-Key": key})
        is_page = response.status_code == 200 and path in OWN_POLICIES
        assert_secured(response, OWN_POLICIES[path] if is_page else API_POLICY)


@pytest.mark.parametrize(
    "path", ["/page/main.js", "/page/index.html", "/docs/files/main.js", "/docs/swagger/swagger-ui.css"]
)
def test_files_have_the_headers_also_if_the_browser_has_them_already(client: httpx.Client, path: str) -> None:
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code) == (200, 304)
    assert_secured(first)
    assert_secured(again)


@pytest.mark.parametrize("path", ["/nothing", "/page/nothing", "/docs/swagger/nothing", "/asr/", "/v1/models/unknown"])
def test_an_unknown_path_has_the_headers_and_leads_nowhere(client: httpx.Client, path: str) -> None:
    response = client.get(path, headers={"Host": "elsewhere.example"})
    assert response.status_code == 404
    assert "location" not in response.headers
    assert_secured(response)


@pytest.mark.parametrize("format", ["json", "text", "srt", "vtt", "tsv"])
def test_a_transcript_has_the_headers_in_every_format(client: httpx.Client, format: str) -> None:
    response = client.post("/asr", params={"format": format}, content=SPEECH)
    assert response.status_code == 200
    assert_secured(response)


def test_a_stream_has_the_headers(client: httpx.Client) -> None:
    response = client.post("/asr", content=SPEECH, headers={"Accept": "text/event-stream"})
    assert "event: done" in response.text
    assert_secured(response)


@pytest.mark.parametrize("origin", ["https://a.example", "https://b.example"])
def test_an_answer_to_a_browser_that_asks_for_permission_has_the_headers(client: httpx.Client, origin: str) -> None:
    response = client.options("/asr", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert response.status_code == (200 if origin == "https://a.example" else 400)
    assert_secured(response)


def test_a_request_that_is_not_http_has_the_headers(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert_secured(httpx.Response(answer.status, headers=answer.getheaders()))


def test_health_has_the_headers_while_the_model_loads(pipeline: Pipeline) -> None:
    may_finish = threading.Event()

    def build(changed_settings: Settings) -> Pipeline:
        may_finish.wait()
        return UnclosedPipeline(pipeline, changed_settings)

    with RunningServer(create_app(settings(), build)) as server:
        for path in ("/hc", "/asr", "/"):
            assert_secured(httpx.get(server.url + path), OWN_POLICIES.get(path, API_POLICY))
        may_finish.set()


async def test_a_crash_of_a_route_has_the_headers() -> None:
    routes = _routes(STATE, Metrics(STATE), ClientSecrets())

    @routes.get("/crash")
    async def crash() -> None:
        raise RuntimeError("a fault")

    app = LifespanApp(STATE, lambda _: pytest.fail("nothing is built"), lambda _: routes, lambda _: None)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        response = await client.get("/crash")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
    assert_secured(response)
