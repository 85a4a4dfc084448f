"""Test OpenAI's audio API with the public `openai` package."""

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import srt
import webvtt

from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from local_server.__main__ import create_app
from tests.conftest import TINY, settings
from tests.support.asking import STORY
from tests.support.serving import RunningServer, Server, read_metrics, serving
from tests.support.speech import FOX, SENTENCES, container, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

SPEECH = wav(say(FOX), format="FLAC")
KEY = "one-key"


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(
        pipeline,
        max_bytes=4_000_000,
        download_timeout_s=5,
        api_keys=(KEY, "another"),
        cors_origins=("https://a.example",),
    ) as running_server:
        yield running_server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as openai_client:
        yield openai_client


def file(data: bytes = SPEECH) -> tuple[str, bytes]:
    return "speech.flac", data


def test_json_is_the_text_and_its_billed_duration(client: openai.OpenAI) -> None:
    transcription = client.audio.transcriptions.create(file=file(), model="whisper-1")
    assert word_error_rate(FOX, transcription.text) == 0
    assert transcription.usage is not None
    assert transcription.usage.model_dump() == {"type": "duration", "seconds": math.ceil(len(say(FOX)) / 16_000)}


async def test_the_async_client_gets_the_same(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="another", max_retries=0) as client:
        transcription = await client.audio.transcriptions.create(
            file=file(), model=TINY, language="en", temperature=0, prompt="A fox."
        )
        assert word_error_rate(FOX, transcription.text) == 0
        events = [
            event async for event in await client.audio.transcriptions.create(file=file(), model=TINY, stream=True)
        ]
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
    transcription = client.audio.transcriptions.create(
        file=file(), model="whisper-1", response_format="verbose_json", timestamp_granularities=granularities
    )
    assert transcription.language == "english"
    assert float(transcription.duration) == pytest.approx(len(say(FOX)) / 16_000, abs=0.01)
    assert (transcription.words is not None) == ("word" in granularities)
    assert (transcription.segments is not None) == (granularities != ["word"])
    if transcription.words:
        assert word_error_rate(FOX, " ".join(word.word for word in transcription.words)) == 0
        assert all(0 <= word.start <= word.end <= float(transcription.duration) for word in transcription.words)
    if transcription.segments:
        assert word_error_rate(FOX, " ".join(segment.text for segment in transcription.segments)) == 0
        assert transcription.segments[0].avg_logprob < 0


def test_log_probabilities_are_listed_by_token(client: openai.OpenAI) -> None:
    transcription = client.audio.transcriptions.create(file=file(), model="whisper-1", include=["logprobs"])
    assert transcription.logprobs is not None
    assert "".join(str(entry.token) for entry in transcription.logprobs).strip() == transcription.text
    assert (
        b"".join(bytes(map(int, entry.bytes or ())) for entry in transcription.logprobs).decode().strip()
        == transcription.text
    )
    assert all(entry.logprob is not None and -10 < entry.logprob <= 0 for entry in transcription.logprobs)


def test_the_deltas_of_a_stream_make_the_text_of_a_request_without_one(client: openai.OpenAI) -> None:
    story = wav(STORY, format="FLAC")
    plain = client.audio.transcriptions.create(file=file(story), model="whisper-1")
    events = list(client.audio.transcriptions.create(file=file(story), model="whisper-1", stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    (done,) = [event for event in events if event.type == "transcript.text.done"]
    assert len(deltas) > 1
    assert "".join(deltas) == done.text == plain.text
    assert events[-1] is done


def test_what_is_redacted_is_in_no_event_and_no_token(client: openai.OpenAI) -> None:
    events = client.audio.transcriptions.create(
        file=file(),
        model="whisper-1",
        stream=True,
        include=["logprobs"],
        extra_body={"redact": ["card"], "replace": '{"brown fox": "4111 1111", "jumps over": "1111 1111"}'},
    )
    told = [event.model_dump() for event in events]
    assert told[-1]["text"] == "The quick [CARD] the lazy dog."
    for event in told:
        spelled = "".join(str(entry["token"]) for entry in event["logprobs"])
        assert not any(hidden in str(event) + spelled for hidden in ("1111", "fox", "jumps"))


def test_an_address_works_instead_of_a_file(server: Server, web: Web) -> None:
    form = {"url": (None, web.put("/a", SPEECH)), "model": (None, "whisper-1"), "keywords[]": (None, "fox")}
    with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}) as raw:
        response = raw.post("/v1/audio/transcriptions", files=form)
    assert word_error_rate(FOX, response.json()["text"]) == 0


def test_models_are_the_real_one_and_its_aliases(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [TINY, *Settings().model_aliases]
    assert "gpt-4o-transcribe" in Settings().model_aliases
    assert {model.root for model in models} == {TINY}  # type: ignore[attr-defined]
    assert client.models.retrieve("whisper-1").object == "model"
    assert client.models.retrieve(TINY).id == TINY
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


INVALID: list[tuple[dict[str, Any], str | None]] = [
    ({"response_format": "docx"}, "response_format"),
    ({"language": "klingon"}, "language"),
    ({"language": "de"}, "language"),
    ({"temperature": 3}, "temperature"),
    ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
    ({"stream": True, "response_format": "srt"}, "stream"),
    ({"include": ["logprobs"], "response_format": "text"}, "include"),
    ({"include": ["item"]}, "include"),
    ({"chunking_strategy": {"type": "server_vad", "threshold": 0.9}}, "chunking_strategy"),
    ({"known_speaker_names": ["Ann"]}, "known_speaker_names"),
    ({"known_speaker_references": ["https://a.example/"]}, "known_speaker_references"),
    ({"extra_body": {"languages": ["en", "de"]}}, "languages"),
    ({"extra_body": {"colour": "red"}}, None),
    ({"extra_body": {"url": "http://a/b"}}, "file"),
    ({"extra_body": {"hotwords": "\0", "beam_size": 99}}, "beam_size"),
    ({"extra_body": {"vad_filter": "perhaps"}}, "vad_filter"),
    ({"extra_body": {"vad_filter": "true", "vad": "false"}}, "vad_filter"),
    ({"extra_body": {"sample_rate": 8000}}, "sample_rate"),
    ({"extra_body": {"partial": "true"}}, None),
]  # fields of a request, and the field that its error names


UNREADABLE = [
    (b"no sound" * 99, "unsupported_media"),
    (container(None, "mp4", picture=True), "no_audio_stream"),
    (container(say(FOX), "ipod", "aac", 44_100)[:9000], "corrupt_media"),
]  # files, and the codes of their errors


def test_an_option_with_another_name_at_openai_is_called_by_that_name(server: Server) -> None:
    form = {"model": "whisper-1", "keywords": '["\\ud800"]'}
    with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}) as raw:
        response = raw.post("/v1/audio/transcriptions", files={"file": ("a.flac", SPEECH)}, data=form)
    assert response.json()["error"]["param"] == "keywords"


def test_an_error_has_the_right_class_code_and_field(client: openai.OpenAI) -> None:
    create: Any = client.audio.transcriptions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(file=file(), model="whisper-2")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    for fields, param in INVALID:
        with pytest.raises(openai.BadRequestError) as caught:
            create(**{"file": file(), "model": "whisper-1", **fields})
        assert (caught.value.code, caught.value.param) == ("invalid_request", param), fields
    for data, code in UNREADABLE:
        with pytest.raises(openai.BadRequestError) as media:
            create(file=file(data), model="whisper-1")
        assert (media.value.type, media.value.code) == ("invalid_request_error", code)
        assert media.value.param == "file"
    with pytest.raises(openai.APIStatusError) as large:
        create(file=file(bytes(4_000_001)), model="whisper-1")
    assert (large.value.status_code, large.value.code) == (413, "too_large")
    with pytest.deprecated_call(), pytest.raises(openai.BadRequestError):
        client.audio.translations.create(file=file(), model="whisper-1")  # the model knows English only


def test_a_wrong_key_is_an_authentication_error(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError) as caught:
            client.audio.transcriptions.create(file=file(), model="whisper-1")
        assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("samples", [16_000, 160, 0], ids=["silence", "10 ms", "nothing"])
@pytest.mark.parametrize("format", ["json", "text", "srt", "verbose_json", "vtt"])
def test_audio_without_speech_has_an_empty_transcript_or_the_documented_error(
    client: openai.OpenAI, samples: int, format: Any
) -> None:
    create: Any = client.audio.transcriptions.create
    if not samples:
        with pytest.raises(openai.BadRequestError) as caught:
            create(file=("a.wav", wav(silence(0), format="WAV")), model="whisper-1", response_format=format)
        assert caught.value.code == "no_audio_stream"
        return
    quiet = wav(silence(samples / 16_000), format="FLAC")
    transcription = create(file=("a.flac", quiet), model="whisper-1", response_format=format)
    text = transcription if isinstance(transcription, str) else transcription.text
    assert text.replace("WEBVTT", "").strip() == ""


VALID_KEYS = ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": "another"}, {"Authorization": f"bearer {KEY}"})
INVALID_KEYS = (
    {"Authorization": KEY},
    {"X-API-Key": KEY[:-1]},
    {"X-API-Key": ""},
    {"Authorization": f"Basic {KEY}"},
)


def test_every_path_but_those_for_monitors_and_browsers_needs_a_key(server: Server) -> None:
    with httpx.Client(base_url=server.url) as raw:
        assert raw.get("/hc").status_code == 200
        assert raw.get("/metrics").status_code == 200
        assert raw.get("/docs").status_code == 401
        refusal = raw.post("/asr", content=SPEECH)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (401, "unauthorized")
        for headers in VALID_KEYS:
            assert raw.post("/asr", content=SPEECH, headers=headers).status_code == 200
        for headers in INVALID_KEYS:
            assert raw.post("/asr", content=SPEECH, headers=headers).status_code == 401


def test_only_pages_of_the_allowed_origins_may_send_requests(server: Server) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with httpx.Client(base_url=server.url) as raw:
        allowed = raw.options("/asr", headers={"Origin": "https://a.example", **preflight})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
        denied = raw.options("/asr", headers={"Origin": "https://b.example", **preflight})
        assert "access-control-allow-origin" not in denied.headers


def test_a_request_has_an_id_and_is_counted(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    headers = {"X-API-Key": KEY}
    with httpx.Client(base_url=server.url, headers=headers) as raw:
        first = read_metrics(server)
        response = raw.post("/asr", content=SPEECH, headers={"X-Request-ID": "mine-7"})
        assert response.headers["x-request-id"] == "mine-7"
        response = raw.post("/asr", content=b"nothing", headers={"X-Request-ID": "no good id"})
        assert len(response.headers["x-request-id"]) == 32
        metrics = read_metrics(server)
    increase = {name: value - first.get(name, 0.0) for name, value in metrics.items()}
    assert increase['asr_requests_total{code="ok",door="/asr",kind="file"}'] == 1
    assert increase['asr_requests_total{code="unsupported_media",door="/asr",kind="file"}'] == 1
    assert increase["asr_audio_seconds_total"] == pytest.approx(len(say(FOX)) / 16_000, abs=0.01)
    assert increase["asr_tokens_total"] > 5
    assert increase["asr_windows_total"] >= 1
    assert increase['asr_decoding_seconds_total{temperature="0"}'] > 0
    assert metrics["asr_rows"] == 16
    assert metrics["asr_downloads_abandoned"] == 0
    assert metrics["asr_rows_busy"] == metrics["asr_windows_waiting"] == metrics["asr_requests_in_work"] == 0
    assert metrics["asr_ready"] == 1
    assert metrics["process_resident_memory_bytes"] > 10**8


def events(body: str) -> list[tuple[str, dict[str, Any]]]:
    parsed = []
    for block in body.strip().split("\n\n"):
        name, data = block.split("\n")
        parsed.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return parsed


def test_asr_streams_progress_to_a_client_that_accepts_events(server: Server) -> None:
    headers = {"X-API-Key": KEY, "Accept": "text/event-stream"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as raw:
        response = raw.post("/asr?format=srt", content=SPEECH)
        assert response.headers["content-type"].startswith("text/event-stream")
        *progress, (name, transcript) = events(response.text)
        assert name == "done"
        assert {name for name, _ in progress} == {"progress"}
        assert "".join(content["text"] for _, content in progress).strip() == transcript["text"]
        assert transcript["formatted"].startswith("1\n00:00:")
        refusal = raw.post("/asr", content=b"no sound" * 99)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (415, "unsupported_media")


def test_a_multilingual_model_translates_a_file(base_folder: Path) -> None:
    app = create_app(settings(model_id=str(base_folder)), build)
    with (
        RunningServer(app) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=20) as client,
    ):
        with pytest.deprecated_call():
            transcription = client.audio.translations.create(
                file=file(), model="whisper-1", response_format="verbose_json"
            )
        assert transcription.text
        assert transcription.language == "english"
        assert client.audio.transcriptions.create(file=file(), model="whisper-1", language="en").text


def test_half_a_character_and_endless_json_are_refused_or_ignored(server: Server) -> None:
    as_json = {"Content-Type": "application/json"}
    with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=240) as raw:
        # Speech only once: with odd words it runs every fallback.
        for sound in (SPEECH, *[wav(silence(0.5), format="FLAC")] * 3):
            for name in ("prompt", "hotwords"):
                refusal = raw.post("/asr", content=f'{{"url": "http://a/b", "{name}": "\\ud800"}}', headers=as_json)
                assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "invalid_request")
            assert raw.post("/asr", content="[" * 100_000, headers=as_json).status_code == 400
            for field in ("keywords", "chunking_strategy"):
                for value in ('["\\ud800"]', "[" * 50_000):
                    data = {"model": "whisper-1", field: value}
                    response = raw.post("/v1/audio/transcriptions", files={"file": ("a.flac", sound)}, data=data)
                    assert response.status_code in (200, 400)
        assert raw.post("/asr", content=SPEECH).status_code == 200


def test_a_client_that_leaves_before_the_first_event_is_noticed(server: Server, pipeline: Pipeline, web: Web) -> None:
    headers = {"X-API-Key": KEY, "Accept": "text/event-stream"}
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=server.url, headers=headers, timeout=1.0) as raw:
        raw.post("/asr", json={"url": web.url + "/hang"})
    while pipeline.stats().requests:
        pass


def create_with(server: Server, *fields: tuple[str, str], data: bytes = SPEECH) -> dict[str, Any]:
    """Return the answer to a form with these fields, which may repeat a name."""
    parts = [("model", (None, "whisper-1")), *((name, (None, value)) for name, value in fields)]
    with httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=60) as raw:
        response = raw.post("/v1/audio/transcriptions", files=[*parts, ("file", ("a.flac", data))])
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.parametrize(
    "names",
    [
        ("timestamp_granularities[0]", "timestamp_granularities[1]"),
        ("timestamp_granularities[1]", "timestamp_granularities[0]"),
        ("timestamp_granularities[]", "timestamp_granularities[]"),
        ("timestamp_granularities", "timestamp_granularities"),
    ],
)
def test_an_array_is_taken_in_each_way_that_clients_write_it(server: Server, names: tuple[str, str]) -> None:
    granularities = [(name, value) for name, value in zip(names, ("word", "segment"), strict=True)]
    answer = create_with(server, ("response_format", "verbose_json"), *granularities)
    assert {"words", "segments"} <= answer.keys()


def test_a_field_of_speaches_leaves_speech_detection_out(server: Server) -> None:
    quiet = wav((0.001 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32), format="FLAC")
    with_detection, without = (
        create_with(server, ("response_format", "verbose_json"), *fields, data=quiet)
        for fields in ([("vad_filter", "true")], [("vad_filter", "false"), ("temperature_increment_on_fallback", "0")])
    )
    assert with_detection["segments"] == []
    assert without["duration"] == with_detection["duration"]


def test_options_of_this_server_act_beside_the_fields_of_openai(server: Server) -> None:
    fox_token = "21831"
    for fields in (
        [("suppress_tokens", f"-1,{fox_token}")],
        [("suppress_tokens[0]", "-1"), ("suppress_tokens[1]", fox_token)],
    ):
        assert " fox" not in create_with(server, *fields)["text"]
    plain = create_with(server, ("beam_size", "2"), ("hotwords", "fox, dog"), ("language", "en-US"))
    assert word_error_rate(FOX, plain["text"]) == 0
    late = wav(np.concatenate((say(SENTENCES[0]), silence(2.0), say(FOX))), format="FLAC")
    start_at = str(len(say(SENTENCES[0])) / 16_000 + 1.0)
    assert word_error_rate(FOX, create_with(server, ("start_at", start_at), data=late)["text"]) == 0
