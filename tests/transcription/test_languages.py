"""Languages on Whisper base: detected by several windows together, or by each window, and translated."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handler.audio.source import AudioSource
from handler.schema.options import Options
from handler.schema.window import DecodingParams, Window, WindowResult
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.asking import error_of
from tests.support.espeak import say_timed
from tests.support.fake_engine import ALL_ABILITIES, FakeEngine
from tests.support.speech import SENTENCES, Samples, say, silence, wav
from tests.support.word_errors import word_error_rate

TEXTS = {
    "de": "Am Morgen fuhren wir mit dem Zug nach München und besuchten dort unsere alten Freunde. "
    "Danach gingen wir zusammen in ein kleines Restaurant am Fluss.",
    "es": "Por la mañana fuimos en tren a Madrid y visitamos a nuestros viejos amigos. "
    "Después comimos juntos en un pequeño restaurante cerca del río.",
    "it": "La mattina siamo andati in treno a Roma e abbiamo visitato i nostri vecchi amici. "
    "Dopo abbiamo mangiato insieme in un piccolo ristorante.",
}
EXPECTED_WORD = {"de": "Freunde", "es": "amigos", "it": "amici"}


def say_in(language: str) -> Samples:
    return say_timed(TEXTS[language], language, 140)[0]


def upload(*parts: Samples) -> AudioSource:
    return AudioSource(file=io.BytesIO(wav(np.concatenate(parts))))


@pytest.fixture(scope="module")
def base(base_folder: Path) -> Iterator[Pipeline]:
    base_pipeline = build(settings(model_id=str(base_folder)))
    yield base_pipeline
    base_pipeline.close()


@pytest.mark.parametrize("language", TEXTS)
async def test_a_language_is_detected_and_its_words_are_written(base: Pipeline, language: str) -> None:
    transcript = await base.transcribe(upload(say_in(language)), Options())
    assert transcript.language == language
    assert transcript.language_probability is not None
    assert transcript.language_probability > 0.7
    assert EXPECTED_WORD[language] in transcript.text
    assert word_error_rate(TEXTS[language], transcript.text) <= 0.4


async def test_the_language_is_found_among_those_that_are_listed(base: Pipeline) -> None:
    transcript = await base.transcribe(upload(say_in("es")), Options.parse({"languages": "German, es"}))
    assert transcript.language == "es"
    other = await base.transcribe(upload(say_in("es")), Options.parse({"languages": ["de", "ja"]}))
    assert other.language in ("de", "ja")


async def test_a_language_may_be_given_by_its_name_and_translated(base: Pipeline) -> None:
    transcript = await base.transcribe(
        upload(say_in("es")), Options.parse({"language": "Spanish", "task": "translate"})
    )
    assert "friends" in transcript.text
    assert (transcript.language, transcript.language_probability) == ("es", None)


async def test_with_multi_each_chunk_says_its_own_language(base: Pipeline) -> None:
    from handler.output.formats import to_json

    pause = silence(1.2)
    source = upload(say(SENTENCES[0]), pause, say_in("de"), pause, say_in("es"))
    transcript = await base.transcribe(source, Options.parse({"language": "multi"}))
    chunks = to_json(transcript)["chunks"]
    texts = {"en": "", "de": "", "es": ""}
    for chunk in chunks:
        texts[chunk["language"]] += " " + chunk["text"]
    languages = [chunk["language"] for chunk in chunks]
    assert languages == sorted(languages, key=list(texts).index)
    assert "notebook" in texts["en"]
    assert EXPECTED_WORD["de"] in texts["de"]
    assert EXPECTED_WORD["es"] in texts["es"]
    assert transcript.language in texts


async def test_an_english_only_model_refuses_multi(pipeline: Pipeline) -> None:
    error = await error_of(pipeline, upload(say("Hello.")), Options(language="multi"))
    assert "needs a model that finds out the language" in error.message


class UnsureEngine(FakeEngine):
    """Detects a language in each window, more or less surely."""

    capabilities = replace(ALL_ABILITIES, languages=("en", "de"), tells_language=True, detects_language=True)
    german_probabilities = (0.45, 0.9, 0.7, 0.7, 0.0)  # of one window after the other

    def __init__(self) -> None:
        super().__init__()
        self.params = list[DecodingParams]()

    def advance(self) -> list[tuple[Window, WindowResult]]:
        results = []
        for window, result in super().advance():
            self.params.append(window.params)
            if window.params.detect_only:
                index = sum(params.detect_only for params in self.params) - 1
                german = self.german_probabilities[index]
                result = WindowResult((), None, None, {"en": 1 - german, "de": german})
            results.append((window, result))
        return results


@pytest.mark.parametrize("batch", [1, 16])
async def test_doubtful_windows_decide_on_a_language_together(batch: int) -> None:
    engine = UnsureEngine()
    pipeline = Pipeline(engine, settings(chunk_length_s=10, batch_size=batch))
    noise = (0.1 * np.random.default_rng(0).standard_normal(75 * 16_000)).astype(np.float32)
    try:
        transcript = await pipeline.transcribe(upload(noise), Options(vad=False))
    finally:
        pipeline.close()
    assert transcript.language == "de"
    assert transcript.language_probability == pytest.approx((0.45 + 0.9 + 0.7 + 0.7) / 4, abs=0.02)
    assert sum(params.detect_only for params in engine.params) == 4
    assert {params.language for params in engine.params if not params.detect_only} == {"de"}
