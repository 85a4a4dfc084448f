"""Jobs of the HTTP server: answered at once, transcribed later, told under their id and to a webhook."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from handler.errors import JobNotFound
from handler.transcription.pipeline import Pipeline
from local_server.background import webhook
from local_server.background.background_jobs import BackgroundJob, BackgroundJobs
from tests.conftest import settings
from tests.support.serving import Server, read_metrics, serving, wait_until
from tests.support.speech import FOX, SENTENCES, say, wav
from tests.support.web import Web
from tests.support.webhook_receiver import Message, WebhookReceiver
from tests.support.word_errors import word_error_rate

KEY = "hunter2"
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
SPEECH = wav(say(FOX), format="FLAC")


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, api_keys=(KEY,), webhook_secrets=(bytes(range(32)),), max_requests=2) as running_server:
        yield running_server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with client_of(server) as client:
        yield client


@pytest.fixture(autouse=True)
def webhooks_on_loopback_without_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
    monkeypatch.setattr(webhook, "RETRY_DELAYS_S", (0.0, 0.0))


def client_of(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=60)


def ended(client: httpx.Client, created: httpx.Response) -> dict[str, Any]:
    """Return a job once it has ended, and once its webhook has been called if it has one."""
    assert created.status_code == 202, created.text
    jobs: list[dict[str, Any]] = []

    def has_ended() -> bool:
        jobs.append(client.get(created.headers["Location"]).json())
        return jobs[-1]["status"] in ("completed", "failed") and jobs[-1].get("webhook") != "pending"

    wait_until(has_ended)
    return jobs[-1]


def verified(message: Message) -> dict[str, Any]:
    """Return what a message says, after OpenAI's package has checked its signature."""
    checker = openai.OpenAI(api_key="unused", webhook_secret=SECRET).webhooks
    checker.verify_signature(message.body, message.headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        checker.verify_signature(message.body.replace("job", "jab"), message.headers)
    content: dict[str, Any] = json.loads(message.body)
    return content


UPLOADS: list[dict[str, Any]] = [
    {"content": SPEECH, "params": {"timestamps": "word"}},
    {"files": {"file": ("a.flac", SPEECH)}, "data": {"timestamps": "word"}},
]


@pytest.mark.parametrize("request_arguments", UPLOADS, ids=["raw", "form"])
def test_an_upload_is_transcribed_after_the_answer(client: httpx.Client, request_arguments: dict[str, Any]) -> None:
    created = client.post("/jobs", **request_arguments)
    job = ended(client, created)
    assert job["id"] == created.json()["id"]
    assert job["status"] == "completed"
    assert word_error_rate(FOX, job["result"]["text"]) == 0
    assert job["result"]["chunks"][0]["words"]
    assert job["created_at"] <= job["ended_at"] <= job["kept_until"] - 3599
    assert "webhook" not in job


def test_an_address_is_transcribed_in_any_format(client: httpx.Client, web: Web) -> None:
    created = client.post("/jobs", json={"url": web.put("/a.flac", SPEECH), "format": "srt"})
    assert "-->" in ended(client, created)["result"]["formatted"]


def test_a_job_that_fails_tells_why(client: httpx.Client, web: Web) -> None:
    for arguments, code in (
        ({"content": b"no sound" * 99}, "unsupported_media"),
        ({"json": {"url": web.url + "/none"}}, "download_refused"),
    ):
        job = ended(client, client.post("/jobs", **arguments))
        assert (job["status"], job["error"]["code"]) == ("failed", code)


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        ({"json": {"url": "http://a.example/a", "colour": "red"}}, 400, "colour"),
        ({"json": {"url": "http://a.example/a", "beam_size": 1000}}, 400, "beam_size"),
        ({"json": {"url": "http://a.example/a", "diarize": True}}, 400, "diarize"),
        ({"json": {"url": "http://a.example/a", "callback_url": "ftp://a.example/"}}, 400, "callback_url"),
        ({"json": {"url": "http://a.example/a", "callback_url": 5}}, 400, "callback_url"),
        ({"files": {"file": ("a.flac", SPEECH)}, "data": {"beam_size": "1000"}}, 400, "beam_size"),
        ({"data": {"language": "en"}}, 400, "content type"),
    ],
)
def test_bad_requests_are_refused_at_once(client: httpx.Client, arguments: Any, status: int, named: str) -> None:
    answer = client.post("/jobs", **arguments)
    assert answer.status_code == status
    assert named in answer.json()["error"]["message"]


def test_a_webhook_belongs_to_a_job(client: httpx.Client) -> None:
    answer = client.post("/asr", params={"callback_url": "http://a.example/"}, content=SPEECH)
    assert "POST /jobs" in answer.json()["error"]["message"]


def test_jobs_need_the_key_and_an_id_that_is_known(server: Server, client: httpx.Client) -> None:
    for method in ("get", "delete"):
        assert httpx.request(method, f"{server.url}/jobs/{'0' * 32}").status_code == 401
        for name in ("0" * 32, "%2e%2e%2f", "a"):
            answer = client.request(method, f"/jobs/{name}")
            assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "job_not_found"


def test_a_wrong_method_is_answered_with_those_there_are(client: httpx.Client) -> None:
    assert client.post(f"/jobs/{'0' * 32}").headers["Allow"] == "DELETE, GET"
    assert client.get("/jobs").headers["Allow"] == "POST"


def test_a_job_waits_for_its_turn_and_can_be_ended(server: Server, client: httpx.Client, web: Web) -> None:
    hanging = [client.post("/jobs", json={"url": f"{web.url}/hang"}).json()["id"] for _ in range(2)]
    wait_until(lambda: web.counts["/hang"] == 2)
    created = client.post("/jobs", json={"url": web.put("/a.flac", SPEECH)})
    assert client.get(created.headers["Location"]).json()["status"] == "queued"
    assert read_metrics(server)["asr_jobs_open"] == 3
    assert client.delete(f"/jobs/{hanging[0]}").status_code == 204
    assert client.get(f"/jobs/{hanging[0]}").status_code == 404
    assert ended(client, created)["status"] == "completed"
    assert client.delete(f"/jobs/{hanging[1]}").status_code == 204
    assert client.delete(created.headers["Location"]).status_code == 204
    assert client.delete(created.headers["Location"]).status_code == 404
    wait_until(lambda: not read_metrics(server)["asr_requests_open"])
    assert read_metrics(server)["asr_jobs_open"] == 0


def test_a_job_tells_how_far_it_has_got(client: httpx.Client, web: Web) -> None:
    url = f"{web.url}/partly?/long.wav"
    web.put("/long.wav", wav(np.concatenate([say(text) for text in SENTENCES * 4])))
    created = client.post("/jobs", json={"url": url})
    wait_until(lambda: client.get(created.headers["Location"]).json().get("done_s"))
    job = client.get(created.headers["Location"]).json()
    assert job["status"] == "running"
    assert job["done_s"] > 0
    client.delete(created.headers["Location"])


def test_there_is_a_limit(pipeline: Pipeline, web: Web) -> None:
    with serving(pipeline, max_jobs=1) as server, client_of(server) as client:
        created = client.post("/jobs", json={"url": f"{web.url}/hang"})
        refused = client.post("/jobs", content=SPEECH)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        client.delete(created.headers["Location"])
        assert ended(client, client.post("/jobs", content=SPEECH))["status"] == "completed"


def test_a_webhook_gets_a_message_that_others_can_check(client: httpx.Client) -> None:
    with WebhookReceiver() as receiver:
        job = ended(client, client.post("/jobs", params={"callback_url": receiver.url}, content=SPEECH))
        (message,) = receiver.messages
    content = verified(message)
    assert content["type"] == "job.completed"
    assert word_error_rate(FOX, content["data"]["result"]["text"]) == 0
    assert message.headers["webhook-id"] == content["data"]["id"] == job["id"]
    assert job["webhook"] == "delivered"


def test_a_failure_is_told_and_a_message_that_is_not_taken_is_sent_again(client: httpx.Client) -> None:
    with WebhookReceiver(500, 429) as receiver:
        job = ended(client, client.post("/jobs", params={"callback_url": receiver.url}, content=b"no sound" * 99))
        messages = receiver.messages
    assert [verified(message)["type"] for message in messages] == ["job.failed"] * 3
    assert len({message.headers["webhook-id"] for message in messages}) == 1
    assert job["webhook"] == "delivered"


@pytest.mark.parametrize(("statuses", "attempts"), [((400, 204), 1), ((302, 204), 1), ((500, 500, 500, 204), 3)])
def test_a_webhook_that_refuses_is_left_alone(client: httpx.Client, statuses: tuple[int, ...], attempts: int) -> None:
    with WebhookReceiver(*statuses) as receiver:
        job = ended(client, client.post("/jobs", params={"callback_url": receiver.url}, content=SPEECH))
        assert len(receiver.messages) == attempts
    assert (job["status"], job["webhook"]) == ("completed", "failed")


def test_a_webhook_that_never_answers_holds_up_nothing(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "ATTEMPT_TIMEOUT_S", 0.2)
    with WebhookReceiver(0, 0, 204) as receiver:
        created = client.post("/jobs", params={"callback_url": receiver.url}, content=SPEECH)
        job = ended(client, created)
        assert len(receiver.messages) == 3
    assert job["webhook"] == "delivered"


def test_a_private_address_and_a_missing_secret_are_refused(
    pipeline: Pipeline, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS")
    for url in ("http://127.0.0.1/hook", "http://169.254.169.254/", "http://[::1]/"):
        answer = client.post("/jobs", params={"callback_url": url}, content=SPEECH)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "download_blocked")
    with serving(pipeline) as server, client_of(server) as other:
        answer = other.post("/jobs", params={"callback_url": "http://127.0.0.1/hook"}, content=SPEECH)
        assert "WEBHOOK_SECRET" in answer.json()["error"]["message"]


def test_results_in_a_folder_outlive_the_server(pipeline: Pipeline, tmp_path: Path) -> None:
    with serving(pipeline, resume_dir=tmp_path) as server, client_of(server) as client:
        job = ended(client, client.post("/jobs", content=SPEECH))
    with serving(pipeline, resume_dir=tmp_path) as server, client_of(server) as client:
        assert client.get(f"/jobs/{job['id']}").json() == job
        assert client.delete(f"/jobs/{job['id']}").status_code == 204
        assert client.get(f"/jobs/{job['id']}").status_code == 404
    assert not list((tmp_path / "jobs").iterdir())


def test_a_server_that_stops_tries_a_last_time(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(webhook, "RETRY_DELAYS_S", (3600.0,))
    with WebhookReceiver(503) as receiver:
        limits: dict[str, Any] = {"webhook_secrets": (bytes(32),), "drain_timeout_s": 0}
        with serving(pipeline, **limits) as server, client_of(server) as client:
            client.post("/jobs", params={"callback_url": receiver.url}, content=SPEECH)
            wait_until(lambda: receiver.messages)
        assert len(receiver.messages) == 2


async def test_a_job_that_is_removed_while_it_ends_leaves_nothing(tmp_path: Path) -> None:
    jobs = BackgroundJobs(settings(resume_dir=tmp_path))

    async def work(_: BackgroundJob) -> dict[str, Any]:
        return {"text": "a" * 5_000_000}

    for turns in range(30):  # of the event loop before the removal
        job = await jobs.start(work, None)
        for _ in range(turns):
            await asyncio.sleep(0)
        await jobs.remove(job.id)
        with pytest.raises(JobNotFound):
            await jobs.describe(job.id)
    await asyncio.to_thread(jobs._kept.drop_old)
    assert not await asyncio.to_thread(lambda: list((tmp_path / "jobs").iterdir()))
    assert jobs.num_open == 0


async def test_a_job_whose_record_cannot_be_kept_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    jobs = BackgroundJobs(settings())
    monkeypatch.setattr(jobs._kept, "put", fail)

    async def work(_: BackgroundJob) -> dict[str, Any]:
        return {}

    job = await jobs.start(work, None)
    await jobs.close(60)
    assert jobs.num_open == 0
    with pytest.raises(JobNotFound):
        await jobs.describe(job.id)


def test_a_server_that_stops_ends_its_jobs_and_says_so(pipeline: Pipeline, web: Web, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"resume_dir": tmp_path, "drain_timeout_s": 0, "webhook_secrets": (bytes(range(32)),)}
    with WebhookReceiver() as receiver:
        with serving(pipeline, **limits) as server, client_of(server) as client:
            body = {"url": f"{web.url}/hang", "callback_url": receiver.url}
            job_id = client.post("/jobs", json=body).json()["id"]
        (message,) = receiver.messages
    assert verified(message)["data"]["error"]["code"] == "cancelled"
    with serving(pipeline, resume_dir=tmp_path) as server, client_of(server) as client:
        assert client.get(f"/jobs/{job_id}").json()["error"]["code"] == "cancelled"
