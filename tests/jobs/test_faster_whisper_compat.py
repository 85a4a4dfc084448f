"""Jobs as worker-faster_whisper takes them: each field acts, and its clients find what they read."""

from pathlib import Path
from typing import Any

import pytest

from handler.errors import InvalidRequest
from handler.jobs.faster_whisper_compat import ONLY_THEIRS, taken
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
# Its fields, with a value that is not its default. Source: runpod-workers/worker-faster_whisper, README.md.
THEIRS: dict[str, Any] = {
    "audio": "http://a/b.wav", "model": "turbo", "transcription": "srt", "translate": True, "translation": "vtt", "language": "en",
    "temperature": 0.4, "best_of": 3, "beam_size": 2, "patience": 2.0, "length_penalty": 0.5, "suppress_tokens": "-1,50",
    "initial_prompt": "Names.", "condition_on_previous_text": True, "temperature_increment_on_fallback": 0.1,
    "compression_ratio_threshold": 2.0, "logprob_threshold": -0.5, "no_speech_threshold": 0.5, "enable_vad": False, "word_timestamps": True,
}  # fmt: skip


def test_every_field_is_taken_with_its_meaning() -> None:
    job = parse_job({"id": "1", "input": THEIRS}, TURBO)
    assert job.options == Options(
        language="en", temperature=0.4, best_of=3, beam_size=2, patience=2.0, length_penalty=0.5, suppress_tokens=(-1, 50), prompt="Names.",
        condition_on_previous_text=True, temperature_increment_on_fallback=0.1, compression_ratio_threshold=2.0, logprob_threshold=-0.5,
        no_speech_threshold=0.5, vad=False, timestamps="word",
    )  # fmt: skip
    assert job.sources[0].url == "http://a/b.wav"
    assert job.shape is not None
    assert (job.shape.transcription, job.shape.translation, job.shape.word_timestamps) == ("srt", "vtt", True)


@pytest.mark.parametrize("name", sorted(ONLY_THEIRS))
def test_a_field_that_only_that_worker_has_asks_for_its_shape(name: str) -> None:
    assert taken({"url": "http://a/b", name: THEIRS[name]} if name != "audio" else {name: THEIRS[name]}, TURBO.model_id, ())[1] is not None
    assert taken({"url": "http://a/b", name: None}, TURBO.model_id, ())[1] is None


@pytest.mark.parametrize(
    "given",
    [
        {"model": "large-v2"}, {"model": 3}, {"transcription": "prose"}, {"translation": 1}, {"translate": "maybe"}, {"audio": 5},
        {"initial_prompt": "a", "prompt": "b"}, {"enable_vad": True, "vad": True}, {"word_timestamps": True, "timestamps": "word"},
        {"audio": "http://a/b", "url": "http://a/b"}, {"word_timestamps": "often"}, {"temperature_increment_on_fallback": 2},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        parse_job({"input": {"audio": "http://a/b", **given}}, TURBO)


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
def test_a_model_is_known_by_the_names_that_worker_has(model_id: str, names: set[str]) -> None:
    assert names | {model_id} <= model_names(model_id)
    assert "base" not in model_names(model_id)


@pytest.fixture(scope="module")
def base(base_folder: Path) -> Any:
    made = build(settings(model_id=str(base_folder)))
    yield made
    made.close()


async def _post(job: str, content: Any) -> None:
    """Nobody reads them."""


async def test_a_translation_comes_beside_the_text_and_the_file_is_downloaded_once(base: Pipeline, web: Web) -> None:
    text = SENTENCES[0]
    web.put("/a", wav(say(text)))
    desk = JobHandler(base, base.settings, _post, lambda: None)
    given = {"audio": f"{web.url}/a", "translate": True, "translation": "formatted_text", "word_timestamps": True, "language": "en"}
    output = await desk.answer({"id": "1", "input": given})
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
    ("address", "code"), [("/none", "download_failed"), ("/text", "unsupported_media"), ("/broken", "download_failed")]
)
async def test_a_translation_of_what_cannot_be_read_says_what_the_download_met(base: Pipeline, web: Web, address: str, code: str) -> None:
    web.put("/text", b"no sound " * 99)
    web.put("/broken", container(say(SENTENCES[0]), "mp3", "libmp3lame"))
    web.broken.add("/broken")
    desk = JobHandler(base, base.settings, _post, lambda: None)
    answer = await desk.answer({"id": "1", "input": {"audio": f"{web.url}{address}", "translate": True}})
    assert answer["error"].startswith(f"{code}: ")
