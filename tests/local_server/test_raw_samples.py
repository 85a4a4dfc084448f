"""Content types of samples without a header, and requests with each of them."""

import base64
import io
from collections.abc import Iterator

import httpx
import pytest
import soundfile
import soxr

from handler.jobs.job_handler import JobHandler
from handler.transcription.pipeline import Pipeline
from local_server.uploads.raw_samples import options_of_type
from tests.support.serving import serving
from tests.support.speech import FOX, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("audio/basic", {"input_format": "pcm_mulaw"}),
        ("Audio/PCMU; rate=16000", {"input_format": "pcm_mulaw", "sample_rate": "16000"}),
        ("audio/PCMA", {"input_format": "pcm_alaw"}),
        ("audio/x-mulaw", {"input_format": "pcm_mulaw"}),
        (
            'audio/L16;RATE=44100;channels="2"',
            {"input_format": "pcm_s16be", "sample_rate": "44100", "input_channels": "2"},
        ),
        (
            "audio/l16; rate=8000; endianness=Little-Endian",
            {"input_format": "pcm_s16le", "sample_rate": "8000"},
        ),
        ("audio/L16; rate=\xff", {"input_format": "pcm_s16be", "sample_rate": "\xff"}),
        ("audio/wav; rate=8000", {}),
        ("audio/L24; rate=8000", {}),
        ("application/octet-stream", {}),
        ("", {}),
        (";", {}),
        ("audio/basic;" + "a" * 2000, {}),
    ],
)
def test_a_content_type_of_samples_without_a_header_stands_for_options(
    content_type: str, expected: dict[str, str]
) -> None:
    assert options_of_type(content_type) == expected


def raw(subtype: str, rate: int = 8000, endian: str = "LITTLE", channels: int = 1) -> bytes:
    file = io.BytesIO()
    samples = soxr.resample(say(FOX), 16_000, rate)[:, None].repeat(channels, 1)
    soundfile.write(file, samples, rate, format="RAW", subtype=subtype, endian=endian)
    return file.getvalue()


@pytest.fixture(scope="module")
def client(pipeline: Pipeline) -> Iterator[httpx.Client]:
    with serving(pipeline) as server, httpx.Client(base_url=server.url, timeout=120) as http_client:
        yield http_client


REQUESTS: dict[str, tuple[bytes, str, dict[str, str]]] = {
    "a line of µ-law": (raw("ULAW"), "audio/basic", {}),
    "µ-law by its own type": (raw("ULAW"), "audio/PCMU;rate=8000", {}),
    "a line of A-law": (raw("ALAW"), "audio/PCMA", {}),
    "big-endian stereo": (raw("PCM_16", 22_050, "BIG", 2), "audio/L16;rate=22050;channels=2", {}),
    "little-endian by type": (raw("PCM_16", 16_000), "audio/L16;rate=16000;endianness=little-endian", {}),
    "an option for the type": (raw("ALAW"), "audio/basic", {"input_format": "pcm_alaw"}),
    "options alone": (raw("PCM_16", 24_000), "", {"input_format": "pcm_s16le", "sample_rate": "24000"}),
    "au after all": (wav(say(FOX), 8000, "ULAW", "AU"), "audio/basic", {}),
    "wav after all": (wav(say(FOX)), "", {"input_format": "pcm_mulaw"}),
    "flac after all": (wav(say(FOX), format="FLAC"), "audio/PCMA", {}),
}  # body, content type and query


@pytest.mark.parametrize("name", REQUESTS)
def test_samples_without_a_header_are_transcribed_from_a_body_and_from_a_form(client: httpx.Client, name: str) -> None:
    data, content_type, options = REQUESTS[name]
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client.post("/asr", params=options, content=data, headers=headers).json()
    assert word_error_rate(FOX, answer["text"]) == 0
    assert answer["duration"] == pytest.approx(len(say(FOX)) / 16_000, abs=0.01)
    files = {"file": ("call", data, content_type or "application/octet-stream")}
    form = client.post("/asr", data={"language": "en", **options}, files=files).json()
    assert word_error_rate(FOX, form["text"]) == 0
    fields = {"model": "whisper-1", **options}
    openai = client.post("/v1/audio/transcriptions", data=fields, files=files).json()
    assert word_error_rate(FOX, openai["text"]) == 0


def test_samples_without_a_header_are_transcribed_from_an_address(client: httpx.Client, web: Web) -> None:
    request = {"url": web.put("/call", raw("ALAW")), "input_format": "pcm_alaw"}
    assert word_error_rate(FOX, client.post("/asr", json=request).json()["text"]) == 0


async def test_samples_without_a_header_are_transcribed_from_a_job(pipeline: Pipeline) -> None:
    async def discard_update(job_id: str, content: object) -> None:
        pass

    job_handler = JobHandler(pipeline, pipeline.settings, discard_update, lambda: None)
    encoded = base64.urlsafe_b64encode(raw("PCM_16")).decode().rstrip("=")
    fields = {"audio_base64": encoded, "input_format": "pcm_s16le", "sample_rate": 8000}
    output = await job_handler.answer({"id": "1", "input": fields})
    assert word_error_rate(FOX, output["text"]) == 0


def test_16_bit_samples_without_a_rate_are_refused(client: httpx.Client) -> None:
    for headers, params in (({"Content-Type": "audio/L16"}, {}), ({}, {"input_format": "pcm_s16le"})):
        refusal = client.post("/asr", content=raw("PCM_16"), headers=headers, params=params)
        assert refusal.status_code == 400
        assert "sample_rate must be given" in refusal.json()["error"]["message"]
