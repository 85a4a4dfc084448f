"""Jobs to answers without the SDK: parts, sizes, buckets, lists, deadlines, a lost device. A fake engine speaks."""

import asyncio
import hashlib
import io
import json
import socket
from collections.abc import Iterator
from typing import Any

import boto3
import numpy as np
import pytest
import requests
import soundfile

from handler.jobs.job import parse_job
from handler.jobs.job_handler import JobHandler
from handler.jobs.job_stream import CHUNK_BYTES
from handler.jobs.object_store import Bucket
from handler.jobs.progress import ProgressPublisher
from handler.jobs.result_delivery import deliver
from handler.output.json_encoding import encode_json
from handler.schema.transcript import Progress, Segment, Word
from handler.schema.window import SAMPLE_RATE, Window
from handler.settings import Settings
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.fake_engine import FakeEngine
from tests.support.segments import spoken
from tests.support.speech import wav
from tests.support.web import Web

NOISE = wav((0.1 * np.random.default_rng(0).standard_normal(600 * SAMPLE_RATE)).astype(np.float32))


class Bench:
    """A desk, and what it has posted."""

    def __init__(self, engine: FakeEngine, given: Settings) -> None:
        self.posted: list[Any] = []
        self.lost = 0
        self.pipeline = Pipeline(engine, given)
        self.desk = JobHandler(self.pipeline, given, self._post, self._lose)

    async def _post(self, job: str, content: Any) -> None:
        self.posted.append(content)

    def _lose(self) -> None:
        self.lost += 1

    async def parts(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        return [part async for part in self.desk.stream(event)]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.go.set()


def bench(engine: FakeEngine, **changes: Any) -> Bench:
    return Bench(engine, settings(**{"batch_size": 2, "max_requests": 4, "progress_interval_s": 0, **changes}))


def job(web: Web, data: bytes = NOISE, **given: Any) -> dict[str, Any]:
    beside: dict[str, Any] = {name: given.pop(name) for name in ("policy", "s3Config") if name in given}
    return {"id": "job 1", "input": {"url": web.put("/noise", data), "vad": False, **given}, **beside}


def talkative(window: Window) -> tuple[Segment, ...]:
    """Thirty segments of words whose times alone are a megabyte."""
    words = tuple(Word(0.0, 1.0, " wörd", 0.9) for _ in range(500))
    return tuple(Segment(0.5 * at, 0.5 * at + 0.5, " wörd" * 500, words=words) for at in range(30))


async def test_the_texts_of_a_stream_are_the_whole_text_and_the_last_part_has_the_rest(engine: FakeEngine, web: Web) -> None:
    made = bench(engine)
    whole = await made.desk.answer(job(web))
    *parts, last = await made.parts(job(web))
    assert len(parts) > 5
    assert "".join(part["text"] for part in parts) == whole["text"]
    assert [chunk for part in parts for chunk in part["chunks"]] == whole["chunks"]
    assert set(last) == set(whole) - {"text", "chunks"}
    assert last["account"]["audio_s"] == 600


async def test_parts_are_under_the_platforms_limit_and_verbose_segments_count_on(engine: FakeEngine, web: Web) -> None:
    engine.says = talkative
    parts = await bench(engine, max_result_bytes=10**9).parts(job(web, NOISE[: len(NOISE) // 5], timestamps="word", format="verbose_json"))
    assert max(len(encode_json(part)) for part in parts) <= CHUNK_BYTES
    assert len(encode_json(parts)) > 4 * CHUNK_BYTES
    ids = [segment["id"] for part in parts[:-1] for segment in part["segments"]]
    assert ids == list(range(len(ids)))


async def test_a_result_that_is_too_large_says_so(engine: FakeEngine, web: Web) -> None:
    engine.says = talkative
    made = bench(engine, max_result_bytes=4_000_000)
    short = NOISE[: len(NOISE) // 5]
    error = (await made.desk.answer(job(web, short, timestamps="word")))["error"]
    assert error.startswith("too_large: the result has ")
    assert "3999000 can be sent" in error
    parts = await made.parts(job(web, short, timestamps="word"))
    assert parts[-1]["error"].startswith("too_large: ")
    assert len(encode_json(parts)) < made.pipeline.settings.max_result_bytes


def bucket(endpoint: str) -> dict[str, str]:
    return {"endpointUrl": endpoint, "bucketName": "calls", "accessId": "test", "accessSecret": "hunter2"}


@pytest.mark.parametrize("where", ["the job's bucket", "the worker's bucket", "an address"])
async def test_a_large_result_arrives_in_a_bucket_whole(engine: FakeEngine, web: Web, s3: str, where: str) -> None:
    engine.says = talkative
    named = {
        "bucket_endpoint_url": s3, "bucket_name": "calls", "bucket_access_key_id": "test", "bucket_secret_access_key": "hunter2",
    }  # fmt: skip
    made = bench(engine, **(named if where == "the worker's bucket" else {}))
    event = job(web, timestamps="word")
    client = boto3.client("s3", endpoint_url=s3)
    key = "results/job%201.json"
    if where == "the job's bucket":
        event["s3Config"] = bucket(s3)
    elif where == "an address":
        event["input"]["upload_url"] = client.generate_presigned_url("put_object", {"Bucket": "calls", "Key": key})
    answer = await made.desk.answer(event)
    body = client.get_object(Bucket="calls", Key=key)["Body"].read()
    client.close()
    assert len(body) > 25_000_000
    assert answer["result"]["bytes"] == len(body)
    assert answer["result"]["sha256"] == hashlib.sha256(body).hexdigest()
    whole = json.loads(body)
    assert len(whole["chunks"]) >= 20 * 30
    assert whole["text"] == answer["text"]
    assert "chunks" not in answer
    assert "hunter2" not in json.dumps(answer)
    if where != "an address":
        assert (await asyncio.to_thread(requests.get, answer["result"]["url"], timeout=30)).content == body
    else:
        assert "?" not in answer["result"]["url"]


async def test_a_job_may_ask_for_the_bucket_and_text_is_told_as_far_as_it_fits(engine: FakeEngine, web: Web, s3: str) -> None:
    engine.says = lambda window: (Segment(0, 1, " wörd" * 200),)
    event = job(web, upload="always") | {"s3Config": bucket(s3)}
    assert (await bench(engine).desk.answer(event))["result"]["bytes"] > 20_000
    small = bench(engine, max_result_bytes=10_000)
    answer = await small.desk.answer(event)
    assert answer["text_truncated"]
    assert 5_000 < len(encode_json(answer)) <= 10_000
    *_, last = await small.parts(job(web) | {"s3Config": bucket(s3)})
    assert last["result"]["bytes"] > 20_000
    assert "text" not in last


@pytest.mark.parametrize("names", ["s3Config", "upload_url"])
async def test_an_address_for_results_passes_the_guard(engine: FakeEngine, web: Web, monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    event = job(web, upload="always")
    event["input"].pop("url")
    event["input"]["audio_base64"] = "UklGRg=="
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS")
    if names == "s3Config":
        event["s3Config"] = bucket(web.url)
    else:
        event["input"]["upload_url"] = f"{web.url}/put?signature=hunter2"
    made = settings()
    with pytest.raises(Exception, match="download_blocked") as caught:
        await deliver({"text": ""}, parse_job(event, made), made)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"upload": "always"}, "too_large"),
        ({"upload": "sometimes"}, "invalid_request"),
        ({"upload_url": "ftp://a/b", "upload": "always"}, "invalid_request"),
        ({"upload_url": "WEB/refuses", "upload": "always"}, "upload_failed"),
        ({"upload_url": "http://127.0.0.1:9/x", "upload": "always"}, "upload_failed"),
        ({"s3Config": {"bucketName": "a"}}, "invalid_request"),
        ({"policy": {"executionTimeout": "soon"}}, "invalid_request"),
        ({"url": None, "urls": []}, "invalid_request"),
        ({"url": None, "urls": ["http://a/b", 1]}, "invalid_request"),
        ({"urls": ["http://a/b"]}, "invalid_request"),
        ({"start_at": 601}, "invalid_request"),
        ({"suppress_tokens": "99999"}, "invalid_request"),
        ({"suppress_tokens": "one"}, "invalid_request"),
    ],
)
async def test_a_job_that_cannot_be_served_says_what_was_expected(engine: FakeEngine, web: Web, given: dict[str, Any], code: str) -> None:
    given = {name: value.replace("WEB", web.url) if isinstance(value, str) else value for name, value in given.items()}
    error = (await bench(engine).desk.answer(job(web, **given)))["error"]
    assert error.startswith(f"{code}: ")
    assert "expected" in error or "must" in error


async def test_files_of_one_job_are_answered_in_order_and_fail_one_by_one(engine: FakeEngine, web: Web) -> None:
    urls = [web.put(f"/{seconds}", NOISE[: 44 + seconds * 2 * SAMPLE_RATE]) for seconds in (50, 10, 30)]
    urls.insert(1, f"{web.url}/none?key=hunter2")
    made = bench(engine, max_requests=2)  # fewer than files: the others wait
    answer = await made.desk.answer({"id": "many", "input": {"urls": urls, "vad": False}})
    results = answer["results"]
    assert [result.get("duration") for result in results] == [50, None, 10, 30]
    assert results[1]["error"].startswith("download_failed: ")
    assert results[1]["url"] == f"{web.url}/none"
    assert answer["account"]["audio_s"] == 90
    assert answer["account"]["files"] == 4
    (part,) = await made.parts({"id": "many", "input": {"urls": urls, "vad": False}})
    assert len(part["results"]) == 4


async def test_a_start_within_the_audio_and_the_time_before_it_are_one_whole(engine: FakeEngine, web: Web) -> None:
    made = bench(engine)
    whole = (await made.desk.answer(job(web)))["text"].split()
    engine.stops_behind = 6
    first = await made.desk.answer(job(web, partial=True, policy={"executionTimeout": 3000}))
    assert first["warnings"][0].startswith("deadline_exceeded: ")
    assert 0 < first["resume_at"] < 600
    assert first["text"].split() == whole[: len(first["text"].split())]
    engine.stops_behind = None
    engine.go.set()
    second = await made.desk.answer(job(web, start_at=first["resume_at"]))
    assert second["chunks"][0]["timestamp"][0] >= first["resume_at"]
    assert first["text"].split() + second["text"].split() == whole


async def test_no_word_of_any_channel_is_told_on_both_sides_of_such_a_start(engine: FakeEngine, web: Web) -> None:
    noise = (0.1 * np.random.default_rng(1).standard_normal((300 * SAMPLE_RATE, 2))).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, noise, SAMPLE_RATE, format="WAV")
    engine.says = lambda w: (spoken(" ".join(["word"] * int(w.seconds)), each=1.0),)
    engine.stops_behind = 7  # of the windows of both channels, which end at different places
    given: dict[str, Any] = {"channels": "split", "timestamps": "word"}
    made = bench(engine)
    first = await made.desk.answer(job(web, file.getvalue(), partial=True, policy={"executionTimeout": 3000}, **given))
    engine.stops_behind = None
    engine.go.set()
    second = await made.desk.answer(job(web, file.getvalue(), start_at=first["resume_at"], **given))
    starts = [[word["start"] for chunk in answer["chunks"] for word in chunk["words"]] for answer in (first, second)]
    assert max(starts[0]) < first["resume_at"] <= min(starts[1])
    assert first["text"].split() == ["word"] * len(starts[0])
    assert {chunk["channel"] for chunk in first["chunks"]} == {chunk["channel"] for chunk in second["chunks"]} == {0, 1}


async def test_a_job_whose_time_is_over_says_so(engine: FakeEngine, web: Web) -> None:
    engine.stops_behind = 6
    error = (await bench(engine).desk.answer(job(web, policy={"executionTimeout": 1000})))["error"]
    assert error.startswith("deadline_exceeded: expected an answer within ")
    assert "the execution timeout" in error


async def test_a_job_that_cannot_be_done_in_time_is_refused_before_the_time_is_spent(engine: FakeEngine, web: Web) -> None:
    made = bench(engine)
    made.pipeline.runner.device_s, made.pipeline._shared.decoded_s = 1000.0, 10_000.0  # ten times real time until now
    error = (await made.desk.answer(job(web, policy={"executionTimeout": 20_000})))["error"]
    assert error.startswith("too_long: ")
    assert "600 s of audio would take about" in error
    assert (await made.desk.answer(job(web, policy={"executionTimeout": 80_000})))["duration"] == 600
    assert (await made.desk.answer(job(web, policy={"executionTimeout": 20_000}, partial=True)))["duration"] == 600


async def test_a_lost_device_is_told_as_retryable_and_to_the_platform(engine: FakeEngine, web: Web) -> None:
    made = bench(engine)
    engine.failure = RuntimeError("boom")
    errors = [(await made.desk.answer(job(web)))["error"] for _ in range(4)]
    assert [error.partition(":")[0] for error in errors] == ["internal", "internal", "device_lost", "device_lost"]
    assert made.lost == 2


async def test_a_price_a_second_is_told_as_a_price(engine: FakeEngine, web: Web) -> None:
    account = (await bench(engine, gpu_price_per_second=0.5).desk.answer(job(web)))["account"]
    assert account["price"] == pytest.approx(0.5 * account["device_s"], rel=0.01)
    assert "price" not in (await bench(engine).desk.answer(job(web)))["account"]


async def test_the_first_answer_is_cold_and_says_by_what_it_was_made(engine: FakeEngine, web: Web) -> None:
    given = settings(progress_interval_s=0)
    made = Bench(engine, given)
    made.pipeline = Pipeline(engine, given, Timeline(), {"revision": "r1", "dtype": "float16", "attention": "sdpa"})
    made.desk = JobHandler(made.pipeline, given, made._post, made._lose)
    first, second = [await made.desk.answer(job(web)) for _ in range(2)]
    assert (first["account"]["cold"], second["account"]["cold"]) == (True, False)
    assert {"model": "fake", "revision": "r1", "dtype": "float16", "attention": "sdpa", "device": "none"}.items() <= first[
        "account"
    ].items()
    assert {"download", "decode", "vad", "wait", "device", "total"} <= set(first["timing"])
    assert 0 < first["timing"]["device"] <= first["timing"]["total"]
    assert first["account"]["real_time_factor"] == pytest.approx(600 / first["account"]["total_s"], rel=0.01)


async def test_updates_come_in_order_and_none_behind_the_answer(engine: FakeEngine, web: Web) -> None:
    made = bench(engine, progress_interval_s=0.01)
    answer = await made.desk.answer(job(web))
    told = [content["percent"] for content in made.posted]
    assert told == sorted(told)
    assert all(answer["text"].startswith(content["text"]) for content in made.posted)
    count = len(made.posted)
    await asyncio.sleep(0)
    assert len(made.posted) == count


async def test_an_answer_waits_for_the_update_that_is_on_its_way() -> None:
    arrived: list[float] = []
    on_its_way, go = asyncio.Event(), asyncio.Event()

    async def post(content: Any) -> None:
        on_its_way.set()
        await go.wait()
        arrived.append(content["percent"])

    updates = ProgressPublisher(post, 0.0)
    updates.tell(Progress(1.0, 10.0, (Segment(0, 1, " one"),)))
    await on_its_way.wait()
    updates.tell(Progress(2.0, 10.0))
    closing = asyncio.create_task(updates.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    assert arrived == [10.0]


async def test_an_update_tells_the_end_of_a_long_text(engine: FakeEngine) -> None:
    posted: list[Any] = []

    async def post(content: Any) -> None:
        posted.append(content)
        done.set()

    done = asyncio.Event()
    updates = ProgressPublisher(post, 0.0)
    for at in range(3000):
        updates.tell(Progress(at + 1.0, None, (Segment(at, at + 1, f" {'x' * 90} {at}"),)))
    await done.wait()
    await updates.close()
    assert len(posted[0]["text"]) <= 100_000
    assert posted[0]["text"].endswith("2999")
    assert posted[0]["percent"] is None


def _until_idle(house: Pipeline) -> None:
    while house.runner.load() != (0, 0):
        pass


async def test_a_stream_whose_job_is_cancelled_while_a_part_is_sent_leaves_the_device(engine: FakeEngine, web: Web) -> None:
    made = bench(engine)
    engine.stops_behind = 6
    sending = asyncio.Event()

    async def send_parts() -> None:
        async for _ in made.desk.stream(job(web)):  # as the SDK does: it does not close what it leaves
            sending.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(send_parts())
    await sending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(_until_idle, made.pipeline)
    engine.stops_behind = None
    engine.go.set()
    assert (await made.desk.answer(job(web)))["duration"] == 600
    del task


async def test_a_long_text_format_comes_in_parts_too(engine: FakeEngine, web: Web) -> None:
    engine.says = talkative
    made = bench(engine, max_result_bytes=10**9)
    short = NOISE[: len(NOISE) // 5]
    whole = await made.desk.answer(job(web, short, format="srt"))
    parts = await made.parts(job(web, short, format="srt"))
    assert max(len(encode_json(part)) for part in parts) <= CHUNK_BYTES
    assert "".join(part["formatted"] for part in parts if "formatted" in part) == whole["formatted"]
    assert "".join(part["text"] for part in parts if "text" in part) == whole["text"]


async def test_a_long_list_leaves_room_for_other_jobs(engine: FakeEngine, web: Web) -> None:
    made = bench(engine, max_requests=4)
    engine.go.clear()
    long = asyncio.create_task(made.desk.answer({"id": "many", "input": {"urls": [web.put("/noise", NOISE)] * 20, "vad": False}}))
    await asyncio.to_thread(engine.admitted.acquire)
    short = asyncio.create_task(made.desk.answer(job(web, NOISE[: 44 + 20 * 2 * SAMPLE_RATE])))
    await asyncio.sleep(0)
    engine.go.set()
    done, _ = await asyncio.wait({long, short}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {short}
    assert len((await long)["results"]) == 20


async def test_a_job_that_never_finds_room_ends_in_its_time(engine: FakeEngine, web: Web) -> None:
    made = bench(engine, max_requests=1)
    engine.go.clear()
    first = asyncio.create_task(made.desk.answer(job(web)))
    await asyncio.to_thread(engine.admitted.acquire)
    error = (await made.desk.answer(job(web, policy={"executionTimeout": 200})))["error"]
    assert error.startswith("deadline_exceeded: expected room ")
    engine.go.set()
    assert (await first)["duration"] == 600


async def test_a_place_that_does_not_take_a_result_costs_its_time_only(
    engine: FakeEngine, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.jobs.result_delivery.UPLOAD_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/put?signature=hunter2"
        error = (await bench(engine).desk.answer(job(web, upload="always", upload_url=url)))["error"]
    assert error.startswith("upload_failed: the result was not taken within 0.2 s")


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.amazonaws.com", "us-east-1"), ("https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1"), ("https://s3.wasabisys.com", "us-east-1"),
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004"), ("https://abc.r2.cloudflarestorage.com", "us-east-1"),
    ],
)  # fmt: skip
def test_an_address_is_signed_for_the_region_that_the_endpoint_names(endpoint: str, region: str) -> None:
    place = Bucket(endpoint, "calls", "key", "secret").place("a.json", guarded=False)
    assert f"%2F{region}%2Fs3%2F" in place.put_url
    assert "%2Feu-north-1%2Fs3%2F" in Bucket(endpoint, "calls", "key", "secret", "eu-north-1").place("a", guarded=False).put_url


@pytest.mark.parametrize("urls", ["https://user:hunter2@a/b", ["https://user:hunter2@a/b", 5]])
async def test_addresses_that_are_refused_are_not_told(engine: FakeEngine, urls: object) -> None:
    error = (await bench(engine).desk.answer({"id": "1", "input": {"urls": urls}}))["error"]
    assert error.startswith("invalid_request: urls must be a list")
    assert "hunter2" not in error
