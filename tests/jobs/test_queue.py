"""The queue under load and failures: the SDK's loop in processes of their own, real weights, a queue on loopback."""

import base64
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TINY
from tests.support.queue_worker import DEVICE_LOSS_CODE, Worker
from tests.support.sls_queue import Queue
from tests.support.speech import FOX, PANGRAM, SENTENCES, container, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

REPEATS = 8  # for four minutes
PAUSE = silence(0.6)
STORY = wav(np.concatenate([np.concatenate([say(text), PAUSE]) for text in SENTENCES * REPEATS]), format="FLAC")
STORY_TEXT = " ".join(SENTENCES * REPEATS)
JOB_COUNT, BURST = 200, 50
BAD_EVERY = 5  # each fifth job is bad
BAD_PATHS = [
    ("/none", "download_refused"),
    ("/hang", "download_failed"),
    ("/cut", "download_failed"),
    ("/trickle", "download_failed"),
    ("/big", "too_large"),
    ("/text.mp3", "unsupported_media"),
    ("/mute.mp4", "no_audio_stream"),
    ("/empty", "unsupported_media"),
]
BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"upload": "always"}, "too_large"),
    ({"upload": 1}, "invalid_request"),
    ({"start_at": 99}, "invalid_request"),
    ({"translate": True}, "invalid_request"),
    ({"translation": "prose"}, "invalid_request"),
]  # of jobs with good audio
BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"language": "en"}, "invalid_request"),
    ({"url": "http://a/b", "audio_base64": "AA=="}, "invalid_request"),
    ({"url": "ftp://example.com/a.mp3"}, "invalid_request"),
    ({"audio_base64": "!!!"}, "invalid_request"),
    ({"audio_base64": "AA==", "colour": 1}, "invalid_request"),
    ({"audio_base64": "AA==", "language": "klingon"}, "invalid_request"),
    ({"audio_base64": "AA==", "language": "de"}, "invalid_request"),
    ({"audio_base64": "AA==", "task": "\ud800"}, "invalid_request"),
    ({"url": "ftp://\ud800/"}, "invalid_request"),
    ({"urls": []}, "invalid_request"),
    ({"urls": "x"}, "invalid_request"),
    ({"audio_base64": "AA==", "beam_size": 99}, "invalid_request"),
    ({"audio_base64": "AA==", "temperature": "warm"}, "invalid_request"),
    ({"audio": 7}, "invalid_request"),
    ({"audio_base64": "AA==", "model": "large-v9"}, "invalid_request"),
    ({"audio_base64": 5}, "invalid_request"),
    ({"url": "http://a..invalid/a"}, "download_blocked"),
    ({"url": "http://127.0.0.1:1/a"}, "download_failed"),
    ({"url": "s3://nobody/a"}, "download_blocked"),
    ({"audio_base64": "AA==", "vad": "perhaps"}, "invalid_request"),
    ({"audio_base64": "AA==", "partial": 3}, "invalid_request"),
    ({"audio_base64": "AA==", "format": "docx"}, "invalid_request"),
    ({"audio_base64": "AA==", "channels": 2}, "invalid_request"),
    ({"audio_base64": "AA==", "patience": 0}, "invalid_request"),
    ({"audio_base64": "AA==", "suppress_tokens": "x"}, "invalid_request"),
    ({"audio_base64": "AA==", "initial_prompt": "a", "prompt": "b"}, "invalid_request"),
]
GOOD_FIELDS: list[dict[str, Any]] = [
    {},
    {"timestamps": "word"},
    {"format": "srt"},
    {"beam_size": 2},
    {"hotwords": "Fust"},
    {"vad": False},
    {"word_timestamps": True},
]


@pytest.fixture
def web(queue: Queue) -> Iterator[Web]:
    with Web() as server:
        server.put("/story", STORY)
        server.put("/fox", wav(say(FOX)))
        yield server


def encode_speech(text: str) -> str:
    return base64.b64encode(wav(say(text), format="FLAC")).decode()


def bad_jobs(web: Web) -> list[tuple[dict[str, Any], str]]:
    """Return the inputs of jobs that fail, each with its error code."""
    web.put("/big", bytes(20_000_001))
    web.put("/text.mp3", b"no sound " * 99)
    web.put("/empty", b"")
    web.put("/mute.mp4", container(None, "mp4", picture=True))
    speech = encode_speech(FOX)
    upload = {"audio_base64": speech, "upload": "always", "upload_url": f"{web.url}/x"}
    return [
        *(({"url": f"{web.url}{path}"}, code) for path, code in BAD_PATHS),
        *BAD_INPUTS,
        *(({"audio_base64": speech, **fields}, code) for fields, code in BAD_FIELDS),
        (upload, "upload_failed"),
    ]


def mixed_jobs(web: Web) -> dict[str, tuple[dict[str, Any], str]]:
    """Return JOB_COUNT jobs by name: their input, and the text or the error code that their answer has."""
    texts = [FOX, PANGRAM, *SENTENCES]
    for index, text in enumerate(texts):
        web.put(f"/say/{index}", wav(say(text), format="FLAC"))
    bad = bad_jobs(web)
    jobs: dict[str, tuple[dict[str, Any], str]] = {}
    for number in range(JOB_COUNT):
        if number % BAD_EVERY == BAD_EVERY - 1:
            jobs[f"bad-{number}"] = bad[number // BAD_EVERY]
        else:
            index = number % len(texts)
            fields = GOOD_FIELDS[number % len(GOOD_FIELDS)]
            jobs[f"good-{number}"] = {"url": f"{web.url}/say/{index}", **fields}, texts[index]
    return jobs


def put_in_bursts(queue: Queue, jobs: dict[str, tuple[dict[str, Any], str]], cancelled: set[str]) -> None:
    """Queue jobs in bursts, and cancel some others after the first burst, once they are running."""
    names = list(jobs)
    for start in range(0, len(names), BURST):
        for name in names[start : start + BURST]:
            queue.put(name, jobs[name][0])
        if start == 0:
            queue.wait_until_taken(max(cancelled))
        queue.answer(names[start])
        if start == 0:
            for name in sorted(cancelled):
                queue.stop(name)


def test_two_hundred_jobs_survive_cancels_and_the_end_of_a_worker(queue: Queue, web: Web, tmp_path: Path) -> None:
    limits = {"DOWNLOAD_TIMEOUT_S": "3", "MAX_BYTES": "20000000", "MAX_REQUESTS": "64"}
    limits |= {"CONCURRENCY": "24", "DRAIN_TIMEOUT_S": "1"}
    jobs = mixed_jobs(web)
    assert len({repr(payload) for name, (payload, _) in jobs.items() if name.startswith("bad")}) == 40
    cancelled = {f"long-{number}" for number in range(4)}
    with Worker(queue, tmp_path / "first", "first", **limits) as first:
        for name in sorted(cancelled):
            queue.put(name, {"url": f"{web.url}/story"})
        put_in_bursts(queue, jobs, cancelled)
        assert first.stop() == 0
        requeued = queue.requeue("first")
    with Worker(queue, tmp_path / "second", "second", **limits) as second:
        for name, (_, expected) in jobs.items():
            answer = queue.answer(name)
            if name.startswith("bad"):
                assert isinstance(answer["error"], str)
                assert answer["error"].startswith(f"{expected}: "), name
            else:
                assert word_error_rate(expected, answer["output"]["text"]) <= 0.15, name
        assert second.stop() == 0
    assert {name: len(answers) for name, answers in queue.answers.items()} == dict.fromkeys(jobs, 1)
    assert queue.posts_after_answer == []
    assert len(first.events("drain_started")) == 1
    assert set(requeued) <= set(jobs)
    assert first.events("job_crashed") == second.events("job_crashed") == []


def test_jobs_unfinished_at_the_drain_deadline_are_left_to_another_worker(
    queue: Queue, web: Web, tmp_path: Path
) -> None:
    with Worker(queue, tmp_path / "first", "first", DRAIN_TIMEOUT_S="0", PROGRESS_INTERVAL_S="0.05") as first:
        queue.put("fox", {"url": f"{web.url}/fox"})
        queue.answer("fox")
        queue.put("story", {"url": f"{web.url}/partly?/story"})
        queue.update("story")
        assert first.stop() == 0
        assert first.events("drain_cut")[0]["jobs"] == ["story"]
    assert list(queue.answers) == ["fox"]
    assert queue.requeue("first") == ["story"]
    web.released.set()
    with Worker(queue, tmp_path / "second", "second"):
        assert queue.answer("story")["output"]["duration"] > 200


def test_updates_have_the_progress_of_a_job_and_none_comes_after_its_answer(
    queue: Queue, web: Web, tmp_path: Path
) -> None:
    with Worker(queue, tmp_path / "log", PROGRESS_INTERVAL_S="0.05"):
        queue.put("half", {"url": f"{web.url}/partly?/story"})
        first = queue.update("half", lambda update: bool(update["text"]))
        assert 0 < first["percent"] < 100
        assert first["seconds_left"] > 0
        web.released.set()
        text = queue.answer("half")["output"]["text"]
        queue.put("fox", {"url": f"{web.url}/fox"})
        queue.answer("fox")
    assert queue.posts_after_answer == []
    done_s = [update["done_s"] for update in queue.updates["half"]]
    assert done_s == sorted(done_s)
    assert all(text.startswith(update["text"]) for update in queue.updates["half"])


def test_without_an_interval_there_are_no_updates(queue: Queue, web: Web, tmp_path: Path) -> None:
    with Worker(queue, tmp_path / "log", PROGRESS_INTERVAL_S="0"):
        queue.put("story", {"url": f"{web.url}/story"})
        queue.answer("story")
    assert not queue.updates


def test_a_stream_comes_in_order_and_its_aggregate_is_the_answer(queue: Queue, web: Web, tmp_path: Path) -> None:
    with Worker(queue, tmp_path / "log", RUNPOD_STREAM="1"):
        queue.put("story", {"url": f"{web.url}/story"})
        queue.put("bad", {"url": f"{web.url}/none"})
        queue.put("compatible", {"audio": f"{web.url}/fox", "model": TINY})
        parts = [part["output"] for part in queue.streams["story"]] if queue.answer("story") else []
        assert queue.answer("story")["output"] == parts
        assert queue.answer("bad")["error"].startswith("download_refused: ")
        (compatible,) = queue.answer("compatible")["output"]
    *texts, last = parts
    assert len(texts) > 3
    assert word_error_rate(STORY_TEXT, "".join(part["text"] for part in texts)) <= 0.05
    chunks = chain.from_iterable(part["chunks"] for part in texts)
    starts = [chunk["timestamp"][0] for chunk in chunks]
    assert starts == sorted(starts)
    assert last["account"]["audio_s"] == last["duration"] > 200
    assert {"coverage", "warnings"} <= set(last)
    assert "text" not in last
    assert word_error_rate(FOX, compatible["transcription"]) == 0
    assert not queue.updates
    assert queue.posts_after_answer == []


def inodes(resume_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in resume_dir.glob("??/*")}


def test_a_worker_resumes_the_job_of_a_killed_one(queue: Queue, web: Web, tmp_path: Path) -> None:
    resume_dir = tmp_path / "resume"
    variables = {"RESUME_DIR": str(resume_dir), "PROGRESS_INTERVAL_S": "0.05"}
    payload = {"url": f"{web.url}/partly?/story", "timestamps": "word"}
    with Worker(queue, tmp_path / "first", "first", **variables):  # is killed at the end of the block
        queue.put("story", payload)
        queue.update("story")
    first_inodes = inodes(resume_dir)
    assert first_inodes
    web.released.set()
    assert queue.requeue("first") == ["story"]
    with Worker(queue, tmp_path / "second", "second", **variables):
        resumed = queue.answer("story")["output"]
        second_inodes = inodes(resume_dir)
        queue.put("identical", payload)
        identical = queue.answer("identical")["output"]
    assert {path: second_inodes[path] for path in first_inodes} == first_inodes  # no window was decoded twice
    assert len(second_inodes) > len(first_inodes)
    assert set(inodes(resume_dir).values()) == set(second_inodes.values())
    assert identical["timing"]["device"] == 0
    with Worker(queue, tmp_path / "third", "third"):
        queue.put("fresh", payload)
        fresh = queue.answer("fresh")["output"]
    assert resumed["chunks"] == identical["chunks"] == fresh["chunks"]


def test_the_example_of_worker_faster_whisper_has_the_fields_that_its_clients_read(
    queue: Queue, web: Web, tmp_path: Path
) -> None:
    web.put("/gettysburg.wav", wav(say(FOX)))
    with Worker(queue, tmp_path / "log", MODEL_ALIASES="turbo"):
        queue.put("example", {"audio": f"{web.url}/gettysburg.wav", "model": "turbo"})
        output = queue.answer("example")["output"]
        queue.put("other", {"audio": f"{web.url}/gettysburg.wav", "model": "large-v3"})
        error = queue.answer("other")["error"]
    assert error.startswith("invalid_request: model 'large-v3' is not loaded; this worker has ")
    assert word_error_rate(FOX, output["transcription"]) == 0
    assert (output["detected_language"], output["translation"], output["device"]) == ("en", None, "cpu")
    assert isinstance(output["model"], str)
    (segment,) = output["segments"]
    assert {"id", "seek", "start", "end", "text", "tokens"} <= set(segment)
    assert {"temperature", "avg_logprob", "compression_ratio", "no_speech_prob"} <= set(segment)
    assert output["text"] == output["transcription"]


def test_a_worker_that_loses_its_device_answers_asks_for_another_and_exits(
    queue: Queue, web: Web, tmp_path: Path
) -> None:
    with Worker(queue, tmp_path / "log", code=DEVICE_LOSS_CODE, DRAIN_TIMEOUT_S="30") as worker:
        for name in ("one", "two", "three", "four", "five"):
            queue.put(name, {"url": f"{web.url}/fox"})
        assert worker.process.wait(60) == 4
    answers = chain.from_iterable(queue.answers.values())
    device_lost = [answer for answer in answers if answer["error"].startswith("device_lost: ")]
    assert device_lost
    assert all(answer["stopPod"] for answer in device_lost)
    queue.put("later", {"url": f"{web.url}/fox"})
    assert "later" not in queue.answers
