"""Test the HTTP server on loopback with real clients."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from handler import __version__
from handler.errors import ModelUnavailable
from handler.schema.options import Options
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from local_server.__main__ import _listen, create_app
from tests.conftest import TINY, settings
from tests.support.serving import RunningServer, Server, UnclosedPipeline, free_port, serving, spawn_server
from tests.support.speech import FOX, SENTENCES, container, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(
        pipeline,
        salad_machine_id="machine-7",
        salad_container_group_id="group-7",
        max_bytes=4_000_000,
        download_timeout_s=1,
    ) as running_server:
        yield running_server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as http_client:
        yield http_client


SPEECH = wav(say(FOX), format="FLAC")


def test_health(client: httpx.Client) -> None:
    assert client.get("/hc").json() == {"status": "ok", "version": __version__}


def test_a_file_as_the_body(client: httpx.Client) -> None:
    answer = client.post("/asr", content=SPEECH, headers={"Content-Type": "audio/flac"})
    assert answer.status_code == 200
    body = answer.json()
    assert word_error_rate(FOX, body["text"]) == 0
    assert body["chunks"][0]["timestamp"][0] >= 0
    assert answer.headers["X-Model-ID"] == TINY
    assert answer.headers["X-GPU-Name"] == "cpu"
    assert answer.headers["X-Salad-Machine-ID"] == "machine-7"
    assert answer.headers["X-Salad-Container-Group-ID"] == "group-7"
    length = float(answer.headers["X-Audio-Length"])
    seconds = float(answer.headers["X-Processing-Time"])
    factor = float(answer.headers["X-Realtime-Factor"])
    assert length == pytest.approx(body["duration"], abs=0.01)
    assert factor == pytest.approx(length / seconds, rel=0.05)


def test_a_body_without_content_type_counts_as_a_file(client: httpx.Client) -> None:
    assert word_error_rate(FOX, client.post("/asr", content=SPEECH).json()["text"]) == 0


def test_a_form_with_a_file(client: httpx.Client) -> None:
    answer = client.post("/asr", files={"file": ("a.flac", SPEECH)}, data={"language": "en", "format": "verbose_json"})
    assert word_error_rate(FOX, answer.json()["text"]) == 0
    assert answer.json()["segments"][0]["avg_logprob"] < 0


def test_json_with_an_address(client: httpx.Client, web: Web) -> None:
    answer = client.post("/asr", json={"url": web.put("/a", SPEECH), "language": "English"})
    assert word_error_rate(FOX, answer.json()["text"]) == 0


@pytest.mark.parametrize(
    ("format", "media_type", "start"),
    [
        ("srt", "application/x-subrip", "1\n00:"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:"),
        ("text", "text/plain", "The quick"),
        ("tsv", "text/tab-separated-values", "start\tend\ttext\n"),
    ],
)
def test_a_text_format_has_its_media_type(client: httpx.Client, format: str, media_type: str, start: str) -> None:
    answer = client.post("/asr", params={"format": format}, content=SPEECH)
    assert answer.headers["Content-Type"].partition(";")[0] == media_type
    assert answer.text.startswith(start)


@pytest.mark.parametrize("format", ["json", "verbose_json", "text", "srt", "vtt", "tsv"])
def test_silence_is_a_success_in_every_format(client: httpx.Client, format: str) -> None:
    answer = client.post("/asr", params={"format": format}, content=wav(silence(2)))
    assert answer.status_code == 200
    if format in ("json", "verbose_json"):
        assert (answer.json()["text"], answer.json()["chunks"]) == ("", [])
    else:
        assert "-->" not in answer.text


JSON, FORM = {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data; boundary=b"}
INVALID: dict[str, tuple[dict[str, Any], int, str]] = {
    "an empty body": ({"content": b"", "headers": {"Content-Type": "audio/wav"}}, 415, "unsupported_media"),
    "json without url": ({"json": {"language": "en"}}, 400, "invalid_request"),
    "json that is a list": ({"json": ["url"]}, 400, "invalid_request"),
    "json that is not json": ({"content": b"{url:", "headers": JSON}, 400, "invalid_request"),
    "json that is sound": ({"content": SPEECH, "headers": JSON}, 400, "invalid_request"),
    "a scheme": ({"json": {"url": "ftp://example.com/a"}}, 400, "invalid_request"),
    "a local path": ({"json": {"url": "/etc/passwd"}}, 400, "invalid_request"),
    "a missing file": ({"json": {"url": "WEB/none"}}, 422, "download_refused"),
    "a host that never answers": ({"json": {"url": "WEB/hang"}}, 502, "download_failed"),
    "a file over the limit": ({"json": {"url": "WEB/big"}}, 413, "too_large"),
    "half a file": ({"json": {"url": "WEB/cut"}}, 502, "download_failed"),
    "a bucket that is not allowed": ({"json": {"url": "s3://bucket/key"}}, 403, "download_blocked"),
    "an option of one value with two": (
        {"content": SPEECH, "params": [("vad", "0"), ("vad", "1")]},
        400,
        "invalid_request",
    ),
    "a file part without a file name": (
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nRIFF\xff\r\n--b--\r\n',
            "headers": FORM,
        },
        400,
        "invalid_request",
    ),
    "a web page": ({"content": b"<!doctype html><p>Sign in"}, 415, "unsupported_media"),
    "a body over the limit": ({"content": bytes(4_000_001)}, 413, "too_large"),
    "a form over the limit": ({"files": {"file": ("a", bytes(4_000_001))}}, 413, "too_large"),
    "a form without file": ({"files": {"sound": ("a", SPEECH)}}, 400, "invalid_request"),
    "a body that is not the form it should be": (
        {"content": b"abc", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "invalid_request",
    ),
    "a file field that is text": ({"data": {"file": "a"}, "files": {"x": ("a", b"")}}, 400, "invalid_request"),
    "another content type": ({"content": b"<a/>", "headers": {"Content-Type": "text/xml"}}, 400, "invalid_request"),
    "a text named mp3": ({"files": {"file": ("a.mp3", b"no sound " * 99)}}, 415, "unsupported_media"),
    "a video without sound": ({"content": container(None, "mp4", picture=True)}, 422, "no_audio_stream"),
    "an mp4 cut before its index": (
        {"content": container(say(FOX), "ipod", "aac", 44_100)[:9000]},
        422,
        "corrupt_media",
    ),
    "an unknown option": ({"json": {"url": "http://a/b", "colour": 1}}, 400, "invalid_request"),
    "an unknown option in the query of a file": ({"content": SPEECH, "params": {"colour": 1}}, 400, "invalid_request"),
    "an unknown option in the query of json": (
        {"json": {"url": "http://a/b"}, "params": {"colour": 1}},
        400,
        "invalid_request",
    ),
    "an unknown language": ({"content": SPEECH, "params": {"language": "klingon"}}, 400, "invalid_request"),
    "half a character": ({"content": b'{"url": "ftp://\\ud800"}', "headers": JSON}, 400, "invalid_request"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_request_gets_its_own_error_and_the_next_request_works(
    client: httpx.Client, web: Web, name: str
) -> None:
    request, status, code = INVALID[name]
    web.put("/big", bytes(4_000_001))
    if "json" in request:
        request = {**request, "json": json.loads(json.dumps(request["json"]).replace("WEB", web.url))}
    answer = client.post("/asr", **request)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert isinstance(error["message"], str)
    assert error["retryable"] == (code == "download_failed")
    assert word_error_rate(FOX, client.post("/asr", content=SPEECH).json()["text"]) == 0


def test_a_private_address_is_blocked_and_its_query_is_not_shown(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", raising=False)
    answer = client.post("/asr", json={"url": "http://169.254.169.254/latest?key=hunter2"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "download_blocked")
    assert "hunter2" not in answer.text


def test_a_client_that_leaves_cancels_its_work(client: httpx.Client, server: Server, pipeline: Pipeline) -> None:
    story = wav(np.concatenate([say(text) for text in SENTENCES * 5]), format="FLAC")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /asr HTTP/1.1\r\nHost: a\r\nContent-Type: audio/flac\r\nContent-Length: {len(story)}\r\n\r\n"
        connection.sendall(head.encode() + story)
        while not pipeline.runner._scheduler.running:
            pass
    while pipeline.runner._scheduler.running or pipeline.runner._scheduler.waiting:
        pass
    assert pipeline.stats().requests == 0
    assert word_error_rate(FOX, client.post("/asr", content=SPEECH).json()["text"]) == 0


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/asr", 405), ("GET", "/nothing", 404), ("POST", "/hc", 405)]
)
def test_a_wrong_path_or_method_has_the_same_form_of_error(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == "invalid_request"


def test_health_answers_while_files_are_transcribed(client: httpx.Client, server: Server) -> None:
    story = np.concatenate([say(text) for text in SENTENCES * 2])
    is_transcribed = threading.Event()

    def transcribe() -> None:
        try:
            httpx.post(f"{server.url}/asr", content=wav(story), timeout=120).raise_for_status()
        finally:
            is_transcribed.set()

    threading.Thread(target=transcribe).start()
    health_checks = 0
    while not is_transcribed.is_set():
        assert client.get("/hc").status_code == 200
        health_checks += 1
    assert health_checks > 10  # a blocked event loop would answer the first check only after the transcript


def test_the_documentation_lists_every_option_status_and_media_type(client: httpx.Client) -> None:
    assert "swagger" in client.get("/docs").text.lower()
    operation = client.get("/openapi.json").json()["paths"]["/asr"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(body) == {"url", *Options.json_schema()}
    assert {parameter["name"] for parameter in operation["parameters"]} == set(Options.json_schema())
    assert {"200", "400", "413", "415", "422", "429", "502", "503"} <= set(operation["responses"])
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert set(example) == set(client.post("/asr", content=SPEECH).json())


@pytest.mark.parametrize(("port_health", "status"), [(None, 503), (8001, 204)])
def test_while_the_model_loads_the_server_reports_it(pipeline: Pipeline, port_health: int | None, status: int) -> None:
    may_finish = threading.Event()

    def build(changed_settings: Settings) -> Pipeline:
        may_finish.wait()
        return UnclosedPipeline(pipeline, changed_settings)

    app = create_app(settings(port_health=port_health), build)
    with RunningServer(app) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/hc").status_code == status
        refusal = client.post("/asr", content=SPEECH)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "model_unavailable")
        may_finish.set()
        while client.get("/hc").status_code != 200:
            pass


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_cannot_be_loaded_is_a_fault_with_its_reason() -> None:
    def build(_: Settings) -> Pipeline:
        raise ModelUnavailable("model.bin is cut")

    has_failed = threading.Event()
    with RunningServer(create_app(settings(), build, lambda _: has_failed.set())) as server:
        assert has_failed.wait(10)
        answer = httpx.get(f"{server.url}/hc")
    assert answer.status_code == 503
    assert "model.bin is cut" in answer.json()["reason"]


def test_the_server_listens_on_all_addresses_by_default() -> None:
    with _listen("*", 0) as listener, _listen("127.0.0.1", 0) as loopback_listener:
        assert listener.getsockname()[0] in ("::", "0.0.0.0")
        assert loopback_listener.getsockname()[0] == "127.0.0.1"
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
            pass


def test_both_ports_are_served() -> None:
    health_port = str(free_port())
    with spawn_server(PORT_HEALTH=health_port) as (process, server):
        assert process.stderr is not None
        for url in (server.url, f"http://127.0.0.1:{health_port}"):
            with httpx.Client(base_url=url) as client:
                while client.get("/hc").status_code == 204:
                    pass
                assert client.get("/hc").status_code == 200
        process.terminate()
        process.stderr.read()
        assert process.wait(30) == 0


@pytest.mark.parametrize(("drain_s", "has_time"), [("60", True), ("1", False)])
def test_a_terminated_server_finishes_its_requests_within_the_drain_time(
    web: Web, drain_s: str, has_time: bool
) -> None:
    web.put("/fox", wav(say(FOX)))

    def transcribe(server: Server) -> httpx.Response:
        return httpx.post(f"{server.url}/asr", json={"url": f"{web.url}/partly?/fox"}, timeout=60)

    variables = {"DRAIN_TIMEOUT_S": drain_s, "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "true", "DTYPE": "float32"}
    with spawn_server(**variables) as (process, server), ThreadPoolExecutor(1) as pool:
        assert process.stderr is not None
        response = pool.submit(transcribe, server)
        assert web.request_received.wait(30)
        process.terminate()
        while json.loads(process.stderr.readline())["event"] != "stopping":
            pass  # what it has logged before
        if has_time:
            web.released.set()
        process.stderr.read()
        assert process.wait(30) == 0
        web.released.set()
        answer = response.result().json()
    if has_time:
        assert word_error_rate(FOX, answer["text"]) == 0
    else:
        assert answer["error"]["code"] == "cancelled"
