"""Compatibility with worker-faster_whisper: each field has an effect, and clients find the fields that they read."""

from pathlib import Path
from typing import Any

import pytest

from handler.errors import InvalidRequest
from handler.jobs.faster_whisper_compat import COMPAT_FIELDS, translate_input
from handler.jobs.job import parse_job
from handler.jobs.job_handler import JobHandler
from handler.schema.model_names import model_names
from handler.schema.options import Options
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.speech import SENTENCES, container, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

TURBO = Settings(model_id="openai/whisper-large-v3-turbo")
# Each field with a value that is not its default. Source: runpod-workers/worker-faster_whisper, README.md.
COMPAT_INPUT: dict[str, Any] = {
    "audio": "http://a/b.wav",
    "model": "turbo",
    "transcription": "srt",
    "translate": True,
    "translation": "vtt",
    "language": "en",
    "temperature": 0.4,
    "best_of": 3,
    "beam_size": 2,
    "patience": 2.0,
    "length_penalty": 0.5,
    "suppress_tokens": "-1,50",
    "initial_prompt": "Names.",
    "condition_on_previous_text": True,
    "temperature_increment_on_fallback": 0.1,
    "compression_ratio_threshold": 2.0,
    "logprob_threshold": -0.5,
    "no_speech_threshold": 0.5,
    "enable_vad": False,
    "word_timestamps": True,
}


def test_every_field_keeps_its_meaning() -> None:
    job = parse_job({"id": "1", "input": COMPAT_INPUT}, TURBO)
    assert job.options == Options(
        language="en",
        temperature=0.4,
        best_of=3,
        beam_size=2,
        patience=2.0,
        length_penalty=0.5,
        suppress_tokens=(-1, 50),
        prompt="Names.",
        condition_on_previous_text=True,
        temperature_increment_on_fallback=0.1,
        compression_ratio_threshold=2.0,
        logprob_threshold=-0.5,
        no_speech_threshold=0.5,
        vad=False,
        timestamps="word",
    )
    assert job.sources[0].url == "http://a/b.wav"
    compat_format = job.compat_format
    assert compat_format is not None
    assert (compat_format.transcription, compat_format.translation) == ("srt", "vtt")
    assert compat_format.word_timestamps is True


@pytest.mark.parametrize("name", sorted(COMPAT_FIELDS))
def test_a_field_that_only_that_worker_has_selects_its_answer_format(name: str) -> None:
    payload = {"url": "http://a/b", name: COMPAT_INPUT[name]}
    if name == "audio":
        payload.pop("url")
    assert translate_input(payload, TURBO.model_id, ())[1] is not None
    assert translate_input({"url": "http://a/b", name: None}, TURBO.model_id, ())[1] is None


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "large-v2"},
        {"model": 3},
        {"transcription": "prose"},
        {"translation": 1},
        {"translate": "maybe"},
        {"audio": 5},
        {"initial_prompt": "a", "prompt": "b"},
        {"enable_vad": True, "vad": True},
        {"word_timestamps": True, "timestamps": "word"},
        {"audio": "http://a/b", "url": "http://a/b"},
        {"word_timestamps": "often"},
        {"temperature_increment_on_fallback": 2},
    ],
)
def test_invalid_and_contradictory_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        parse_job({"input": {"audio": "http://a/b", **fields}}, TURBO)


@pytest.mark.parametrize(
    ("model_id", "names"),
    [
        ("openai/whisper-large-v3-turbo", {"turbo", "large-v3-turbo", "whisper-large-v3-turbo"}),
        ("Systran/faster-whisper-large-v3", {"large-v3", "large"}),
        ("Systran/faster-distil-whisper-large-v3", {"distil-large-v3"}),
        ("distil-whisper/distil-large-v3", {"distil-large-v3"}),
        ("openai/whisper-tiny", {"tiny"}),
    ],
)
def test_a_model_answers_to_the_names_of_that_worker(model_id: str, names: set[str]) -> None:
    assert names | {model_id} <= model_names(model_id)
    assert "base" not in model_names(model_id)


@pytest.fixture(scope="module")
def base(base_folder: Path) -> Any:
    pipeline = build(settings(model_id=str(base_folder)))
    yield pipeline
    pipeline.close()


async def _discard_update(job_id: str, content: Any) -> None:
    pass


async def test_a_translation_is_added_to_the_text_and_the_file_is_downloaded_once(base: Pipeline, web: Web) -> None:
    text = SENTENCES[0]
    web.put("/a", wav(say(text)))
    job_handler = JobHandler(base, base.settings, _discard_update, lambda: None)
    payload = {
        "audio": f"{web.url}/a",
        "translate": True,
        "translation": "formatted_text",
        "word_timestamps": True,
        "language": "en",
    }
    output = await job_handler.answer({"id": "1", "input": payload})
    assert word_error_rate(text, output["transcription"]) <= 0.2
    assert isinstance(output["translation"], str)
    assert output["translation"]
    assert output["translation_time"] > 0
    assert output["detected_language"] == "en"
    assert web.counts["/a"] == 1
    words = output["word_timestamps"]
    assert "".join(word["word"] for word in words).strip() == output["transcription"]
    assert all(word["start"] <= word["end"] for word in words)


@pytest.mark.parametrize(
    ("path", "code"), [("/none", "download_refused"), ("/text", "unsupported_media"), ("/broken", "download_failed")]
)
async def test_a_translation_of_an_unreadable_file_has_the_error_of_the_download(
    base: Pipeline, web: Web, path: str, code: str
) -> None:
    web.put("/text", b"no sound " * 99)
    web.put("/broken", container(say(SENTENCES[0]), "mp3", "libmp3lame"))
    web.truncated_paths.add("/broken")
    job_handler = JobHandler(base, base.settings, _discard_update, lambda: None)
    answer = await job_handler.answer({"id": "1", "input": {"audio": f"{web.url}{path}", "translate": True}})
    assert answer["error"].startswith(f"{code}: ")
