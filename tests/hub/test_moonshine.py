"""Moonshine tiny with real weights: word errors, loops and budgets, and what it cannot do."""

import asyncio
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from handler.audio.source import AudioSource
from handler.hub.generation import BASE_TOKENS, GenerateRecognizer
from handler.schema.capabilities import Capabilities
from handler.schema.options import Options
from handler.schema.window import Window
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import package, settings
from tests.support.asking import error_of, upload
from tests.support.browser import CHROMIUM, Browser
from tests.support.clips import Clip, clips
from tests.support.moonshine import save_moonshine
from tests.support.serving import serving
from tests.support.word_errors import count_word_errors

MAX_WER = 0.062  # without silence before the speech, 0.086


@pytest.fixture(scope="module")
def moonshine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_moonshine(package("moonshine_voice") / "assets/tiny-en", tmp_path_factory.mktemp("moonshine"))


@pytest.fixture(scope="module")
def moonshine(moonshine_folder: Path) -> Iterator[Pipeline]:
    pipeline = build(settings(model_id=str(moonshine_folder)))
    yield pipeline
    pipeline.close()


async def transcribe(pipeline: Pipeline, clip: Clip, options: Options) -> str:
    with clip.path.open("rb") as file:
        return (await pipeline.transcribe(AudioSource(file=file), options)).text


async def test_the_clips_together_have_the_word_errors_of_the_model(moonshine: Pipeline) -> None:
    texts = await asyncio.gather(*(transcribe(moonshine, clip, Options()) for clip in clips()))
    assert count_word_errors([clip.text for clip in clips()], texts).wer <= MAX_WER


async def test_segments_lie_where_speech_was_heard(moonshine: Pipeline) -> None:
    with clips()[0].path.open("rb") as file:
        transcript = await moonshine.transcribe(AudioSource(file=file), Options())
    assert transcript.language == "en"
    assert transcript.coverage.gaps == ()
    assert [segment.words for segment in transcript.segments] == [()] * len(transcript.segments)
    assert 0 <= transcript.segments[0].start < 1 < transcript.segments[-1].end <= transcript.duration


async def test_word_times_are_refused_by_name(moonshine: Pipeline) -> None:
    error = await error_of(moonshine, upload(clips()[1].path.read_bytes()), Options(timestamps="word"))
    assert (error.code, error.field) == ("invalid_request", "timestamps")


async def test_another_language_is_refused(moonshine: Pipeline) -> None:
    error = await error_of(moonshine, upload(clips()[1].path.read_bytes()), Options(language="de"))
    assert (error.code, error.field) == ("invalid_request", "language")
    assert "expected en" in error.message


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_offers_what_the_model_can_do_and_plays_its_segments(moonshine: Pipeline) -> None:
    with serving(moonshine) as server, Browser() as page:
        page.open(server.url + "/")
        page.wait_until("document.getElementById('tasks').hidden")
        assert page.run("['tasks', 'names', 'spoken'].map(name => document.getElementById(name).hidden)") == [True] * 3
        page.drop(clips()[1].path.read_bytes(), "clip.flac")
        page.wait_until("document.getElementById('status').hidden && !document.getElementById('result').hidden")
        assert page.run("document.getElementById('error').hidden")
        assert page.run("document.querySelectorAll('.said').length") == 1
        shown = page.run("document.querySelector('.word').textContent")
        assert count_word_errors([clips()[1].text], [shown]).wer == 0
        assert page.run("document.querySelector('.word').title") == "0:00"
        assert page.errors == []


def test_the_schema_describes_every_ability(moonshine: Pipeline) -> None:
    with serving(moonshine) as server:
        document = httpx.get(f"{server.url}/openapi.json").json()
        model = httpx.get(f"{server.url}/v1/models").json()["data"][0]
    content = document["paths"]["/v1/models/{name}"]["get"]["responses"]["200"]["content"]["application/json"]
    described = next(part for part in _parts(content) if "word_times" in part)
    assert described.keys() == model["capabilities"].keys() == {field.name for field in fields(Capabilities)}
    assert model["capabilities"]["word_times"] is False


def _parts(value: object) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a value."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _parts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _parts(item)


@pytest.fixture
def recognizer(moonshine: Pipeline) -> GenerateRecognizer:
    engine = moonshine.engine
    return engine._recognizer  # type: ignore[attr-defined, no-any-return]


def test_a_text_that_repeats_itself_ends_and_is_cut(
    recognizer: GenerateRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = recognizer._model
    words = torch.tensor([100, 200, 300])

    def repeat(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:] = -torch.inf
        scores[:, words[input_ids.shape[1] % 3]] = 0.0
        return scores

    generate = network.generate

    def generate_the_same(**options: Any) -> Any:
        return generate(**{**options, "logits_processor": [repeat, *options["logits_processor"]]})

    monkeypatch.setattr(recognizer, "_tokens_per_s", 100.0)
    monkeypatch.setattr(network, "generate", generate_the_same)
    with torch.inference_mode():
        (result,) = recognizer.recognize([Window(0, clips()[1].samples)], lambda window: True)
    assert result.evidence is not None
    assert result.evidence.looped
    assert not result.evidence.exhausted
    assert result.segments[0].tokens in ((200, 300, 100), (100, 200, 300), (300, 100, 200))


def test_a_text_without_an_end_is_as_long_as_its_budget(
    recognizer: GenerateRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognizer, "_tokens_per_s", 1.0)
    window = Window(0, clips()[0].samples)
    with torch.inference_mode():
        (result,) = recognizer.recognize([window], lambda window: True)
    assert result.evidence is not None
    assert result.evidence.exhausted
    assert result.evidence.tokens == BASE_TOKENS + round(window.seconds)


def test_rows_that_end_at_their_budget_or_in_a_loop_are_told_from_those_that_end_by_themselves(
    recognizer: GenerateRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = recognizer._model
    generate = network.generate

    def write(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Make the first row end after five tokens, the second repeat itself and the third go on."""
        step = input_ids.shape[1]
        scores[:] = -torch.inf
        scores[0, 2 if step > 5 else 100 + step] = 0.0
        scores[1, 300 + step % 2] = 0.0
        scores[2, 1000 + step] = 0.0
        return scores

    def generate_the_same(**options: Any) -> Any:
        return generate(**{**options, "logits_processor": [write, *options["logits_processor"]]})

    monkeypatch.setattr(network, "generate", generate_the_same)
    samples = np.tile(clips()[1].samples, 4)[:112_000]
    windows = [Window(0, samples) for _ in range(3)]
    with torch.inference_mode():
        results = recognizer.recognize(windows, lambda window: True)
    found = [(each.evidence.looped, each.evidence.exhausted) for each in results if each.evidence is not None]
    assert found == [(False, False), (True, False), (False, True)]
    assert len(results[0].segments[0].tokens) == 5
    assert len(results[1].segments[0].tokens) == 2


def test_a_window_that_nobody_wants_any_more_ends_at_once(recognizer: GenerateRecognizer) -> None:
    wanted = iter([True] * 3)
    with torch.inference_mode():
        (result,) = recognizer.recognize([Window(0, clips()[0].samples)], lambda window: next(wanted, False))
    assert result.evidence is not None
    assert result.evidence.tokens == 4


def test_silence_has_no_text_of_many_words(moonshine: Pipeline) -> None:
    window = Window(0, np.zeros(160_000, np.float32))
    result = moonshine.runner.submit("silence", window).result()
    assert result.evidence is not None
    assert result.evidence.tokens <= BASE_TOKENS + 65
