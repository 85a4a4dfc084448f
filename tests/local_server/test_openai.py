"""OpenAI's audio API, asked by the public `openai` package."""

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import srt
import webvtt

from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from local_server.__main__ import create_app
from tests.conftest import TINY, settings
from tests.support.asking import STORY
from tests.support.serving import Running, Server, figures, serving
from tests.support.speech import FOX, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

SPEECH = wav(say(FOX), format="FLAC")
KEY = "one-key"


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    changed = {"max_bytes": 4_000_000, "download_timeout_s": 5, "api_keys": (KEY, "another"), "cors_origins": ("https://a.example",)}
    with serving(pipeline, **changed) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def file(data: bytes = SPEECH) -> tuple[str, bytes]:
    return "speech.flac", data


def test_json_is_the_text_and_what_it_is_paid_by(client: openai.OpenAI) -> None:
    got = client.audio.transcriptions.create(file=file(), model="whisper-1")
    assert word_error_rate(FOX, got.text) == 0
    assert got.usage is not None
    assert got.usage.model_dump() == {"type": "duration", "seconds": math.ceil(len(say(FOX)) / 16_000)}


async def test_the_async_client_gets_the_same(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="another", max_retries=0) as client:
        got = await client.audio.transcriptions.create(file=file(), model=TINY, language="en", temperature=0, prompt="A fox.")
        assert word_error_rate(FOX, got.text) == 0
        events = [event async for event in await client.audio.transcriptions.create(file=file(), model=TINY, stream=True)]
        assert events[-1].type == "transcript.text.done"


def test_each_format_is_what_its_readers_expect(client: openai.OpenAI) -> None:
    text = client.audio.transcriptions.create(file=file(), model="whisper-1", response_format="text")
    assert word_error_rate(FOX, str(text)) == 0
    (cue,) = srt.parse(str(client.audio.transcriptions.create(file=file(), model="whisper-1", response_format="srt")))
    assert word_error_rate(FOX, cue.content) == 0
    vtt = str(client.audio.transcriptions.create(file=file(), model="whisper-1", response_format="vtt"))
    (caption,) = webvtt.from_buffer(io.StringIO(vtt))
    assert word_error_rate(FOX, caption.text) == 0


@pytest.mark.parametrize("granularities", [["word"], ["segment"], ["word", "segment"], []])
def test_verbose_json_has_the_times_that_were_asked_for(client: openai.OpenAI, granularities: list[Any]) -> None:
    got = client.audio.transcriptions.create(
        file=file(), model="whisper-1", response_format="verbose_json", timestamp_granularities=granularities
    )
    assert got.language == "english"
    assert float(got.duration) == pytest.approx(len(say(FOX)) / 16_000, abs=0.01)
    assert (got.words is not None) == ("word" in granularities)
    assert (got.segments is not None) == (granularities != ["word"])
    if got.words:
        assert word_error_rate(FOX, " ".join(word.word for word in got.words)) == 0
        assert all(0 <= word.start <= word.end <= float(got.duration) for word in got.words)
    if got.segments:
        assert word_error_rate(FOX, " ".join(segment.text for segment in got.segments)) == 0
        assert got.segments[0].avg_logprob < 0


def test_log_probabilities_come_by_word(client: openai.OpenAI) -> None:
    got = client.audio.transcriptions.create(file=file(), model="whisper-1", include=["logprobs"])
    assert got.logprobs is not None
    assert "".join(str(one.token) for one in got.logprobs).strip() == got.text
    assert b"".join(bytes(map(int, one.bytes or ())) for one in got.logprobs).decode().strip() == got.text
    assert all(one.logprob is not None and -10 < one.logprob <= 0 for one in got.logprobs)


def test_a_stream_s_deltas_are_its_text_and_that_is_the_plain_one(client: openai.OpenAI) -> None:
    story = wav(STORY, format="FLAC")
    plain = client.audio.transcriptions.create(file=file(story), model="whisper-1")
    events = list(client.audio.transcriptions.create(file=file(story), model="whisper-1", stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    (done,) = [event for event in events if event.type == "transcript.text.done"]
    assert len(deltas) > 1
    assert "".join(deltas) == done.text == plain.text
    assert events[-1] is done


def test_an_address_works_instead_of_a_file(server: Server, web: Web) -> None:
    form = {"url": (None, web.put("/a", SPEECH)), "model": (None, "whisper-1"), "keywords[]": (None, "fox")}
    with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}) as raw:
        got = raw.post("/v1/audio/transcriptions", files=form)
    assert word_error_rate(FOX, got.json()["text"]) == 0


def test_models_are_the_real_one_and_its_aliases(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [TINY, "whisper-1"]
    assert client.models.retrieve("whisper-1").object == "model"
    assert client.models.retrieve(TINY).id == TINY
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o-transcribe")


def test_what_is_refused_has_the_right_kind_code_and_field(client: openai.OpenAI, server: Server) -> None:
    create: Any = client.audio.transcriptions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(file=file(), model="whisper-2")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    bad: list[tuple[dict[str, Any], str | None]] = [
        ({"response_format": "docx"}, "response_format"), ({"language": "klingon"}, "language"),
        ({"language": "de"}, "language"), ({"temperature": 3}, "temperature"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"), ({"stream": True, "response_format": "srt"}, "stream"),
        ({"include": ["logprobs"], "response_format": "text"}, "include"), ({"include": ["item"]}, "include"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 0.9}}, "chunking_strategy"),
        ({"known_speaker_names": ["Ann"]}, "known_speaker_names"), ({"extra_body": {"languages": ["en", "de"]}}, "languages"),
        ({"extra_body": {"colour": "red"}}, None), ({"extra_body": {"url": "http://a/b"}}, "file"),
    ]  # fmt: skip
    for given, param in bad:
        with pytest.raises(openai.BadRequestError) as caught:
            create(**{"file": file(), "model": "whisper-1", **given})
        assert (caught.value.code, caught.value.param) == ("invalid_request", param), given
    with pytest.raises(openai.APIStatusError) as media:
        create(file=file(b"no sound" * 99), model="whisper-1")
    assert (media.value.status_code, media.value.code) == (415, "unsupported_media")
    with pytest.raises(openai.APIStatusError) as large:
        create(file=file(bytes(4_000_001)), model="whisper-1")
    assert (large.value.status_code, large.value.code) == (413, "too_large")
    with pytest.deprecated_call(), pytest.raises(openai.BadRequestError):
        client.audio.translations.create(file=file(), model="whisper-1")  # the model knows English only
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger:
        for ask in (stranger.models.list, lambda: stranger.audio.transcriptions.create(file=file(), model="whisper-1")):
            with pytest.raises(openai.AuthenticationError) as locked:
                ask()
            assert locked.value.code == "invalid_api_key"


@pytest.mark.parametrize("samples", [16_000, 160, 0], ids=["silence", "10 ms", "nothing"])
@pytest.mark.parametrize("format", ["json", "text", "srt", "verbose_json", "vtt"])
def test_without_speech_there_is_a_valid_empty_answer_or_the_documented_error(client: openai.OpenAI, samples: int, format: Any) -> None:
    quiet = wav(silence(samples / 16_000), format="FLAC") if samples else wav(silence(0), format="WAV")
    create: Any = client.audio.transcriptions.create
    if not samples:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            create(file=("a.wav", quiet), model="whisper-1", response_format=format)
        assert caught.value.code == "no_audio_stream"
        return
    got = create(file=("a.flac", quiet), model="whisper-1", response_format=format)
    text = got if isinstance(got, str) else got.text
    assert text.replace("WEBVTT", "").strip() == ""


def test_keys_guard_everything_but_what_monitors_and_browsers_need(server: Server) -> None:
    with httpx.Client(base_url=server.url) as raw:
        assert raw.get("/hc").status_code == 200
        assert raw.get("/metrics").status_code == 200
        assert raw.get("/docs").status_code == 401
        refused = raw.post("/asr", content=SPEECH)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
        for header in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": "another"}, {"Authorization": f"bearer {KEY}"}):
            assert raw.post("/asr", content=SPEECH, headers=header).status_code == 200
        for header in ({"Authorization": KEY}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": ""}, {"Authorization": f"Basic {KEY}"}):
            assert raw.post("/asr", content=SPEECH, headers=header).status_code == 401


def test_pages_of_named_origins_may_ask(server: Server) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with httpx.Client(base_url=server.url) as raw:
        named = raw.options("/asr", headers={"Origin": "https://a.example", **asks})
        assert (named.status_code, named.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert "access-control-allow-origin" not in raw.options("/asr", headers={"Origin": "https://b.example", **asks}).headers


def test_a_request_has_an_id_and_is_counted(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    headers = {"X-API-Key": KEY}
    with httpx.Client(base_url=server.url, headers=headers) as raw:
        before = figures(server)
        assert raw.post("/asr", content=SPEECH, headers={"X-Request-ID": "mine-7"}).headers["x-request-id"] == "mine-7"
        assert len(raw.post("/asr", content=b"nothing", headers={"X-Request-ID": "no good id"}).headers["x-request-id"]) == 32
        after = figures(server)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    assert grown['asr_requests_total{code="ok",door="/asr",kind="file"}'] == 1
    assert grown['asr_requests_total{code="unsupported_media",door="/asr",kind="file"}'] == 1
    assert grown["asr_audio_seconds_total"] == pytest.approx(len(say(FOX)) / 16_000, abs=0.01)
    assert grown["asr_tokens_total"] > 5
    assert grown["asr_windows_total"] >= 1
    assert after["asr_rows"] == 16
    assert after["asr_rows_busy"] == after["asr_windows_waiting"] == after["asr_requests_in_work"] == 0
    assert after["asr_ready"] == 1
    assert after["process_resident_memory_bytes"] > 10**8


def events(body: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in body.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_asr_tells_how_far_it_is_to_whom_wants_events(server: Server) -> None:
    headers = {"X-API-Key": KEY, "Accept": "text/event-stream"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as raw:
        got = raw.post("/asr?format=srt", content=SPEECH)
        assert got.headers["content-type"].startswith("text/event-stream")
        *progress, (name, whole) = events(got.text)
        assert name == "done"
        assert {name for name, _ in progress} == {"progress"}
        assert "".join(told["text"] for _, told in progress).strip() == whole["text"]
        assert whole["formatted"].startswith("1\n00:00:")
        refused = raw.post("/asr", content=b"no sound" * 99)
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media")


def test_a_multilingual_model_translates_a_file(base_folder: Path) -> None:
    changed = settings(model_id=str(base_folder))
    with (
        Running(create_app(changed, build)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=20) as client,
    ):
        with pytest.deprecated_call():
            got = client.audio.translations.create(file=file(), model="whisper-1", response_format="verbose_json")
        assert got.text
        assert got.language == "english"
        assert client.audio.transcriptions.create(file=file(), model="whisper-1", language="en").text


def test_half_a_character_and_json_without_an_end_cost_nobody_anything(server: Server) -> None:
    as_json = {"Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=240) as raw:
        for sound in (SPEECH, *[wav(silence(0.5), format="FLAC")] * 3):  # once with speech: odd words make every fallback run
            for name in ("prompt", "hotwords"):
                refused = raw.post("/asr", content=f'{{"url": "http://a/b", "{name}": "\\ud800"}}', headers=as_json)
                assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
            assert raw.post("/asr", content="[" * 100_000, headers=as_json).status_code == 400
            for field in ("keywords", "chunking_strategy"):
                for value in ('["\\ud800"]', "[" * 50_000):
                    given = {"model": "whisper-1", field: value}
                    got = raw.post("/v1/audio/transcriptions", files={"file": ("a.flac", sound)}, data=given)
                    assert got.status_code in (200, 400)
        assert raw.post("/asr", content=SPEECH).status_code == 200


def test_a_client_that_leaves_before_the_first_event_is_noticed(server: Server, pipeline: Pipeline, web: Web) -> None:
    headers = {"X-API-Key": KEY, "Accept": "text/event-stream"}
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, headers=headers, timeout=1.0) as raw:
        raw.post("/asr", json={"url": web.url + "/hang"})
    while pipeline.load().requests:
        pass
