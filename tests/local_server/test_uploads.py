"""Uploads: transcribed while they arrive, answered as soon as there is an answer, and nothing left of those that break off."""

import io
import json
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from handler.audio import spool
from handler.errors import InvalidRequest
from handler.transcription.pipeline import Pipeline
from local_server.uploads.multipart import MOST_BYTES, Form
from tests.audio.test_streaming import temporary_files
from tests.support.asking import STORY
from tests.support.serving import FAIL_S, Server, figures, serving, spawned, until
from tests.support.speech import FOX, SENTENCES, container, say, wav
from tests.support.word_errors import word_error_rate

SPEECH = wav(say(FOX), format="FLAC")
TOLD = " ".join(SENTENCES * 2)
FORMATS: dict[str, Callable[[], bytes]] = {
    "wav": partial(wav, STORY), "flac": partial(wav, STORY, format="FLAC"), "mp3": partial(container, STORY, "mp3", "libmp3lame"),
}  # fmt: skip
BOUNDARY = "a-boundary"


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline) as running:
        yield running


class Sender:
    """A client that sends when it likes, and reads meanwhile."""

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
        """The first lines of a request with a body of so many bytes."""
        lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {size}", *(f"{name}: {value}" for name, value in headers.items())]
        self.send("\r\n".join([*lines, "", ""]).replace("Content_", "Content-").encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def is_answered(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def status(self) -> int:
        """The status of the next answer, whose head is read."""
        status = int(self.answer.readline().split()[1])
        self._size = 0
        while line := self.answer.readline().strip():
            name, _, value = line.decode().partition(": ")
            self._size = int(value) if name.lower() == "content-length" else self._size
        return status

    def content(self) -> Any:
        """The body of that answer, which is JSON."""
        return json.loads(self.answer.read(self._size))

    def event(self) -> tuple[str, dict[str, Any]]:
        """The next event of a stream, whatever pieces it comes in."""
        while not (line := self.answer.readline()).startswith(b"event: "):
            assert line, "the stream has ended"
        return line.decode().split()[1], json.loads(self.answer.readline().removeprefix(b"data: "))


@pytest.mark.parametrize("format", FORMATS)
def test_there_is_text_long_before_the_last_byte(server: Server, format: str) -> None:
    data = FORMATS[format]()
    with Sender(server) as sender:
        sender.head(len(data), Accept="text/event-stream")
        sender.send(data[: len(data) // 2])
        assert sender.status() == 200
        name, told = sender.event()
        assert name == "progress"
        assert word_error_rate(TOLD[: len(told["text"])], told["text"]) < 0.2
        sender.send(data[len(data) // 2 :])
        while name != "done":
            name, told = sender.event()
    assert word_error_rate(TOLD, told["text"]) <= 0.05


def windows(server: Server) -> float:
    """Those decoded so far."""
    return figures(server)["asr_windows_total"]


class Halting(io.BytesIO):
    """A file whose second half cannot be read before the server has decoded something of the first."""

    def __init__(self, data: bytes, server: Server) -> None:
        super().__init__(data)
        self._half = len(data) // 2
        self._decoded = partial(windows, server)
        self._before = windows(server)

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._half:
            until(lambda: self._decoded() > self._before)
        return super().read(min(size or 0, self._half) if size and size > 0 else size)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_file_of_the_openai_package_is_decoded_while_it_is_sent(server: Server, format: str, stream: bool) -> None:
    upload = ("story", Halting(FORMATS[format](), server))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120) as client:
        if stream:
            *deltas, done = list(client.audio.transcriptions.create(file=upload, model="whisper-1", language="en", stream=True))
            assert "".join(event.delta for event in deltas) == done.text  # type: ignore[union-attr]
            text = done.text  # type: ignore[union-attr]
        else:
            text = client.audio.transcriptions.create(file=upload, model="whisper-1", language="en").text
    assert word_error_rate(TOLD, text) <= 0.05


def test_headers_of_wav_files_that_arrive_hold_nobody_up(server: Server) -> None:
    data = wav(say(FOX))
    with Sender(server) as first, Sender(server) as second:
        for sender in (first, second):  # half a header each
            sender.head(len(data), Content_Type="audio/wav")
            sender.send(data[:30])
        for other in (data, SPEECH):
            assert word_error_rate(FOX, httpx.post(f"{server.url}/asr", content=other, timeout=FAIL_S).json()["text"]) == 0
        for sender in (first, second):
            sender.send(data[30:])
            assert sender.status() == 200
            assert word_error_rate(FOX, sender.content()["text"]) == 0


@pytest.mark.parametrize("behind", [b"", b"LIST\x04\0\0\0INFO"])
def test_a_wav_file_of_unknown_length_is_decoded_before_its_end(server: Server, behind: bytes) -> None:
    data, before = wav(STORY) + behind, windows(server)

    def pieces() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        until(lambda: windows(server) > before)
        yield data[len(data) // 2 :]

    answer = httpx.post(f"{server.url}/asr", content=pieces(), timeout=FAIL_S)
    assert word_error_rate(TOLD, answer.json()["text"]) <= 0.05


def form(*parts: tuple[str, str | bytes]) -> bytes:
    """A form with its parts in this order; bytes are a file."""
    body = b""
    for name, value in parts:
        named = '; filename="a.flac"\r\nContent-Type: audio/flac' if isinstance(value, bytes) else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        body += head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.mark.parametrize("early", [True, False])
def test_a_field_that_comes_behind_the_file_counts_as_well(server: Server, early: bool) -> None:
    before = windows(server)
    body = form(*([("language", "en")] if early else []), ("file", FORMATS["flac"]()), ("format", "srt"))
    with Sender(server) as sender:
        sender.head(len(body), Content_Type=FORM)
        sender.send(body[:-200])
        if early:
            until(lambda: windows(server) > before)  # it has been begun without the format
        sender.send(body[-200:])
        assert sender.status() == 200
        answer = sender.answer.readline()
    assert answer == b"1\r\n" or answer == b"1\n"


def test_a_stream_tells_nothing_of_what_was_begun_too_early(server: Server) -> None:
    before = windows(server)
    body = form(("model", "whisper-1"), ("stream", "true"), ("file", FORMATS["mp3"]()), ("language", "klingon"))
    with Sender(server) as sender:
        sender.head(len(body), "/v1/audio/transcriptions", Content_Type=FORM)
        sender.send(body[:-200])
        until(lambda: windows(server) > before)
        sender.send(body[-200:])
        assert sender.status() == 400
        assert "klingon" in sender.content()["error"]["message"]
    until(lambda: not figures(server)["asr_requests_open"])


@pytest.mark.parametrize("order", ["field, file", "file, field", "file"])
@pytest.mark.parametrize("end", ["", "\r\n"])
def test_a_form_is_decoded_once_whatever_its_order_and_its_last_bytes(server: Server, order: str, end: str) -> None:
    parts: dict[str, tuple[str, str | bytes]] = {"file": ("file", FORMATS["flac"]()), "field": ("language", "en")}
    body = form(*(parts[name] for name in order.split(", "))).removesuffix(b"\r\n") + end.encode()
    before = windows(server)
    httpx.post(f"{server.url}/asr", content=wav(STORY), timeout=FAIL_S).raise_for_status()
    once = windows(server) - before
    httpx.post(f"{server.url}/asr", content=body, headers={"Content-Type": FORM}, timeout=FAIL_S).raise_for_status()
    assert windows(server) - before == 2 * once


def test_an_error_of_the_fields_waits_for_those_that_are_still_to_come(server: Server) -> None:
    body = form(("timestamp_granularities[]", "word"), ("file", SPEECH), ("model", "whisper-1"), ("response_format", "verbose_json"))
    got = httpx.post(f"{server.url}/v1/audio/transcriptions", content=body, headers={"Content-Type": FORM}, timeout=60)
    assert word_error_rate(FOX, " ".join(word["word"] for word in got.json()["words"])) == 0


@pytest.mark.parametrize("kind", ["body", "form", "events"])
def test_an_upload_that_breaks_off_leaves_nothing(server: Server, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)  # bytes: what a large file does, a small one does too
    files, before = temporary_files(), windows(server)
    body = form(("language", "en"), ("file", wav(STORY))) if kind == "form" else wav(STORY)
    accept = {"Accept": "text/event-stream"} if kind == "events" else {}
    with Sender(server) as sender:
        sender.head(len(body), Content_Type=FORM if kind == "form" else "audio/wav", **accept)
        sender.send(body[: len(body) // 2])
        until(lambda: windows(server) > before and temporary_files() != files)
    until(lambda: not figures(server)["asr_requests_open"] and temporary_files() == files)
    assert word_error_rate(FOX, httpx.post(f"{server.url}/asr", content=SPEECH, timeout=60).json()["text"]) == 0


@pytest.mark.parametrize("kind", ["audio/wav", FORM])
def test_a_file_that_cannot_be_read_is_refused_before_all_of_it_has_come(server: Server, kind: str) -> None:
    noise = b"no sound " * 250_000
    body = form(("language", "en"), ("file", noise))[:-100] if kind == FORM else noise
    with Sender(server) as sender:
        sender.head(10**7, Content_Type=kind)
        sender.send(body)
        assert sender.status() == 415
        assert sender.content()["error"]["code"] == "unsupported_media"
        sender.send(bytes(10**7 - len(body)))  # it may go on sending, but the connection ends there
        assert sender.answer.read() == b""
    for _ in range(2):
        with httpx.Client(base_url=server.url, timeout=FAIL_S) as client:  # as for a client that sends first and reads then
            assert client.post("/asr", content=noise * 4).status_code == 415
            assert word_error_rate(FOX, client.post("/asr", content=SPEECH).json()["text"]) == 0


def test_an_upload_that_stands_still_ends(pipeline: Pipeline) -> None:
    with serving(pipeline, upload_silence_s=0.1) as server:
        for headers in ({}, {"Content_Type": FORM}, {"Content_Type": "application/json"}):
            with Sender(server) as sender:
                sender.head(10**6, **headers)
                assert sender.status() == 504
                error = sender.content()["error"]
                assert error["code"] == "deadline_exceeded"
                assert "UPLOAD_SILENCE_S" in error["message"]


def test_what_comes_before_a_file_has_to_come_at_once(pipeline: Pipeline) -> None:
    with serving(pipeline, upload_silence_s=0.5) as server, Sender(server) as sender:
        sender.head(10**6, Content_Type="application/json")
        while not sender.is_answered():
            sender.send(b" ")
        assert sender.status() == 504


@pytest.mark.parametrize("kind", ["audio/wav", FORM])
def test_the_time_of_a_request_holds_its_upload(pipeline: Pipeline, kind: str) -> None:
    body = form(("language", "en"), ("file", wav(STORY))) if kind == FORM else wav(STORY)
    with serving(pipeline, request_timeout_s=0.5) as server, Sender(server) as sender:
        sender.head(len(body), Content_Type=kind)
        sender.send(body[: len(body) // 2])
        assert sender.status() == 504
        assert "REQUEST_TIMEOUT_S" in sender.content()["error"]["message"]


def test_a_server_that_ends_says_so_to_those_that_still_send() -> None:
    data = FORMATS["flac"]()
    fields = form(("language", "en"), ("file", data))
    asking: dict[str, tuple[bytes, dict[str, str]]] = {
        "body": (data, {"Content_Type": "audio/flac"}), "form": (fields, {"Content_Type": FORM}),
        "stream": (data, {"Accept": "text/event-stream"}), "json": (b'{"url": "http://a/b"}', {"Content_Type": "application/json"}),
    }  # fmt: skip
    with spawned(DRAIN_TIMEOUT_S="1") as (process, server), ExitStack() as stack:
        assert process.stderr is not None
        senders = {name: stack.enter_context(Sender(server)) for name in asking}
        for name, sender in senders.items():
            body, headers = asking[name]
            sender.head(len(body), **headers)
            sender.send(body[: len(body) * 2 // 3])
        assert senders["stream"].status() == 200
        assert senders["stream"].event()[0] == "progress"
        process.terminate()
        log = process.stderr.read().decode()
        assert process.wait(FAIL_S) == 0
        assert "Traceback" not in log
        while (told := senders["stream"].event())[0] == "progress":
            pass
        assert told[0] == "error"
        assert told[1]["error"]["code"] == "cancelled"
        for name in asking.keys() - {"stream"}:
            assert senders[name].status() == 499
            assert senders[name].content()["error"]["code"] == "cancelled"


def test_uploads_that_arrive_count_as_requests_in_work(pipeline: Pipeline) -> None:
    with serving(pipeline, max_requests=1) as server, Sender(server) as sender:
        sender.head(len(SPEECH), Content_Type="audio/flac", Expect="100-continue")
        assert sender.status() == 100
        assert figures(server)["asr_requests_open"] == 1
        with Sender(server) as other:
            other.head(len(SPEECH), Content_Type="audio/flac", Expect="100-continue")
            assert other.status() == 429  # and no word to go on before
            assert other.content()["error"]["code"] == "overloaded"
            assert other.answer.read() == b""  # what it sends next would be taken for the file
        assert httpx.post(f"{server.url}/asr", content=SPEECH).headers["Retry-After"] == "1"
        sender.send(SPEECH)
        assert sender.status() == 200
        assert word_error_rate(FOX, sender.content()["text"]) == 0


WHOLE = form(("a", "é"), ("file", b"\r\n--a-bound\r\n--a-boundary\n" * 9), ("b[]", ""), ("b[]", "2"))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_a_form_in_pieces_of_any_size_is_the_same(size: int) -> None:
    made = Form(FORM)
    file = b"".join(part for at in range(0, len(WHOLE), size) for part in made.feed(WHOLE[at : at + size]))
    made.end()
    assert file == b"\r\n--a-bound\r\n--a-boundary\n" * 9
    assert made.fields == [("a", "é"), ("b[]", ""), ("b[]", "2")]


BAD: Mapping[str, tuple[bytes, str]] = {
    "no boundary in it": (b"abc", "multipart/form-data"),
    "no end": (WHOLE[:-10], "ends before"),
    "no name": (WHOLE.replace(b'name="a"', b"no=1"), "no name"),
    "another file": (form(("file", SPEECH), ("file", SPEECH)), "one file"),
    "a file of another name": (form(("sound", SPEECH)), "named file"),
    "a field that is no text": (WHOLE.replace("é".encode(), b"\xff"), "UTF-8"),
    "fields without end": (form(("a", "x" * (MOST_BYTES + 1))), "at most"),
    "too many of them": (form(*[("a", "")] * 1001), "at most"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_form_that_is_none_is_refused_by_what_is_wrong(name: str) -> None:
    body, said = BAD[name]
    with pytest.raises(InvalidRequest, match=said):  # noqa: PT012 - whichever finds it
        made = Form(FORM)
        made.feed(body)
        made.end()


@pytest.mark.parametrize(("kind", "said"), [("multipart/form-data", "boundary"), (FORM + ";" * 10**6, "too long")])
def test_a_form_needs_a_boundary_and_no_more(kind: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Form(kind)
