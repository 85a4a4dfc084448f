"""Test uploads: transcribed while they arrive, refused as early as possible, and cleaned up if they break off."""

import io
import json
import math
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from handler.audio import spool
from handler.errors import InvalidRequest
from handler.transcription.pipeline import Pipeline
from local_server.uploads.multipart import MAX_FIELD_BYTES, Form
from tests.audio.test_streaming import temporary_files
from tests.support.processes import children_of
from tests.support.serving import TIMEOUT_S, Server, read_metrics, serving, spawn_server, wait_until
from tests.support.speech import FOX, SENTENCES, container, say, silence, wav
from tests.support.word_errors import word_error_rate

SPEECH = wav(say(FOX), format="FLAC")
STORY_TEXT = " ".join(SENTENCES[:5])
STORY = np.concatenate([np.concatenate((say(text), silence(0.6))) for text in SENTENCES[:5]])
SHORT_WINDOWS = {"chunk_length_s": 8.0, "stride_length_s": 1.0}  # several of them in the story
FORMATS: dict[str, Callable[[], bytes]] = {
    "wav": partial(wav, STORY),
    "flac": partial(wav, STORY, format="FLAC"),
    "mp3": partial(container, STORY, "mp3", "libmp3lame"),
}
BOUNDARY = "a-boundary"


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, **SHORT_WINDOWS) as running_server:
        yield running_server


class Sender:
    """A client on a bare socket, which sends a request piece by piece and may read the response before the end."""

    def __init__(self, server: Server) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self.answer = self._socket.makefile("rb")

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self._socket.close()

    def head(self, size: int, path: str = "/asr", **headers: str) -> None:
        """Send the head of a request with a body of `size` bytes."""
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: a",
            f"Content-Length: {size}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.send("\r\n".join([*lines, "", ""]).replace("Content_", "Content-").encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def is_answered(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def status(self) -> int:
        """Read the head of the next response and return its status."""
        status = int(self.answer.readline().split()[1])
        self._size = 0
        while line := self.answer.readline().strip():
            name, _, value = line.decode().partition(": ")
            self._size = int(value) if name.lower() == "content-length" else self._size
        return status

    def content(self) -> Any:
        """Read the body of that response, which is JSON."""
        return json.loads(self.answer.read(self._size))

    def event(self) -> tuple[str, dict[str, Any]]:
        """Read the next event of a stream."""
        while not (line := self.answer.readline()).startswith(b"event: "):
            assert line, "the stream has ended"
        return line.decode().split()[1], json.loads(self.answer.readline().removeprefix(b"data: "))


@pytest.mark.parametrize("format", FORMATS)
def test_text_is_streamed_long_before_the_last_byte_arrives(server: Server, format: str) -> None:
    data = FORMATS[format]()
    with Sender(server) as sender:
        sender.head(len(data), Accept="text/event-stream")
        sender.send(data[: len(data) * 3 // 5])
        assert sender.status() == 200
        name, content = sender.event()
        assert name == "progress"
        assert word_error_rate(STORY_TEXT[: len(content["text"])], content["text"]) < 0.2
        sender.send(data[len(data) * 3 // 5 :])
        while name != "done":
            name, content = sender.event()
    assert word_error_rate(STORY_TEXT, content["text"]) <= 0.05


def decoded_windows(server: Server) -> float:
    """Return the number of windows decoded so far."""
    return read_metrics(server)["asr_windows_total"]


class HaltingFile(io.BytesIO):
    """A file whose rest cannot be read before the server has decoded a window of its first three fifths."""

    def __init__(self, data: bytes, server: Server) -> None:
        super().__init__(data)
        self._first = len(data) * 3 // 5
        self._decoded_windows = partial(decoded_windows, server)
        self._initial_windows = decoded_windows(server)

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._first:
            wait_until(lambda: self._decoded_windows() > self._initial_windows)
        if size and size > 0:
            size = min(size, self._first)
        return super().read(size)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_file_of_the_openai_package_is_decoded_while_it_is_sent(server: Server, format: str, stream: bool) -> None:
    upload = ("story", HaltingFile(FORMATS[format](), server))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120) as client:
        if stream:
            create = client.audio.transcriptions.create
            *deltas, done = list(create(file=upload, model="whisper-1", language="en", stream=True))
            assert "".join(event.delta for event in deltas) == done.text  # type: ignore[union-attr]
            text = done.text  # type: ignore[union-attr]
        else:
            text = client.audio.transcriptions.create(file=upload, model="whisper-1", language="en").text
    assert word_error_rate(STORY_TEXT, text) <= 0.05


def test_wav_files_with_half_a_header_do_not_delay_other_requests(server: Server) -> None:
    data = wav(say(FOX))
    with Sender(server) as first, Sender(server) as second:
        for sender in (first, second):  # half a header each
            sender.head(len(data), Content_Type="audio/wav")
            sender.send(data[:30])
        for complete in (data, SPEECH):
            response = httpx.post(f"{server.url}/asr", content=complete, timeout=TIMEOUT_S)
            assert word_error_rate(FOX, response.json()["text"]) == 0
        for sender in (first, second):
            sender.send(data[30:])
            assert sender.status() == 200
            assert word_error_rate(FOX, sender.content()["text"]) == 0


@pytest.mark.parametrize("tail", [b"", b"LIST\x04\0\0\0INFO"])
def test_a_wav_file_of_unknown_length_is_decoded_before_its_end(server: Server, tail: bytes) -> None:
    data = wav(STORY) + tail
    initial_windows = decoded_windows(server)

    def pieces() -> Iterator[bytes]:
        yield data[: len(data) * 3 // 5]
        wait_until(lambda: decoded_windows(server) > initial_windows)
        yield data[len(data) * 3 // 5 :]

    answer = httpx.post(f"{server.url}/asr", content=pieces(), timeout=TIMEOUT_S)
    assert word_error_rate(STORY_TEXT, answer.json()["text"]) <= 0.05


def form(*parts: tuple[str, str | bytes]) -> bytes:
    """Return a form with its parts in this order; a value of bytes is a file."""
    body = b""
    for name, value in parts:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            head += '; filename="a.flac"\r\nContent-Type: audio/flac'
        content = value if isinstance(value, bytes) else value.encode()
        body += f"{head}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.mark.parametrize("starts_early", [True, False])
def test_a_field_after_the_file_counts_too(server: Server, starts_early: bool) -> None:
    initial_windows = decoded_windows(server)
    first_fields: list[tuple[str, str | bytes]] = [("language", "en")] if starts_early else []
    body = form(*first_fields, ("file", FORMATS["flac"]()), ("format", "srt"))
    with Sender(server) as sender:
        sender.head(len(body), Content_Type=FORM)
        sender.send(body[:-200])
        if starts_early:
            wait_until(lambda: decoded_windows(server) > initial_windows)  # it has started without the format
        sender.send(body[-200:])
        assert sender.status() == 200
        answer = sender.answer.readline()
    assert answer == b"1\r\n" or answer == b"1\n"


def test_a_stream_sends_nothing_of_a_request_that_started_too_early(server: Server) -> None:
    initial_windows = decoded_windows(server)
    body = form(("model", "whisper-1"), ("stream", "true"), ("file", FORMATS["mp3"]()), ("language", "klingon"))
    with Sender(server) as sender:
        sender.head(len(body), "/v1/audio/transcriptions", Content_Type=FORM)
        sender.send(body[:-200])
        wait_until(lambda: decoded_windows(server) > initial_windows)
        sender.send(body[-200:])
        assert sender.status() == 400
        assert "klingon" in sender.content()["error"]["message"]
    wait_until(lambda: not read_metrics(server)["asr_requests_open"])


@pytest.mark.parametrize("order", ["field, file", "file, field", "file"])
@pytest.mark.parametrize("end", ["", "\r\n"])
def test_a_form_is_decoded_once_whatever_its_order_and_its_last_bytes(server: Server, order: str, end: str) -> None:
    parts: dict[str, tuple[str, str | bytes]] = {"file": ("file", FORMATS["flac"]()), "field": ("language", "en")}
    body = form(*(parts[name] for name in order.split(", "))).removesuffix(b"\r\n") + end.encode()
    initial_windows = decoded_windows(server)
    httpx.post(f"{server.url}/asr", content=wav(STORY), timeout=TIMEOUT_S).raise_for_status()
    once = decoded_windows(server) - initial_windows
    httpx.post(f"{server.url}/asr", content=body, headers={"Content-Type": FORM}, timeout=TIMEOUT_S).raise_for_status()
    assert decoded_windows(server) - initial_windows == 2 * once


def test_an_error_in_the_fields_waits_for_the_fields_after_the_file(server: Server) -> None:
    body = form(
        ("timestamp_granularities[]", "word"),
        ("file", SPEECH),
        ("model", "whisper-1"),
        ("response_format", "verbose_json"),
    )
    headers = {"Content-Type": FORM}
    response = httpx.post(f"{server.url}/v1/audio/transcriptions", content=body, headers=headers, timeout=60)
    assert word_error_rate(FOX, " ".join(word["word"] for word in response.json()["words"])) == 0


@pytest.mark.parametrize("kind", ["body", "form", "events"])
def test_an_upload_that_breaks_off_leaves_no_file_and_no_request(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)  # bytes, so that a small file is stored on disk like a large one
    files, initial_windows = temporary_files(), decoded_windows(server)
    body = form(("language", "en"), ("file", wav(STORY))) if kind == "form" else wav(STORY)
    content_type = FORM if kind == "form" else "audio/wav"
    accept = {"Accept": "text/event-stream"} if kind == "events" else {}
    with Sender(server) as sender:
        sender.head(len(body), Content_Type=content_type, **accept)
        sender.send(body[: len(body) * 3 // 5])
        wait_until(lambda: decoded_windows(server) > initial_windows and temporary_files() != files)
    wait_until(lambda: not read_metrics(server)["asr_requests_open"] and temporary_files() == files)
    assert word_error_rate(FOX, httpx.post(f"{server.url}/asr", content=SPEECH, timeout=60).json()["text"]) == 0


@pytest.mark.parametrize("kind", ["audio/wav", FORM])
def test_an_unreadable_file_is_refused_before_it_has_arrived_in_full(server: Server, kind: str) -> None:
    noise = b"no sound " * 250_000
    body = form(("language", "en"), ("file", noise))[:-100] if kind == FORM else noise
    with Sender(server) as sender:
        sender.head(10**7, Content_Type=kind)
        sender.send(body)
        assert sender.status() == 415
        assert sender.content()["error"]["code"] == "unsupported_media"
        sender.send(bytes(10**7 - len(body)))  # it may go on sending, but then the connection is closed
        assert sender.answer.read() == b""
    for _ in range(2):
        with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:  # it sends everything before it reads
            assert client.post("/asr", content=noise * 4).status_code == 415
            assert word_error_rate(FOX, client.post("/asr", content=SPEECH).json()["text"]) == 0


def test_a_silent_upload_is_ended(pipeline: Pipeline) -> None:
    with serving(pipeline, upload_silence_s=0.1) as server:
        for headers in ({}, {"Content_Type": FORM}, {"Content_Type": "application/json"}):
            with Sender(server) as sender:
                sender.head(10**6, **headers)
                assert sender.status() == 504
                error = sender.content()["error"]
                assert error["code"] == "deadline_exceeded"
                assert "UPLOAD_SILENCE_S" in error["message"]


def test_json_that_arrives_bit_by_bit_is_ended(pipeline: Pipeline) -> None:
    with serving(pipeline, upload_silence_s=0.5) as server, Sender(server) as sender:
        sender.head(10**6, Content_Type="application/json")
        while not sender.is_answered():
            sender.send(b" ")
        assert sender.status() == 504


@pytest.mark.parametrize("kind", ["audio/wav", FORM])
def test_an_upload_that_is_too_slow_is_ended(pipeline: Pipeline, kind: str) -> None:
    body = form(("language", "en"), ("file", wav(STORY))) if kind == FORM else wav(STORY)
    limits = {"upload_silence_s": 0.5, "upload_min_rate": 10**9}
    with serving(pipeline, **limits) as server, Sender(server) as sender:
        sender.head(len(body), Content_Type=kind)
        position = 0
        while not sender.is_answered():
            sender.send(body[position : position + 1])
            position += 1
        assert sender.status() == 504
        error = sender.content()["error"]
        assert error["code"] == "deadline_exceeded"
        assert "UPLOAD_MIN_RATE" in error["message"]


@pytest.mark.parametrize("kind", ["audio/wav", FORM])
def test_the_time_limit_of_a_request_includes_its_upload(pipeline: Pipeline, kind: str) -> None:
    body = form(("language", "en"), ("file", wav(STORY))) if kind == FORM else wav(STORY)
    with serving(pipeline, request_timeout_s=0.5) as server, Sender(server) as sender:
        sender.head(len(body), Content_Type=kind)
        sender.send(body[: len(body) // 2])
        assert sender.status() == 504
        assert "REQUEST_TIMEOUT_S" in sender.content()["error"]["message"]


def test_a_terminated_server_reports_it_to_clients_that_still_send() -> None:
    data = FORMATS["flac"]()
    fields = form(("language", "en"), ("file", data))
    requests: dict[str, tuple[bytes, dict[str, str]]] = {
        "body": (data, {"Content_Type": "audio/flac"}),
        "form": (fields, {"Content_Type": FORM}),
        "stream": (data, {"Accept": "text/event-stream"}),
        "json": (b'{"url": "http://a/b"}', {"Content_Type": "application/json"}),
    }
    windows = {name.upper(): str(value) for name, value in SHORT_WINDOWS.items()}
    with spawn_server(DRAIN_TIMEOUT_S="1", **windows) as (process, server), ExitStack() as stack:
        assert process.stderr is not None
        senders = {name: stack.enter_context(Sender(server)) for name in requests}
        for name, sender in senders.items():
            body, headers = requests[name]
            sender.head(len(body), **headers)
            sender.send(body[: len(body) * 2 // 3])
        assert senders["stream"].status() == 200
        assert senders["stream"].event()[0] == "progress"
        process.terminate()
        log = process.stderr.read().decode()
        assert process.wait(TIMEOUT_S) == 0
        assert "Traceback" not in log
        while (event := senders["stream"].event())[0] == "progress":
            pass
        name, content = event
        assert name == "error"
        assert content["error"]["code"] == "cancelled"
        for name in requests.keys() - {"stream"}:
            assert senders[name].status() == 499
            assert senders[name].content()["error"]["code"] == "cancelled"


def test_an_audio_process_that_is_killed_costs_one_of_ten_requests() -> None:
    with spawn_server() as (process, server), ExitStack() as stack:
        (supervisor,) = children_of(process.pid)
        senders = [stack.enter_context(Sender(server)) for _ in range(10)]
        for sender in senders:
            sender.head(len(SPEECH))
            sender.send(SPEECH[: len(SPEECH) // 2])
        wait_until(lambda: len(children_of(supervisor)) == len(senders))
        os.kill(children_of(supervisor)[4], signal.SIGKILL)
        for sender in senders:
            sender.send(SPEECH[len(SPEECH) // 2 :])
        answers = [(sender.status(), sender.content()) for sender in senders]
        process.terminate()
    refused = [(status, content["error"]["code"]) for status, content in answers if status != 200]
    assert refused == [(422, "corrupt_media")]
    assert [content["text"] for status, content in answers if status == 200] == [FOX] * 9


def test_uploads_count_as_open_requests(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.transcription.admission.STARVED_S", math.inf)  # both requests have just begun
    with serving(pipeline, max_requests=1) as server, Sender(server) as sender:
        sender.head(len(SPEECH), Content_Type="audio/flac", Expect="100-continue")
        assert sender.status() == 100
        assert read_metrics(server)["asr_requests_open"] == 1
        with Sender(server) as second:
            second.head(len(SPEECH), Content_Type="audio/flac", Expect="100-continue")
            assert second.status() == 429  # without a status 100 before it
            assert second.content()["error"]["code"] == "overloaded"
            assert second.answer.read() == b""  # closed: its next bytes would be taken for the file
        assert httpx.post(f"{server.url}/asr", content=SPEECH).headers["Retry-After"] == "1"
        sender.send(SPEECH)
        assert sender.status() == 200
        assert word_error_rate(FOX, sender.content()["text"]) == 0


def test_uploads_that_wait_for_their_clients_hold_no_place(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.transcription.admission.STARVED_S", 0.0)
    with serving(pipeline, max_requests=1) as server, Sender(server) as sender:
        sender.head(len(SPEECH), Content_Type="audio/flac", Expect="100-continue")
        assert sender.status() == 100
        answer = httpx.post(f"{server.url}/asr", content=SPEECH)
        assert answer.status_code == 200
        sender.send(SPEECH)
        assert sender.status() == 200


COMPLETE_FORM = form(("a", "é"), ("file", b"\r\n--a-bound\r\n--a-boundary\n" * 9), ("b[]", ""), ("b[]", "2"))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_a_form_in_pieces_of_any_size_is_the_same(size: int) -> None:
    parsed = Form(FORM)
    file = b""
    for start in range(0, len(COMPLETE_FORM), size):
        file += b"".join(parsed.feed(COMPLETE_FORM[start : start + size]))
    parsed.end()
    assert file == b"\r\n--a-bound\r\n--a-boundary\n" * 9
    assert parsed.fields == [("a", "é"), ("b[]", ""), ("b[]", "2")]


INVALID: Mapping[str, tuple[bytes, str]] = {
    "no boundary in it": (b"abc", "multipart/form-data"),
    "no end": (COMPLETE_FORM[:-10], "ends before"),
    "no name": (COMPLETE_FORM.replace(b'name="a"', b"no=1"), "no name"),
    "another file": (form(("file", SPEECH), ("file", SPEECH)), "one file"),
    "a file of another name": (form(("sound", SPEECH)), "named file"),
    "a field that is no text": (COMPLETE_FORM.replace("é".encode(), b"\xff"), "UTF-8"),
    "fields without end": (form(("a", "x" * (MAX_FIELD_BYTES + 1))), "at most"),
    "too many of them": (form(*[("a", "")] * 1001), "at most"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_form_is_refused_with_the_reason(name: str, caplog: pytest.LogCaptureFixture) -> None:
    body, message = INVALID[name]
    with pytest.raises(InvalidRequest, match=message):  # noqa: PT012 - any of the calls may raise it
        parsed = Form(FORM)
        parsed.feed(body)
        parsed.end()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("content_type", "message"), [("multipart/form-data", "boundary"), (FORM + ";" * 10**6, "too long")]
)
def test_a_form_needs_a_boundary_and_a_short_content_type(content_type: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Form(content_type)
