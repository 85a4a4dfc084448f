"""Test the page `/docs` in a real browser, under a name as on the internet: what it shows and what it loads."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from handler.transcription.pipeline import Pipeline
from tests.support.browser import CHROMIUM, Browser
from tests.support.serving import Server, serving

OPERATIONS = (
    {"/asr", "/hc", "/jobs", "/jobs/{job_id}"}
    | {"/v1/" + path for path in ("audio/transcriptions", "audio/translations", "models", "models/{name}")}
    | {"/v1/listen", "/v1/realtime/client_secrets"}
)


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline) as running_server:
        yield running_server


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_every_operation_is_shown_and_can_be_tried_without_another_host(server: Server) -> None:
    host = f"asr.test:{urlsplit(server.url).port}"
    with Browser() as browser:
        browser.open(f"http://{host}/docs")
        paths = "[...document.querySelectorAll('.opblock-summary-path')].map(e => e.dataset.path)"
        browser.wait_until(f"{paths}.length")
        assert set(browser.run(paths)) == OPERATIONS
        browser.click("#operations-default-health_hc_get button")
        browser.wait_until("!!document.querySelector('.try-out__btn')")
        browser.click(".try-out__btn")
        browser.wait_until("!!document.querySelector('.execute')")
        browser.click(".execute")
        browser.wait_until("!!document.querySelector('.live-responses-table .response .response-col_status')")
        assert browser.text(".live-responses-table .response .response-col_status").startswith("200")
        assert browser.errors == []
        requests = [url for url in browser.requests if not url.startswith("data:")]
        assert {urlsplit(url).netloc for url in requests} == {host}


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect", "/docs/files/"])
def test_there_is_nothing_else_beside_the_page(server: Server, path: str) -> None:
    assert httpx.get(server.url + path).status_code == 404


@pytest.mark.parametrize("up", ["..", "%2e%2e", "..%2f.."])
def test_no_file_above_those_of_the_page_is_served(server: Server, up: str) -> None:
    port = urlsplit(server.url).port
    with socket.create_connection(("127.0.0.1", port)) as client:  # an HTTP client would shorten the path
        client.sendall(f"GET /docs/swagger/{up}/__init__.py HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert client.makefile("rb").readline().split()[1] == b"404"


@pytest.mark.parametrize("path", ["/docs", "/", "/metrics", "/hc"])
def test_what_a_monitor_requests_is_found_without_its_body(server: Server, path: str) -> None:
    response = httpx.head(server.url + path)
    assert (response.status_code, response.content) == (200, b"")
