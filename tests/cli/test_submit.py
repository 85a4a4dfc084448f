"""`asr submit`: the command in a process of its own, an endpoint on loopback, a real worker behind it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.endpoint import Endpoint
from tests.support.queue_worker import Worker
from tests.support.sls_queue import Queue
from tests.support.speech import FOX, SENTENCES, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate


@pytest.fixture
def endpoint(queue: Queue) -> Iterator[Endpoint]:
    with Endpoint(queue) as made:
        yield made


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as made:
        for number, text in enumerate([FOX, *SENTENCES]):
            made.put(f"/{number}", wav(say(text), format="FLAC"))
        yield made


def submit(endpoint: Endpoint, manifest: Path, *flags: str, **changes: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "handler.cli", "submit", str(manifest), "--endpoint", "abc", *flags]
    environment = {**os.environ, **endpoint.environment(), **changes}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def records(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.with_name(manifest.name + ".results.jsonl").read_text().splitlines()]


def test_a_manifest_is_answered_line_by_line(endpoint: Endpoint, queue: Queue, web: Web, tmp_path: Path) -> None:
    manifest = tmp_path / "calls.txt"
    lines = [f"{web.url}/{number}" for number in range(6)]
    lines += [json.dumps({"url": f"{web.url}/0?token=hunter2", "format": "srt"}), "", f"{web.url}/none"]
    manifest.write_text("\n".join(lines))
    endpoint.down = 1
    with Worker(queue, tmp_path / "log", GPU_PRICE_PER_SECOND="0.5"):
        process = submit(endpoint, manifest, "--in-flight", "3", "--retries", "1", "--language", "en")
        out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    found = {record["line"]: record for record in records(manifest)}
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7, 9]
    for number, text in enumerate([FOX, *SENTENCES][:6], 1):
        assert word_error_rate(text, found[number]["output"]["text"]) <= 0.15
    assert found[7]["output"]["formatted"].startswith("1\n00:00:00,")
    assert found[7]["source"] == f"{web.url}/0"
    assert found[9]["error"].startswith("download_failed: ")  # tried twice
    assert len(endpoint.sent) == 9
    assert all(given["language"] == "en" for given in endpoint.sent)
    assert endpoint.most_open <= 3
    table = dict(line.split(maxsplit=1) for line in out.replace("files ", "files_").splitlines())
    assert table["files_transcribed"] == "7"
    assert table["files_failed"] == "1, 1 download_failed"
    assert float(table["price"].split(",")[0]) > 0
    assert "100%" in err
    assert "hunter2" not in out + err + json.dumps([{**record, "output": 0} for record in found.values()])


def test_what_was_broken_off_goes_on_and_nothing_is_paid_twice(endpoint: Endpoint, queue: Queue, web: Web, tmp_path: Path) -> None:
    manifest = tmp_path / "calls.txt"
    manifest.write_text("\n".join(f"{web.url}/{number}" for number in range(4)))
    first = submit(endpoint, manifest, "--in-flight", "2")
    queue._take("nobody", 1)  # is answered below
    queue._done("job-0", {"output": {"text": "zero", "account": {"audio_s": 2.0}}})
    with queue._changed:
        assert queue._changed.wait_for(lambda: len(endpoint.sent) >= 3, 60)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "files transcribed   1" in out
    assert len(endpoint.sent) == 3
    for name in ("job-1", "job-2"):
        queue._done(name, {"output": {"text": name, "account": {"audio_s": 2.0}}})
    with queue._changed:
        queue._jobs.clear()
    second = submit(endpoint, manifest, "--in-flight", "2")
    with queue._changed:
        assert queue._changed.wait_for(lambda: len(endpoint.sent) == 4, 60)
    queue._done("job-3", {"output": {"text": "three", "account": {"audio_s": 2.0}}})
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "answered before     1, failed 0" in out
    assert "files transcribed   3" in out
    assert len(endpoint.sent) == 4
    assert sorted(record["output"]["text"] for record in records(manifest)) == ["job-1", "job-2", "three", "zero"]


@pytest.mark.parametrize(
    ("text", "flags", "changes", "code", "told"),
    [
        ("{no json", [], {}, 2, "calls.txt:1: expected an address or a JSON object"),
        ('\n{"uri": "x"}', [], {}, 2, "calls.txt:2: expected a JSON object with url"),
        ("http://a/b", ["--beam-size", "wide"], {}, 2, "calls.txt:1: beam_size must be a number from 1 to 64"),
        ("http://a/b", ["--in-flight", "0"], {}, 2, "expected a whole number from 1 to 1000"),
        ("http://a/b", [], {"RUNPOD_API_KEY": "wrong"}, 1, "401"),
    ],
)
def test_what_cannot_be_sent_says_why(
    endpoint: Endpoint, tmp_path: Path, text: str, flags: list[str], changes: dict[str, str], code: int, told: str
) -> None:
    manifest = tmp_path / "calls.txt"
    manifest.write_text(text)
    process = submit(endpoint, manifest, *flags, **changes)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert told in err
    assert "Traceback" not in err
