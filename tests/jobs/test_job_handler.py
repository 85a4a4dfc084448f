"""Jobs without the SDK, on a fake engine: parts, sizes, buckets, lists, deadlines, a lost device."""

import asyncio
import hashlib
import io
import json
import socket
from collections.abc import Iterator
from itertools import chain
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
from tests.support.segments import make_segment
from tests.support.speech import wav
from tests.support.web import Web

NOISE = wav((0.1 * np.random.default_rng(0).standard_normal(600 * SAMPLE_RATE)).astype(np.float32))
TWO_MINUTES = NOISE[: len(NOISE) // 5]


class Bench:
    """A job handler, with the updates and the device losses that it reports."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self.updates: list[Any] = []
        self.device_losses = 0
        self.pipeline = pipeline
        self.handler = JobHandler(pipeline, settings, self._post_update, self._on_device_lost)

    async def _post_update(self, job_id: str, content: Any) -> None:
        self.updates.append(content)

    def _on_device_lost(self) -> None:
        self.device_losses += 1

    async def parts(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        return [part async for part in self.handler.stream(event)]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    fake_engine = FakeEngine()
    yield fake_engine
    fake_engine.may_run.set()


def make_bench(engine: FakeEngine, **changes: Any) -> Bench:
    changed_settings = settings(**{"batch_size": 2, "max_requests": 4, "progress_interval_s": 0, **changes})
    return Bench(Pipeline(engine, changed_settings), changed_settings)


def job(web: Web, data: bytes = NOISE, **fields: Any) -> dict[str, Any]:
    event_fields: dict[str, Any] = {name: fields.pop(name) for name in ("policy", "s3Config") if name in fields}
    return {"id": "job 1", "input": {"url": web.put("/noise", data), "vad": False, **fields}, **event_fields}


def long_segments(window: Window) -> tuple[Segment, ...]:
    """Return thirty segments of words whose times alone take a megabyte."""
    words = tuple(Word(0.0, 1.0, " wörd", 0.9) for _ in range(500))
    return tuple(Segment(0.5 * index, 0.5 * index + 0.5, " wörd" * 500, words=words) for index in range(30))


async def test_the_texts_of_a_stream_join_to_the_answer_s_text_and_the_last_part_has_the_other_fields(
    engine: FakeEngine, web: Web
) -> None:
    bench = make_bench(engine)
    answer = await bench.handler.answer(job(web))
    *parts, last = await bench.parts(job(web))
    assert len(parts) > 5
    assert "".join(part["text"] for part in parts) == answer["text"]
    assert list(chain.from_iterable(part["chunks"] for part in parts)) == answer["chunks"]
    assert set(last) == set(answer) - {"text", "chunks"}
    assert last["account"]["audio_s"] == 600


async def test_parts_are_under_the_platforms_limit_and_verbose_segments_count_on(engine: FakeEngine, web: Web) -> None:
    engine.segments_of = long_segments
    bench = make_bench(engine, max_result_bytes=10**9)
    parts = await bench.parts(job(web, TWO_MINUTES, timestamps="word", format="verbose_json"))
    assert max(len(encode_json(part)) for part in parts) <= CHUNK_BYTES
    assert len(encode_json(parts)) > 4 * CHUNK_BYTES
    segments = chain.from_iterable(part["segments"] for part in parts[:-1])
    ids = [segment["id"] for segment in segments]
    assert ids == list(range(len(ids)))


async def test_a_result_that_is_too_large_says_so(engine: FakeEngine, web: Web) -> None:
    engine.segments_of = long_segments
    bench = make_bench(engine, max_result_bytes=4_000_000)
    error = (await bench.handler.answer(job(web, TWO_MINUTES, timestamps="word")))["error"]
    assert error.startswith("too_large: the result has ")
    assert "3999000 can be sent" in error
    parts = await bench.parts(job(web, TWO_MINUTES, timestamps="word"))
    assert parts[-1]["error"].startswith("too_large: ")
    assert len(encode_json(parts)) < bench.pipeline.settings.max_result_bytes


def bucket(endpoint: str) -> dict[str, str]:
    return {"endpointUrl": endpoint, "bucketName": "calls", "accessId": "test", "accessSecret": "hunter2"}


@pytest.mark.parametrize("destination", ["the job's bucket", "the worker's bucket", "an address"])
async def test_a_large_result_arrives_complete_in_a_bucket(
    engine: FakeEngine, web: Web, s3: str, destination: str
) -> None:
    engine.segments_of = long_segments
    bucket_settings = {
        "bucket_endpoint_url": s3,
        "bucket_name": "calls",
        "bucket_access_key_id": "test",
        "bucket_secret_access_key": "hunter2",
    }
    is_full = destination == "the job's bucket"  # beyond the platform's limit; a lower one does for the others
    changes: dict[str, Any] = {} if is_full else {"max_result_bytes": 4_000_000}
    if destination == "the worker's bucket":
        changes |= bucket_settings
    bench = make_bench(engine, **changes)
    event = job(web, NOISE if is_full else TWO_MINUTES, timestamps="word")
    client = boto3.client("s3", endpoint_url=s3)
    key = "results/job%201.json"
    if destination == "the job's bucket":
        event["s3Config"] = bucket(s3)
    elif destination == "an address":
        params = {"Bucket": "calls", "Key": key}
        event["input"]["upload_url"] = client.generate_presigned_url("put_object", params)
    answer = await bench.handler.answer(event)
    body = client.get_object(Bucket="calls", Key=key)["Body"].read()
    client.close()
    assert len(body) > (25_000_000 if is_full else 5_000_000)
    assert answer["result"]["bytes"] == len(body)
    assert answer["result"]["sha256"] == hashlib.sha256(body).hexdigest()
    result = json.loads(body)
    assert len(result["chunks"]) >= (20 if is_full else 4) * 30
    assert result["text"] == answer["text"]
    assert "chunks" not in answer
    assert "hunter2" not in json.dumps(answer)
    if destination != "an address":
        assert (await asyncio.to_thread(requests.get, answer["result"]["url"], timeout=30)).content == body
    else:
        assert "?" not in answer["result"]["url"]


async def test_a_job_may_ask_for_the_bucket_and_text_is_returned_as_far_as_it_fits(
    engine: FakeEngine, web: Web, s3: str
) -> None:
    engine.segments_of = lambda window: (Segment(0, 1, " wörd" * 200),)
    event = job(web, upload="always") | {"s3Config": bucket(s3)}
    assert (await make_bench(engine).handler.answer(event))["result"]["bytes"] > 20_000
    small_bench = make_bench(engine, max_result_bytes=10_000)
    answer = await small_bench.handler.answer(event)
    assert answer["text_truncated"]
    assert 5_000 < len(encode_json(answer)) <= 10_000
    *_, last = await small_bench.parts(job(web) | {"s3Config": bucket(s3)})
    assert last["result"]["bytes"] > 20_000
    assert "text" not in last


@pytest.mark.parametrize("field", ["s3Config", "upload_url"])
async def test_an_address_for_results_passes_the_guard(web: Web, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    event = job(web, upload="always")
    event["input"].pop("url")
    event["input"]["audio_base64"] = "UklGRg=="
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS")
    if field == "s3Config":
        event["s3Config"] = bucket(web.url)
    else:
        event["input"]["upload_url"] = f"{web.url}/put?signature=hunter2"
    worker_settings = settings()
    with pytest.raises(Exception, match="download_blocked") as error:
        await deliver({"text": ""}, parse_job(event, worker_settings), worker_settings)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "code"),
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
async def test_a_job_that_cannot_be_served_says_what_was_expected(
    engine: FakeEngine, web: Web, fields: dict[str, Any], code: str
) -> None:
    for name, value in fields.items():
        if isinstance(value, str):
            fields = {**fields, name: value.replace("WEB", web.url)}
    error = (await make_bench(engine).handler.answer(job(web, **fields)))["error"]
    assert error.startswith(f"{code}: ")
    assert "expected" in error or "must" in error


async def test_files_of_one_job_are_answered_in_order_and_fail_one_by_one(engine: FakeEngine, web: Web) -> None:
    urls = [web.put(f"/{seconds}", NOISE[: 44 + seconds * 2 * SAMPLE_RATE]) for seconds in (50, 10, 30)]
    urls.insert(1, f"{web.url}/none?key=hunter2")
    bench = make_bench(engine, max_requests=2)  # fewer than files: some wait
    answer = await bench.handler.answer({"id": "many", "input": {"urls": urls, "vad": False}})
    results = answer["results"]
    assert [result.get("duration") for result in results] == [50, None, 10, 30]
    assert results[1]["error"].startswith("download_refused: ")
    assert results[1]["url"] == f"{web.url}/none"
    assert answer["account"]["audio_s"] == 90
    assert answer["account"]["files"] == 4
    (part,) = await bench.parts({"id": "many", "input": {"urls": urls, "vad": False}})
    assert len(part["results"]) == 4


async def test_a_partial_answer_and_a_job_that_resumes_it_join_to_the_full_text(engine: FakeEngine, web: Web) -> None:
    bench = make_bench(engine)
    all_words = (await bench.handler.answer(job(web)))["text"].split()
    engine.pause_after = 6
    first = await bench.handler.answer(job(web, partial=True, policy={"executionTimeout": 3000}))
    assert first["warnings"][0].startswith("deadline_exceeded: ")
    assert 0 < first["resume_at"] < 600
    assert first["text"].split() == all_words[: len(first["text"].split())]
    engine.pause_after = None
    engine.may_run.set()
    second = await bench.handler.answer(job(web, start_at=first["resume_at"]))
    assert second["chunks"][0]["timestamp"][0] >= first["resume_at"]
    assert first["text"].split() + second["text"].split() == all_words


def word_starts(answer: dict[str, Any]) -> list[float]:
    words = chain.from_iterable(chunk["words"] for chunk in answer["chunks"])
    return [word["start"] for word in words]


async def test_no_word_of_any_channel_appears_on_both_sides_of_resume_at(engine: FakeEngine, web: Web) -> None:
    noise = (0.1 * np.random.default_rng(1).standard_normal((300 * SAMPLE_RATE, 2))).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, noise, SAMPLE_RATE, format="WAV")
    engine.segments_of = lambda w: (make_segment(" ".join(["word"] * int(w.seconds)), word_s=1.0),)
    engine.pause_after = 7  # of the windows of both channels, which end at different places
    fields: dict[str, Any] = {"channels": "split", "timestamps": "word"}
    bench = make_bench(engine)
    partial_fields = {**fields, "partial": True, "policy": {"executionTimeout": 3000}}
    first = await bench.handler.answer(job(web, file.getvalue(), **partial_fields))
    engine.pause_after = None
    engine.may_run.set()
    second = await bench.handler.answer(job(web, file.getvalue(), start_at=first["resume_at"], **fields))
    first_starts, second_starts = word_starts(first), word_starts(second)
    assert max(first_starts) < first["resume_at"] <= min(second_starts)
    assert first["text"].split() == ["word"] * len(first_starts)
    assert {chunk["channel"] for chunk in first["chunks"]} == {chunk["channel"] for chunk in second["chunks"]} == {0, 1}


async def test_a_job_that_misses_its_deadline_says_so(engine: FakeEngine, web: Web) -> None:
    engine.pause_after = 6
    error = (await make_bench(engine).handler.answer(job(web, policy={"executionTimeout": 1000})))["error"]
    assert error.startswith("deadline_exceeded: expected an answer within ")
    assert "the execution timeout" in error


async def test_a_job_that_cannot_be_done_in_time_is_refused_before_the_time_is_spent(
    engine: FakeEngine, web: Web
) -> None:
    bench = make_bench(engine)
    bench.pipeline.runner.device_s = 1000.0
    bench.pipeline.resources.decoded_s = 10_000.0  # ten times real time until now
    error = (await bench.handler.answer(job(web, policy={"executionTimeout": 20_000})))["error"]
    assert error.startswith("too_long: ")
    assert "600 s of audio would take about" in error
    assert (await bench.handler.answer(job(web, policy={"executionTimeout": 80_000})))["duration"] == 600
    assert (await bench.handler.answer(job(web, policy={"executionTimeout": 20_000}, partial=True)))["duration"] == 600


async def test_a_lost_device_is_retryable_and_reported_to_the_platform(engine: FakeEngine, web: Web) -> None:
    bench = make_bench(engine)
    engine.failure = RuntimeError("boom")
    errors = [(await bench.handler.answer(job(web)))["error"] for _ in range(4)]
    assert [error.partition(":")[0] for error in errors] == ["internal", "internal", "device_lost", "device_lost"]
    assert bench.device_losses == 2


async def test_a_price_per_second_becomes_a_price(engine: FakeEngine, web: Web) -> None:
    account = (await make_bench(engine, gpu_price_per_second=0.5).handler.answer(job(web)))["account"]
    assert account["price"] == pytest.approx(0.5 * account["device_s"], rel=0.01)
    assert "price" not in (await make_bench(engine).handler.answer(job(web)))["account"]


async def test_the_first_answer_is_cold_and_names_its_model_and_device(engine: FakeEngine, web: Web) -> None:
    worker_settings = settings(progress_interval_s=0)
    model_info = {"revision": "r1", "dtype": "float16", "attention": "sdpa"}
    bench = Bench(Pipeline(engine, worker_settings, Timeline(), model_info), worker_settings)
    first, second = [await bench.handler.answer(job(web)) for _ in range(2)]
    assert (first["account"]["cold"], second["account"]["cold"]) == (True, False)
    assert {"model": "fake", "device": "none", **model_info}.items() <= first["account"].items()
    assert {"download", "decode", "vad", "wait", "device", "total"} <= set(first["timing"])
    assert 0 < first["timing"]["device"] <= first["timing"]["total"]
    assert first["account"]["real_time_factor"] == pytest.approx(600 / first["account"]["total_s"], rel=0.01)


async def test_updates_come_in_order_and_none_after_the_answer(engine: FakeEngine, web: Web) -> None:
    bench = make_bench(engine, progress_interval_s=0.01)
    answer = await bench.handler.answer(job(web))
    percents = [content["percent"] for content in bench.updates]
    assert percents == sorted(percents)
    assert all(answer["text"].startswith(content["text"]) for content in bench.updates)
    count = len(bench.updates)
    await asyncio.sleep(0)
    assert len(bench.updates) == count


async def test_an_answer_waits_for_the_update_that_is_being_sent() -> None:
    percents: list[float] = []
    is_sending, may_finish = asyncio.Event(), asyncio.Event()

    async def send(content: Any) -> None:
        is_sending.set()
        await may_finish.wait()
        percents.append(content["percent"])

    publisher = ProgressPublisher(send, 0.0)
    publisher.publish(Progress(1.0, 10.0, (Segment(0, 1, " one"),)))
    await is_sending.wait()
    publisher.publish(Progress(2.0, 10.0))
    closing = asyncio.create_task(publisher.close())
    await asyncio.sleep(0)
    assert not closing.done()
    may_finish.set()
    await closing
    assert percents == [10.0]


async def test_an_update_has_the_end_of_a_long_text() -> None:
    updates: list[Any] = []
    has_sent = asyncio.Event()

    async def send(content: Any) -> None:
        updates.append(content)
        has_sent.set()

    publisher = ProgressPublisher(send, 0.0)
    for number in range(3000):
        segment = Segment(number, number + 1, f" {'x' * 90} {number}")
        publisher.publish(Progress(number + 1.0, None, (segment,)))
    await has_sent.wait()
    await publisher.close()
    assert len(updates[0]["text"]) <= 100_000
    assert updates[0]["text"].endswith("2999")
    assert updates[0]["percent"] is None


def _wait_until_idle(pipeline: Pipeline) -> None:
    while pipeline.runner.load() != (0, 0):
        pass


async def test_a_stream_whose_job_is_cancelled_while_a_part_is_sent_leaves_the_device(
    engine: FakeEngine, web: Web
) -> None:
    bench = make_bench(engine)
    engine.pause_after = 6
    sending = asyncio.Event()

    async def send_parts() -> None:
        async for _ in bench.handler.stream(job(web)):  # like the SDK, which does not close the generator
            sending.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(send_parts())
    await sending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(_wait_until_idle, bench.pipeline)
    engine.pause_after = None
    engine.may_run.set()
    assert (await bench.handler.answer(job(web)))["duration"] == 600
    del task


async def test_a_long_text_format_comes_in_parts_too(engine: FakeEngine, web: Web) -> None:
    engine.segments_of = long_segments
    bench = make_bench(engine, max_result_bytes=10**9)
    minute = NOISE[: 44 + 60 * 2 * SAMPLE_RATE]
    answer = await bench.handler.answer(job(web, minute, format="srt"))
    parts = await bench.parts(job(web, minute, format="srt"))
    assert max(len(encode_json(part)) for part in parts) <= CHUNK_BYTES
    assert "".join(part["formatted"] for part in parts if "formatted" in part) == answer["formatted"]
    assert "".join(part["text"] for part in parts if "text" in part) == answer["text"]


async def test_a_long_list_lets_other_jobs_run(engine: FakeEngine, web: Web) -> None:
    bench = make_bench(engine, max_requests=4)
    engine.may_run.clear()
    urls = [web.put("/noise", NOISE)] * 20
    long_job = asyncio.create_task(bench.handler.answer({"id": "many", "input": {"urls": urls, "vad": False}}))
    await asyncio.to_thread(engine.admitted.acquire)
    short_job = asyncio.create_task(bench.handler.answer(job(web, NOISE[: 44 + 20 * 2 * SAMPLE_RATE])))
    await asyncio.sleep(0)
    engine.may_run.set()
    done, _ = await asyncio.wait({long_job, short_job}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {short_job}
    assert len((await long_job)["results"]) == 20


async def test_a_job_that_is_never_admitted_ends_at_its_deadline(engine: FakeEngine, web: Web) -> None:
    bench = make_bench(engine, max_requests=1)
    engine.may_run.clear()
    first = asyncio.create_task(bench.handler.answer(job(web)))
    await asyncio.to_thread(engine.admitted.acquire)
    error = (await bench.handler.answer(job(web, policy={"executionTimeout": 200})))["error"]
    assert error.startswith("deadline_exceeded: expected room ")
    engine.may_run.set()
    assert (await first)["duration"] == 600


async def test_an_upload_that_hangs_fails_at_its_timeout(
    engine: FakeEngine, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.jobs.result_delivery.UPLOAD_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        url = f"http://127.0.0.1:{silent_server.getsockname()[1]}/put?signature=hunter2"
        error = (await make_bench(engine).handler.answer(job(web, upload="always", upload_url=url)))["error"]
    assert error.startswith("upload_failed: the result was not taken within 0.2 s")


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.amazonaws.com", "us-east-1"),
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://s3.wasabisys.com", "us-east-1"),
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://abc.r2.cloudflarestorage.com", "us-east-1"),
    ],
)
def test_an_address_is_signed_for_the_region_that_the_endpoint_names(endpoint: str, region: str) -> None:
    target = Bucket(endpoint, "calls", "key", "secret").sign_target("a.json", is_guarded=False)
    assert f"%2F{region}%2Fs3%2F" in target.put_url
    other_bucket = Bucket(endpoint, "calls", "key", "secret", "eu-north-1")
    assert "%2Feu-north-1%2Fs3%2F" in other_bucket.sign_target("a", is_guarded=False).put_url


@pytest.mark.parametrize("urls", ["https://user:hunter2@a/b", ["https://user:hunter2@a/b", 5]])
async def test_refused_addresses_are_not_repeated_in_the_error(engine: FakeEngine, urls: object) -> None:
    error = (await make_bench(engine).handler.answer({"id": "1", "input": {"urls": urls}}))["error"]
    assert error.startswith("invalid_request: urls must be a list")
    assert "hunter2" not in error


@pytest.mark.parametrize("event", [None, [], "job", 5, [{"input": {}}], {"input": None}, {"id": 7}])
async def test_an_event_that_is_no_job_is_refused(engine: FakeEngine, event: Any) -> None:
    bench = make_bench(engine)
    assert (await bench.handler.answer(event))["error"].startswith("invalid_request: input must be an object")
    (part,) = await bench.parts(event)
    assert part["error"].startswith("invalid_request: input must be an object")


def nested(depth: int) -> object:
    value: object = {}
    for _ in range(depth):
        value = {"a": value}
    return value


MALFORMED = {"a deep object": nested(10_000), "thousands of digits": 10**5000, "half a character": "\ud800"}


@pytest.mark.parametrize("field", ["url", "urls", "audio_base64", "prompt", "upload", "upload_url", "model", "audio"])
@pytest.mark.parametrize("name", MALFORMED)
async def test_a_field_that_cannot_be_written_out_is_refused(engine: FakeEngine, field: str, name: str) -> None:
    payload = {**({"url": "http://a/b"} if field not in ("url", "urls", "audio_base64", "audio") else {})}
    answer = await make_bench(engine).handler.answer({"id": "1", "input": {**payload, field: MALFORMED[name]}})
    assert answer["error"].startswith("invalid_request: ")


@pytest.mark.parametrize("name", MALFORMED)
async def test_an_id_that_cannot_be_written_out_stands_in_the_way_of_nothing(
    engine: FakeEngine, web: Web, name: str
) -> None:
    answer = await make_bench(engine).handler.answer({**job(web, TWO_MINUTES), "id": MALFORMED[name]})
    assert answer["account"]["audio_s"] == pytest.approx(120, abs=0.01)
