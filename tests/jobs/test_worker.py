"""The queue worker: the SDK's loop in a process of its own, on a queue on loopback."""

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, TINY
from tests.support.queue_worker import ENVIRONMENT
from tests.support.sls_queue import Queue
from tests.support.speech import FOX, PANGRAM, SENTENCES, container, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

COMMAND = [sys.executable, "-m", "handler"]


def encode_speech(text: str) -> str:
    return base64.b64encode(wav(say(text), format="FLAC")).decode()


@dataclass
class Worker:
    queue: Queue
    web: Web
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Queue() as queue, Web() as web:
        changes = {"RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "true", "DOWNLOAD_TIMEOUT_S": "1", "MAX_BYTES": "20000000"}
        environment = {**ENVIRONMENT, **queue.environment(), **changes}
        process = subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield Worker(queue, web, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_job_is_answered_with_the_documented_object(worker: Worker) -> None:
    worker.queue.put("good", {"audio_base64": encode_speech(FOX), "language": "english"})
    output = worker.queue.answer("good")["output"]
    assert word_error_rate(FOX, output["text"]) == 0
    assert output["language"] == "en"
    assert output["model"] == TINY
    assert output["duration"] == pytest.approx(len(say(FOX)) / 16_000, abs=0.01)
    assert output["timing"]["total"] > 0
    assert output["warnings"] == []
    for chunk in output["chunks"]:
        start, end = chunk["timestamp"]
        assert 0 <= start <= end <= output["duration"]


def test_concurrent_jobs_get_their_own_texts(worker: Worker) -> None:
    for number, text in enumerate(SENTENCES):
        worker.queue.put(f"many-{number}", {"url": worker.web.put(f"/{number}", wav(say(text)))})
    for number, text in enumerate(SENTENCES):
        assert word_error_rate(text, worker.queue.answer(f"many-{number}")["output"]["text"]) <= 0.15


@pytest.mark.parametrize(
    ("format", "beginning"),
    [("srt", "1\n00:00:00,"), ("vtt", "WEBVTT\n"), ("tsv", "start\tend"), ("text", "The quick")],
)
def test_a_text_format_is_added_to_the_object(worker: Worker, format: str, beginning: str) -> None:
    worker.queue.put(format, {"audio_base64": encode_speech(FOX), "format": format})
    output = worker.queue.answer(format)["output"]
    assert output["formatted"].startswith(beginning)
    assert output["chunks"]


BAD_JOBS = {
    "no object": (["a"], "invalid_request"),
    "no source": ({"language": "en"}, "invalid_request"),
    "two sources": ({"url": "http://a/b", "audio_base64": "AA=="}, "invalid_request"),
    "a scheme": ({"url": "ftp://example.com/a.mp3"}, "invalid_request"),
    "a missing file": ({"url": "WEB/none"}, "download_refused"),
    "a host that never answers": ({"url": "WEB/hang"}, "download_failed"),
    "a body over the cap": ({"url": "WEB/big"}, "too_large"),
    "a text named mp3": ({"url": "WEB/text.mp3"}, "unsupported_media"),
    "a video without sound": ({"url": "WEB/mute.mp4"}, "no_audio_stream"),
    "an empty file": ({"url": "WEB/empty"}, "unsupported_media"),
    "no base64": ({"audio_base64": "!!!"}, "invalid_request"),
    "an unknown option": ({"audio_base64": "AA==", "colour": 1}, "invalid_request"),
    "an unknown language": ({"audio_base64": "AA==", "language": "klingon"}, "invalid_request"),
    "a language of other models": ({"audio_base64": "AA==", "language": "de"}, "invalid_request"),
    "half a character": ({"audio_base64": "AA==", "task": "\ud800"}, "invalid_request"),
    "half a character in an address": ({"url": "ftp://\ud800/"}, "invalid_request"),
}


@pytest.mark.parametrize("name", BAD_JOBS)
def test_a_bad_job_gets_its_error_as_a_string_and_the_next_job_works(worker: Worker, name: str) -> None:
    web = worker.web
    web.put("/big", bytes(20_000_001))
    web.put("/text.mp3", b"no sound " * 99)
    web.put("/empty", b"")
    web.put("/mute.mp4", container(None, "mp4", picture=True))
    payload, code = BAD_JOBS[name]
    if isinstance(payload, dict) and "url" in payload:
        payload = {**payload, "url": payload["url"].replace("WEB", web.url)}
    worker.queue.put(name, payload)
    error = worker.queue.answer(name)["error"]
    assert isinstance(error, str)
    assert error.startswith(f"{code}: ")
    worker.queue.put(f"after {name}", {"audio_base64": encode_speech(FOX)})
    assert word_error_rate(FOX, worker.queue.answer(f"after {name}")["output"]["text"]) == 0


@pytest.mark.parametrize("job_id", ["a%41", "a?b&c=d#e", "a/../b", "a\r\nX-A: b", "\0\x7f", "jöb 1", "$ID"])
def test_a_job_is_answered_whatever_its_id_and_the_next_job_works(worker: Worker, job_id: str) -> None:
    worker.queue.put(job_id, {"audio_base64": encode_speech(FOX)})
    assert word_error_rate(FOX, worker.queue.answer(job_id)["output"]["text"]) == 0
    worker.queue.put(f"after {job_id}", {"audio_base64": "?"})
    assert worker.queue.answer(f"after {job_id}")["error"].startswith("invalid_request: ")


@pytest.mark.parametrize("job_id", ["", ".", "..", "\ud800"])
def test_a_job_that_cannot_be_answered_is_left_out_and_the_next_job_works(worker: Worker, job_id: str) -> None:
    worker.queue.put(job_id, {"audio_base64": encode_speech(FOX)})
    worker.queue.put(f"after {job_id!a}", {"audio_base64": "?"})
    assert worker.queue.answer(f"after {job_id!a}")["error"].startswith("invalid_request: ")
    assert job_id not in worker.queue.answers


def test_a_cancelled_job_gets_no_answer_and_the_others_do(worker: Worker) -> None:
    story = wav(np.concatenate([say(text) for text in SENTENCES * 8]), format="FLAC")
    worker.web.request_received.clear()
    worker.queue.put("long", {"url": worker.web.put("/story", story)})
    assert worker.web.request_received.wait(60)
    worker.queue.put("other", {"audio_base64": encode_speech(PANGRAM)})
    worker.queue.stop("long")
    assert worker.queue.answer("other")["output"]["text"]
    worker.queue.put("again", {"url": worker.web.url + "/story"})
    assert worker.queue.answer("again")["output"]["duration"] > 200  # the cancelled one would be done by now, too
    assert "long" not in worker.queue.answers
    assert all(len(answers) == 1 for answers in worker.queue.answers.values())


def test_a_job_that_is_cancelled_as_soon_as_it_is_taken_gets_no_answer(worker: Worker) -> None:
    story = wav(np.concatenate([say(text) for text in SENTENCES * 8]), format="FLAC")
    job = {"audio_base64": base64.b64encode(story).decode()}
    for number in range(4):
        worker.queue.put(f"early {number}", job)
        worker.queue.wait_until_taken(f"early {number}")
        worker.queue.stop(f"early {number}")
    worker.queue.put("whole", job)
    assert worker.queue.answer("whole")["output"]["duration"] > 200  # the cancelled ones would be done by now, too
    assert not [job_id for job_id in worker.queue.answers if job_id.startswith("early")]


def test_a_private_address_is_blocked() -> None:
    with Queue() as queue:
        environment = {**ENVIRONMENT, **queue.environment()}
        environment.pop("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", None)
        with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
            queue.put("private", {"url": "http://127.0.0.1:9/a.mp3?key=hunter2"})
            error = queue.answer("private")["error"]
            worker.terminate()
    assert error.startswith("download_blocked: ")
    assert "hunter2" not in error


def test_the_sdk_runs_test_input_json_without_a_queue() -> None:
    process = subprocess.run(COMMAND, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0
    assert "The quick brown fox jumps over the lazy dog" in process.stdout
    assert "completed successfully" in process.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL_ID": "FOLDER"}, "model_unavailable: model folder"),
        ({"MODEL_ID": "pkg:no_such_package/x"}, "model_unavailable: MODEL_ID=pkg:no_such_package/x"),
        ({"BATCH_SIZE": "many"}, "BATCH_SIZE='many': expected auto or a whole number"),
        ({"CHUNK_LENGTH_S": "60"}, "CHUNK_LENGTH_S=60.0: expected at most 30"),
        ({"DEVICE": "cuda:99"}, "DEVICE='cuda:99': expected"),
    ],
)
@pytest.mark.parametrize(
    "entry_point", [["handler"], ["local_server"], ["handler.cli", "transcribe", "x.wav"]], ids=str
)
def test_no_entry_point_starts_with_a_bad_setting_or_model(
    changes: dict[str, str], message: str, entry_point: list[str], tmp_path: Path
) -> None:
    changes = {name: value.replace("FOLDER", str(tmp_path)) for name, value in changes.items()}
    environment = {**ENVIRONMENT, "PORT": "0", **changes}
    command = [sys.executable, "-m", *entry_point]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 3
    assert message in process.stderr.replace('\\"', '"')


def test_the_embedded_job_is_valid() -> None:
    from handler.schema.options import Options

    job = json.loads((ROOT / "test_input.json").read_text())
    options = {name: value for name, value in job["input"].items() if name != "audio_base64"}
    assert Options.parse(options).language == "en"
