"""Families that generate text load, transcribe in batches as one by one, and are told what a request says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from handler.hub.engine import HubEngine
from handler.hub.generation import GenerateRecognizer
from handler.schema.window import Window
from tests.support.hub_engine import decode, engine_for, text_of
from tests.support.hub_models import GENERATING, save_model
from tests.support.speech import SENTENCES, say

WINDOWS = [
    Window(0, say(text)[:length]).with_params(language="en")
    for text, length in zip(SENTENCES, (48_000, 47_000, 42_000), strict=False)
]
TOLD_A_LANGUAGE = {"cohere_asr", "canary", "seamless_m4t_v2", "qwen3_asr", "omniasr", "fun_asr_nano"}
MUST_BE_TOLD = {"cohere_asr", "canary"}
TRANSLATING = {"canary", "seamless_m4t_v2", "granite_speech", "granite_speech_plus"}
WITH_PROMPT = {"qwen3_asr", "glmasr", "fun_asr_nano"}
WITH_HOTWORDS = WITH_PROMPT | {"granite_speech", "granite_speech_plus"}


@pytest.fixture(scope="module", params=GENERATING)
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(model_type: str, tmp_path_factory: pytest.TempPathFactory) -> HubEngine:
    return engine_for(save_model(model_type, tmp_path_factory.mktemp("model")), batch_size=3)


def inputs_for(engine: HubEngine, **params: Any) -> dict[str, Any]:
    """Return what `generate` is given for a window."""
    recognizer = engine._recognizer
    assert isinstance(recognizer, GenerateRecognizer)
    return recognizer._request.inputs([WINDOWS[0].with_params(**params)])


def differ(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Return whether `generate` is given different things."""

    def is_equal(one: Any, other: Any) -> bool:
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)

    return first.keys() != second.keys() or not all(is_equal(first[name], second[name]) for name in first)


def test_windows_of_a_batch_get_the_text_that_each_gets_alone(engine: HubEngine) -> None:
    alone = [decode(engine, [window])[0] for window in WINDOWS]
    together = decode(engine, WINDOWS)
    assert [text_of(result) for result in together] == [text_of(result) for result in alone]
    for window, result in zip(WINDOWS, alone, strict=True):
        assert result.evidence is not None
        assert result.evidence.avg_logprob < 0
        assert all(0 <= segment.start <= segment.end <= window.seconds for segment in result.segments)


def test_it_times_no_words_and_samples_nothing(engine: HubEngine) -> None:
    capabilities = engine.capabilities
    assert not any((capabilities.word_times, capabilities.sampling, capabilities.beam_search))


def test_a_family_is_told_the_language_of_the_request(engine: HubEngine, model_type: str) -> None:
    capabilities = engine.capabilities
    assert capabilities.needs_language == (model_type in MUST_BE_TOLD)
    if model_type not in TOLD_A_LANGUAGE:
        assert capabilities.languages == ()
        return
    assert "en" in capabilities.languages
    assert "xx" not in capabilities.languages
    if "de" in capabilities.languages:
        assert differ(inputs_for(engine, language="en"), inputs_for(engine, language="de"))


def test_a_language_without_a_token_is_not_known(engine: HubEngine, model_type: str) -> None:
    if model_type in TOLD_A_LANGUAGE - {
        "qwen3_asr",
        "canary",
        "fun_asr_nano",
    }:  # whose processors have the names of their languages
        assert set(engine.capabilities.languages) <= {"en", "de"}


def test_a_family_that_translates_is_told_to(engine: HubEngine, model_type: str) -> None:
    assert engine.capabilities.translates == (model_type in TRANSLATING)
    if model_type in TRANSLATING:
        german = inputs_for(engine, language="de")
        assert differ(german, inputs_for(engine, language="de", task="translate"))


def test_a_family_with_a_prompt_reads_prompt_and_hotwords(engine: HubEngine, model_type: str) -> None:
    assert engine.capabilities.prompt == (model_type in WITH_PROMPT)
    assert engine.capabilities.hotwords == (model_type in WITH_HOTWORDS)
    plain = inputs_for(engine)
    assert differ(plain, inputs_for(engine, prompt="abc")) == (model_type in WITH_PROMPT)
    assert differ(plain, inputs_for(engine, hotwords="abc")) == (model_type in WITH_HOTWORDS)


def test_windows_in_different_languages_share_no_batch(engine: HubEngine, model_type: str) -> None:
    if "de" not in engine.capabilities.languages:
        pytest.skip("it is told no other language")
    windows = [WINDOWS[0], WINDOWS[1].with_params(language="de")]
    together = [text_of(result) for result in decode(engine, windows)]
    assert together == [text_of(decode(engine, [window])[0]) for window in windows]
    assert [decode(engine, [window])[0].language for window in windows] == ["en", "de"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("language English<asr_text>Good morning.", ("Good morning.", "en")),
        ("language None<asr_text>", ("", None)),
        ("Good morning.", ("Good morning.", None)),
    ],
)
def test_a_text_may_tell_its_language(tmp_path: Path, text: str, expected: tuple[str, str | None]) -> None:
    engine = engine_for(save_model("qwen3_asr", tmp_path))
    recognizer = engine._recognizer
    assert isinstance(recognizer, GenerateRecognizer)
    assert recognizer._request.read(text) == expected
