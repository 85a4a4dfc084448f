"""Every family of CTC models and transducers loads, transcribes in batches as one by one, and times its words."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from handler.errors import ModelUnavailable
from handler.hub.engine import HubEngine
from handler.hub.families import FAMILIES, OTHERS
from handler.schema.window import Window, WindowResult
from tests.conftest import ROOT
from tests.support.hub_engine import decode, engine_for, text_of
from tests.support.hub_models import GENERATING, SAVERS, TRANSDUCERS, save_model
from tests.support.speech import SENTENCES, say

WINDOWS = [Window(0, say(text)[:length]) for text, length in zip(SENTENCES, (64_000, 63_000, 56_000), strict=False)]


@pytest.fixture(scope="module", params=SAVERS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HubEngine:
    return engine_for(save_model(request.param, tmp_path_factory.mktemp("model")), batch_size=3)


@pytest.fixture(scope="module")
def alone(engine: HubEngine) -> list[WindowResult]:
    """Return the result of each window that is decoded by itself."""
    return [decode(engine, [window])[0] for window in WINDOWS]


def test_windows_of_a_batch_get_the_text_that_each_gets_alone(engine: HubEngine, alone: list[WindowResult]) -> None:
    together = decode(engine, WINDOWS)
    assert [text_of(result) for result in together] == [text_of(result) for result in alone]
    assert all(text_of(result) for result in alone), "a text that is empty shows nothing"


def test_words_have_times_in_the_window_and_in_order(engine: HubEngine, alone: list[WindowResult]) -> None:
    assert engine.capabilities.word_times
    for window, result in zip(WINDOWS, alone, strict=True):
        for segment in result.segments:
            assert segment.text == "".join(word.text for word in segment.words)
            times = [time for word in segment.words for time in (word.start, word.end)]
            assert times == sorted(times)
            assert 0 <= segment.start <= segment.end <= window.seconds
            assert all(0 < word.probability <= 1 for word in segment.words)
        starts = [segment.start for segment in result.segments]
        assert all(first <= second for first, second in pairwise(starts))


def test_logprobs_belong_to_the_tokens_of_the_text(engine: HubEngine, alone: list[WindowResult]) -> None:
    words = [word for result in alone for segment in result.segments for word in segment.words]
    for word in words:
        text = b"".join(engine.token_bytes(token) for token, _ in word.tokens).decode("utf-8", "replace")
        assert text.strip() == word.text.strip()
        assert all(logprob <= 0 for _, logprob in word.tokens)


def test_a_window_that_is_dropped_has_no_result(engine: HubEngine, alone: list[WindowResult]) -> None:
    engine.admit(WINDOWS)
    engine.drop(WINDOWS[:1])
    done: dict[Window, WindowResult] = {}
    while len(done) < 2:
        done |= dict(engine.advance())
    assert [text_of(done[window]) for window in WINDOWS[1:]] == [text_of(result) for result in alone[1:]]
    assert engine.free() == engine.max_batch_size
    assert engine.advance() == []


def test_silence_and_a_moment_are_no_fault(engine: HubEngine) -> None:
    results = decode(engine, [Window(0, np.zeros(length, np.float32)) for length in (1, 100, 16_000)])
    assert len(results) == 3


@pytest.mark.parametrize("model_type", OTHERS)
def test_a_model_that_recognizes_no_speech_is_refused_by_its_type(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    with pytest.raises(ModelUnavailable, match=f"model_type {model_type} recognizes no speech"):
        engine_for(tmp_path)


def test_an_unknown_type_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelUnavailable, match=r"model_type bert: expected one of canary, .*wav2vec2.*whisper"):
        engine_for(tmp_path)


def test_a_family_that_needs_a_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.hub.loading.find_spec", lambda name: None)
    (tmp_path / "config.json").write_text('{"model_type": "granite_speech5_ctc"}')
    with pytest.raises(ModelUnavailable, match="granite_speech5_ctc needs torchaudio: pip install torchaudio"):
        engine_for(tmp_path)


def test_a_family_that_needs_a_later_transformers_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.hub.loading.version", lambda name: "5.5.4")
    (tmp_path / "config.json").write_text('{"model_type": "omniasr_ctc"}')
    with pytest.raises(ModelUnavailable, match=r"omniasr_ctc needs transformers 5.24 or later; found 5.5.4"):
        engine_for(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "missing head", "no weights"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_model("wav2vec2", tmp_path)
    file = folder / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "no weights":
        file.unlink()
    else:
        tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("lm_head")}
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelUnavailable, match=str(folder)):
        engine_for(folder)


def test_every_family_is_tried_but_for_one_that_needs_a_package_and_one_that_is_like_another() -> None:
    tried = SAVERS.keys() | GENERATING.keys() | {"moonshine"}  # with real weights
    assert FAMILIES.keys() - tried == {"voxtral", "seamless_m4t"}
    assert set(TRANSDUCERS) <= set(SAVERS)


def test_the_document_lists_every_family() -> None:
    text = (ROOT / "docs/models.md").read_text()
    assert [name for name in (*FAMILIES, *OTHERS) if f"`{name}`" not in text] == []
