"""`asr submit`: the command in a process of its own, on an endpoint on loopback with a real worker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.cli.submit import read_manifest
from handler.errors import InvalidRequest
from tests.conftest import ROOT
from tests.support.endpoint import Endpoint
from tests.support.queue_worker import Worker
from tests.support.sls_queue import Queue
from tests.support.speech import FOX, SENTENCES, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate


@pytest.fixture
def endpoint(queue: Queue) -> Iterator[Endpoint]:
    with Endpoint(queue) as server:
        yield server


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        for number, text in enumerate([FOX, *SENTENCES]):
            server.put(f"/{number}", wav(say(text), format="FLAC"))
        yield server


def submit(endpoint: Endpoint, manifest: Path, *flags: str, **changes: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "handler.cli", "submit", str(manifest), "--endpoint", "abc", *flags]
    environment = {**os.environ, **endpoint.environment(), **changes}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def records(manifest: Path) -> list[dict[str, Any]]:
    results = manifest.with_name(manifest.name + ".results.jsonl")
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_a_manifest_is_answered_line_by_line(endpoint: Endpoint, queue: Queue, web: Web, tmp_path: Path) -> None:
    manifest = tmp_path / "calls.txt"
    lines = [f"{web.url}/{number}" for number in range(6)]
    lines += [
        json.dumps({"url": f"{web.url}/0?token=hunter2", "format": "srt"}),
        "",
        f"{web.url}/cut",
        f"{web.url}/none",
    ]
    manifest.write_text("\n".join(lines))
    endpoint.failures_left = 1
    with Worker(queue, tmp_path / "log", GPU_PRICE_PER_SECOND="0.5"):
        process = submit(endpoint, manifest, "--in-flight", "3", "--retries", "1", "--language", "en")
        out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    by_line = {record["line"]: record for record in records(manifest)}
    assert sorted(by_line) == [1, 2, 3, 4, 5, 6, 7, 9, 10]
    for number, text in enumerate([FOX, *SENTENCES][:6], 1):
        assert word_error_rate(text, by_line[number]["output"]["text"]) <= 0.15
    assert by_line[7]["output"]["formatted"].startswith("1\n00:00:00,")
    assert by_line[7]["source"] == f"{web.url}/0"
    assert by_line[9]["error"].startswith("download_failed: ")  # tried twice
    assert by_line[10]["error"].startswith("download_refused: ")  # tried once
    assert len(endpoint.payloads) == 10
    assert all(payload["language"] == "en" for payload in endpoint.payloads)
    assert endpoint.max_open_jobs <= 3
    table = dict(line.split(maxsplit=1) for line in out.replace("files ", "files_").splitlines())
    assert table["files_transcribed"] == "7"
    assert table["files_failed"] == "2, 1 download_failed, 1 download_refused"
    assert float(table["price"].split(",")[0]) > 0
    assert "100%" in err
    assert "hunter2" not in out + err + json.dumps([{**record, "output": 0} for record in by_line.values()])


def test_an_interrupted_run_resumes_and_nothing_is_paid_for_twice(
    endpoint: Endpoint, queue: Queue, web: Web, tmp_path: Path
) -> None:
    manifest = tmp_path / "calls.txt"
    manifest.write_text("\n".join(f"{web.url}/{number}" for number in range(4)))
    first = submit(endpoint, manifest, "--in-flight", "2")
    queue.take("nobody", 1)  # is answered below
    queue.finish("job-0", {"output": {"text": "zero", "account": {"audio_s": 2.0}}})
    queue.wait_for(lambda: len(endpoint.payloads) >= 3, 60)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "files transcribed   1" in out
    assert len(endpoint.payloads) == 3
    for name in ("job-1", "job-2"):
        queue.finish(name, {"output": {"text": name, "account": {"audio_s": 2.0}}})
    queue.clear()
    second = submit(endpoint, manifest, "--in-flight", "2")
    queue.wait_for(lambda: len(endpoint.payloads) == 4, 60)
    queue.finish("job-3", {"output": {"text": "three", "account": {"audio_s": 2.0}}})
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "answered before     1, failed 0" in out
    assert "files transcribed   3" in out
    assert len(endpoint.payloads) == 4
    texts = [record["output"]["text"] for record in records(manifest)]
    assert sorted(texts) == ["job-1", "job-2", "three", "zero"]


@pytest.mark.parametrize(
    ("text", "flags", "changes", "code", "message"),
    [
        ("{no json", [], {}, 2, "calls.txt:1: expected an address or a JSON object"),
        ('\n{"uri": "x"}', [], {}, 2, "calls.txt:2: expected a JSON object with url"),
        ("http://a/b", ["--beam-size", "wide"], {}, 2, "calls.txt:1: beam_size must be a whole number from 1 to 64"),
        ("http://a/b", ["--in-flight", "0"], {}, 2, "expected a whole number from 1 to 1000"),
        ("http://a/b", [], {"RUNPOD_API_KEY": "wrong"}, 1, "401"),
    ],
)
def test_a_manifest_that_cannot_be_sent_says_why(
    endpoint: Endpoint, tmp_path: Path, text: str, flags: list[str], changes: dict[str, str], code: int, message: str
) -> None:
    manifest = tmp_path / "calls.txt"
    manifest.write_text(text)
    process = submit(endpoint, manifest, *flags, **changes)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert message in err
    assert "Traceback" not in err


def test_a_manifest_may_have_a_byte_order_mark_and_lines_of_windows(tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes('\ufeffhttp://a/é\r\n\r\n{"url": "http://a/2", "vad": false}\r\n'.encode())
    items = read_manifest(tmp_path / "calls", {"language": "en", "prompt": None})
    assert [(item.line, item.payload) for item in items] == [
        (1, {"url": "http://a/é", "language": "en"}),
        (3, {"url": "http://a/2", "language": "en", "vad": False}),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"url": ' + b"[" * 100_000, "calls:1: expected an address or a JSON object"),
        (b'{"url": "http://a/b", "beam_size": ' + b"5" * 5000 + b"}", "calls:1: expected an address or a JSON object"),
        (b'{"url": 5}', "calls:1: expected a JSON object with url"),
        (b'{"url": "http://a/b", "suppress_tokens": "--5"}', "calls:1: suppress_tokens must be"),
        (b"http://a/\xff", "calls: expected text in UTF-8; byte 10 is none of it"),
    ],
    ids=["deep", "digits", "url", "option", "bytes"],
)
def test_a_line_that_cannot_be_used_is_refused_by_its_number(tmp_path: Path, line: bytes, expected: str) -> None:
    (tmp_path / "calls").write_bytes(line)
    with pytest.raises(InvalidRequest) as refusal:
        read_manifest(tmp_path / "calls", {})
    assert refusal.value.message.startswith(expected)
