"""The queue's door under load and accident: the SDK's own loop in processes of their own, real weights, a queue on loopback."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TINY
from tests.support.queue_worker import SABOTAGED, Worker
from tests.support.sls_queue import Queue
from tests.support.speech import FOX, PANGRAM, SENTENCES, container, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

STORY = wav(np.concatenate([part for text in SENTENCES * 8 for part in (say(text), silence(0.6))]), format="FLAC")  # four minutes


@pytest.fixture
def web(queue: Queue) -> Iterator[Web]:
    with Web() as made:
        made.put("/story", STORY)
        made.put("/fox", wav(say(FOX)))
        yield made


def encoded(text: str) -> str:
    return base64.b64encode(wav(say(text), format="FLAC")).decode()


def mixed(web: Web) -> dict[str, tuple[dict[str, Any], str]]:
    """Two hundred jobs by name: what they ask for, and the words or the code that they are to be answered with."""
    web.put("/big", bytes(20_000_001)), web.put("/text.mp3", b"no sound " * 99), web.put("/empty", b"")
    web.put("/mute.mp4", container(None, "mp4", picture=True))
    bad: list[tuple[dict[str, Any], str]] = [
        ({"language": "en"}, "invalid_request"), ({"url": "http://a/b", "audio_base64": "AA=="}, "invalid_request"),
        ({"url": "ftp://example.com/a.mp3"}, "invalid_request"), ({"url": f"{web.url}/none"}, "download_failed"),
        ({"url": f"{web.url}/hang"}, "download_failed"), ({"url": f"{web.url}/cut"}, "download_failed"),
        ({"url": f"{web.url}/trickle"}, "download_failed"), ({"url": f"{web.url}/big"}, "too_large"),
        ({"url": f"{web.url}/text.mp3"}, "unsupported_media"), ({"url": f"{web.url}/mute.mp4"}, "no_audio_stream"),
        ({"url": f"{web.url}/empty"}, "unsupported_media"), ({"audio_base64": "!!!"}, "invalid_request"),
        ({"audio_base64": "AA==", "colour": 1}, "invalid_request"), ({"audio_base64": "AA==", "language": "klingon"}, "invalid_request"),
        ({"audio_base64": "AA==", "language": "de"}, "invalid_request"), ({"audio_base64": "AA==", "task": "\ud800"}, "invalid_request"),
        ({"url": "ftp://\ud800/"}, "invalid_request"), ({"urls": []}, "invalid_request"), ({"urls": "x"}, "invalid_request"),
        ({"audio_base64": encoded(FOX), "upload": "always"}, "too_large"), ({"audio_base64": encoded(FOX), "upload": 1}, "invalid_request"),
        ({"audio_base64": encoded(FOX), "start_at": 99}, "invalid_request"), ({"audio_base64": "AA==", "beam_size": 99}, "invalid_request"),
        ({"audio_base64": encoded(FOX), "upload": "always", "upload_url": f"{web.url}/x"}, "upload_failed"),
        ({"audio_base64": "AA==", "temperature": "warm"}, "invalid_request"), ({"audio": 7}, "invalid_request"),
        ({"audio_base64": "AA==", "model": "large-v9"}, "invalid_request"), ({"audio_base64": 5}, "invalid_request"),
        ({"audio_base64": encoded(FOX), "translate": True}, "invalid_request"),
        ({"audio_base64": encoded(FOX), "translation": "prose"}, "invalid_request"), ({"url": "http://a.invalid/a"}, "download_failed"),
        ({"url": "http://127.0.0.1:1/a"}, "download_failed"), ({"url": "s3://nobody/a"}, "download_blocked"),
        ({"audio_base64": "AA==", "vad": "perhaps"}, "invalid_request"), ({"audio_base64": "AA==", "partial": 3}, "invalid_request"),
        ({"audio_base64": "AA==", "format": "docx"}, "invalid_request"), ({"audio_base64": "AA==", "channels": 2}, "invalid_request"),
        ({"audio_base64": "AA==", "patience": 0}, "invalid_request"), ({"audio_base64": "AA==", "suppress_tokens": "x"}, "invalid_request"),
        ({"audio_base64": "AA==", "initial_prompt": "a", "prompt": "b"}, "invalid_request"),
    ]  # fmt: skip
    spoken = [FOX, PANGRAM, *SENTENCES]
    for number, text in enumerate(spoken):
        web.put(f"/say/{number}", wav(say(text), format="FLAC"))
    kinds: list[dict[str, Any]] = [
        {}, {"timestamps": "word"}, {"format": "srt"}, {"beam_size": 2}, {"hotwords": "Fust"}, {"vad": False}, {"word_timestamps": True},
    ]  # fmt: skip
    jobs: dict[str, tuple[dict[str, Any], str]] = {}
    for number in range(200):
        if number % 5 == 4:
            jobs[f"bad-{number}"] = bad[number // 5]
        else:
            index = number % len(spoken)
            jobs[f"good-{number}"] = {"url": f"{web.url}/say/{index}", **kinds[number % len(kinds)]}, spoken[index]
    return jobs


def test_two_hundred_jobs_through_cancels_and_the_end_of_a_worker(queue: Queue, web: Web, tmp_path: Path) -> None:
    limits = {"DOWNLOAD_TIMEOUT_S": "3", "MAX_BYTES": "20000000", "CONCURRENCY": "24", "DRAIN_TIMEOUT_S": "1", "MAX_REQUESTS": "64"}
    jobs = mixed(web)
    assert len({repr(given) for name, (given, _) in jobs.items() if name.startswith("bad")}) == 40
    names = list(jobs)
    cancelled = {f"long-{number}" for number in range(4)}
    with Worker(queue, tmp_path / "first", "first", **limits) as first:
        for name in sorted(cancelled):
            queue.put(name, {"url": f"{web.url}/story"})
        for burst in range(0, 200, 50):
            for name in names[burst : burst + 50]:
                queue.put(name, jobs[name][0])
            if burst == 0:
                queue.wait_until_taken("long-3")
                for name in sorted(cancelled):
                    queue.stop(name)
            queue.answer(names[burst])
        assert first.end() == 0
        again = queue.gone("first")
    with Worker(queue, tmp_path / "second", "second", **limits) as second:
        for name, (_, expected) in jobs.items():
            answer = queue.answer(name)
            if name.startswith("bad"):
                assert isinstance(answer["error"], str)
                assert answer["error"].startswith(f"{expected}: "), name
            else:
                assert word_error_rate(expected, answer["output"]["text"]) <= 0.15, name
        assert second.end() == 0
    assert {name: len(answers) for name, answers in queue.answers.items()} == dict.fromkeys(jobs, 1)
    assert queue.late == []
    assert len(first.events("drain_started")) == 1
    assert set(again) <= set(jobs)
    assert first.events("job_crashed") == second.events("job_crashed") == []


def test_at_the_deadline_of_a_worker_s_end_its_jobs_are_left_to_another_one(queue: Queue, web: Web, tmp_path: Path) -> None:
    with Worker(queue, tmp_path / "first", "first", DRAIN_TIMEOUT_S="0", PROGRESS_INTERVAL_S="0.05") as first:
        queue.put("fox", {"url": f"{web.url}/fox"})
        queue.answer("fox")
        queue.put("story", {"url": f"{web.url}/half?/story"})
        queue.update("story")
        assert first.end() == 0
        assert first.events("drain_cut")[0]["jobs"] == ["story"]
    assert list(queue.answers) == ["fox"]
    assert queue.gone("first") == ["story"]
    web.released.set()
    with Worker(queue, tmp_path / "second", "second"):
        assert queue.answer("story")["output"]["duration"] > 200


def test_updates_tell_how_far_a_job_is_and_none_comes_behind_its_answer(queue: Queue, web: Web, tmp_path: Path) -> None:
    with Worker(queue, tmp_path / "log", PROGRESS_INTERVAL_S="0.05"):
        queue.put("half", {"url": f"{web.url}/half?/story"})
        first = queue.update("half", lambda told: bool(told["text"]))
        assert 0 < first["percent"] < 100
        assert first["seconds_left"] > 0
        web.released.set()
        text = queue.answer("half")["output"]["text"]
        queue.put("fox", {"url": f"{web.url}/fox"})
        queue.answer("fox")
    assert queue.late == []
    told = [update["done_s"] for update in queue.updates["half"]]
    assert told == sorted(told)
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
        queue.put("theirs", {"audio": f"{web.url}/fox", "model": TINY})
        parts = [part["output"] for part in queue.streams["story"]] if queue.answer("story") else []
        assert queue.answer("story")["output"] == parts
        assert queue.answer("bad")["error"].startswith("download_failed: ")
        (theirs,) = queue.answer("theirs")["output"]
    *texts, last = parts
    assert len(texts) > 3
    assert word_error_rate(" ".join(SENTENCES * 8), "".join(part["text"] for part in texts)) <= 0.05
    starts = [chunk["timestamp"][0] for part in texts for chunk in part["chunks"]]
    assert starts == sorted(starts)
    assert last["account"]["audio_s"] == last["duration"] > 200
    assert {"coverage", "warnings"} <= set(last)
    assert "text" not in last
    assert word_error_rate(FOX, theirs["transcription"]) == 0
    assert not queue.updates
    assert queue.late == []


def test_a_worker_that_takes_over_begins_where_the_killed_one_ended(queue: Queue, web: Web, tmp_path: Path) -> None:
    kept = {"RESUME_DIR": str(tmp_path / "kept"), "PROGRESS_INTERVAL_S": "0.05"}
    given = {"url": f"{web.url}/half?/story", "timestamps": "word"}
    with Worker(queue, tmp_path / "first", "first", **kept):  # is killed at the end of the block
        queue.put("story", given)
        queue.update("story")
    before = {path: path.stat().st_ino for path in (tmp_path / "kept").glob("??/*")}
    assert before
    web.released.set()
    assert queue.gone("first") == ["story"]
    with Worker(queue, tmp_path / "second", "second", **kept):
        resumed = queue.answer("story")["output"]
        after = {path: path.stat().st_ino for path in (tmp_path / "kept").glob("??/*")}
        queue.put("identical", given)
        identical = queue.answer("identical")["output"]
    assert {path: after[path] for path in before} == before  # nothing that was done was done again
    assert len(after) > len(before)
    assert {path.stat().st_ino for path in (tmp_path / "kept").glob("??/*")} == set(after.values())
    assert identical["timing"]["device"] == 0
    with Worker(queue, tmp_path / "third", "third"):
        queue.put("whole", given)
        whole = queue.answer("whole")["output"]
    assert resumed["chunks"] == identical["chunks"] == whole["chunks"]


def test_the_example_of_worker_faster_whisper_is_answered_as_its_clients_read_it(queue: Queue, web: Web, tmp_path: Path) -> None:
    web.put("/gettysburg.wav", wav(say(FOX)))
    with Worker(queue, tmp_path / "log", MODEL_ALIASES="turbo"):
        queue.put("example", {"audio": f"{web.url}/gettysburg.wav", "model": "turbo"})
        output = queue.answer("example")["output"]
        queue.put("other", {"audio": f"{web.url}/gettysburg.wav", "model": "large-v3"})
        assert queue.answer("other")["error"].startswith("invalid_request: model 'large-v3' is not loaded; this worker has ")
    assert word_error_rate(FOX, output["transcription"]) == 0
    assert (output["detected_language"], output["translation"], output["device"]) == ("en", None, "cpu")
    assert isinstance(output["model"], str)
    (segment,) = output["segments"]
    assert {
        "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob",
    } <= set(segment)  # fmt: skip
    assert output["text"] == output["transcription"]


def test_a_worker_whose_device_is_lost_answers_asks_for_another_and_ends(queue: Queue, web: Web, tmp_path: Path) -> None:
    with Worker(queue, tmp_path / "log", code=SABOTAGED, DRAIN_TIMEOUT_S="30") as worker:
        for name in ("one", "two", "three", "four", "five"):
            queue.put(name, {"url": f"{web.url}/fox"})
        assert worker.process.wait(60) == 4
    answered = [answer for answers in queue.answers.values() for answer in answers]
    lost = [answer for answer in answered if answer["error"].startswith("device_lost: ")]
    assert lost
    assert all(answer["stopPod"] for answer in lost)
    queue.put("later", {"url": f"{web.url}/fox"})
    assert "later" not in queue.answers
