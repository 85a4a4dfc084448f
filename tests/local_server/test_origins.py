"""Test whose pages and names a server answers: with a real browser, and with the headers that browsers send."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from handler.transcription.pipeline import Pipeline
from tests.support.browser import CHROMIUM, Browser
from tests.support.serving import Server, serving
from tests.support.speech import FOX, say, wav
from tests.support.web import Web

SPEECH = wav(say(FOX), format="FLAC")
FRIEND = "https://friend.example"


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, cors_origins=(FRIEND,)) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def named_server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, allowed_hosts=("Asr.example", "*.lan.example", "127.0.0.1", "[::1]")) as running_server:
        yield running_server


def post_form(server: Server, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{server.url}/asr", files={"file": ("a.flac", SPEECH)}, headers=names, timeout=60)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", ["127.0.0.1", "asr.test"])
@pytest.mark.parametrize("type", ["multipart/form-data", "text/plain", "application/x-www-form-urlencoded"])
def test_a_page_of_another_site_cannot_make_the_server_fetch_an_address(
    server: Server, web: Web, name: str, type: str
) -> None:
    # Over plain HTTP, a browser sends Sec-Fetch-Site to 127.0.0.1 only; elsewhere the Origin has to do.
    web.put("/secret", SPEECH)
    target = f"http://{name}:{urlsplit(server.url).port}/v1/audio/transcriptions"
    fields = f"<input name=url value={web.url}/secret><input name=model value=whisper-1><button>Win</button>"
    web.put("/evil.html", f"<!doctype html><form method=post enctype={type} action={target}>{fields}</form>".encode())
    with Browser() as browser:
        browser.open(f"http://evil.test:{urlsplit(web.url).port}/evil.html")
        browser.click("button")
        browser.wait_until("document.body && document.body.innerText.includes('invalid_request_error')")
        assert "CORS_ORIGINS" in browser.text("body")
    assert web.counts["/secret"] == 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_page_that_points_its_own_name_at_the_server_gets_nothing(named_server: Server) -> None:
    with Browser() as browser:
        browser.open(f"http://rebound.test:{urlsplit(named_server.url).port}/")
        assert "ALLOWED_HOSTS" in browser.text("body")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "http://rewritten.example"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Sec_Fetch_Site": "cross-site", "Origin": FRIEND}, 200),
        ({"Host": "asr.example:81", "Origin": "http://asr.example:81"}, 200),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"}, 400),
        ({"Sec_Fetch_Site": "cross-site"}, 400),
        ({"Sec_Fetch_Site": "same-site", "Origin": "https://evil.example"}, 400),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "null"}, 400),
        ({"Origin": "null"}, 400),
        ({"Origin": "http://asr.example:82", "Host": "asr.example:81"}, 400),
        ({"Origin": f"{FRIEND}.evil.example"}, 400),
    ],
)
def test_a_form_is_taken_from_no_page_of_another_origin_unless_it_is_allowed(
    server: Server, headers: dict[str, str], status: int
) -> None:
    response = post_form(server, **headers)
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["code"] == "invalid_request"
        assert "CORS_ORIGINS" in response.json()["error"]["message"]


def test_a_body_for_which_a_browser_has_to_ask_is_left_to_the_browser(server: Server) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example", "Content-Type": "audio/flac"}
    assert httpx.post(f"{server.url}/asr", content=SPEECH, headers=headers, timeout=60).status_code == 200


def test_a_body_without_a_type_is_refused_like_a_form(server: Server) -> None:
    response = httpx.post(f"{server.url}/asr", content=SPEECH, headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 400


def test_any_origin_may_send_forms_if_all_are_allowed(pipeline: Pipeline) -> None:
    with serving(pipeline, cors_origins=("*",)) as open_server:
        assert post_form(open_server, Sec_Fetch_Site="cross-site", Origin="https://evil.example").status_code == 200


@pytest.mark.parametrize(
    "host", ["asr.example", "ASR.example:8000", "asr.example.", "a.lan.example", "a.b.lan.example", "[::1]:80"]
)
def test_a_server_answers_to_its_names_with_any_port(named_server: Server, host: str) -> None:
    assert httpx.get(f"{named_server.url}/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "lan.example",
        "asr.example.evil",
        "xasr.example",
        "127.0.0.1.evil.example",
        "::1",
        "asr.example:a",
    ],
)
@pytest.mark.parametrize("path", ["/", "/asr", "/v1/models", "/metrics", "/docs", "/hc/"])
def test_another_name_is_refused_on_every_path_by_an_error_of_its_form(
    named_server: Server, path: str, host: str
) -> None:
    response = httpx.get(named_server.url + path, headers={"Host": host})
    assert response.status_code == 400
    assert "ALLOWED_HOSTS" in response.json()["error"]["message"]


def test_the_health_check_of_a_platform_is_answered_under_any_name(named_server: Server) -> None:
    assert httpx.get(f"{named_server.url}/hc", headers={"Host": "10.0.0.7:8000"}).status_code == 200


def test_a_server_without_a_list_answers_to_every_name(server: Server) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"Host": "anything.example"}).status_code == 200
