"""Languages on Whisper base: found out over several windows, window by window, and translated."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from handler.audio.source import AudioSource
from handler.schema.options import Options
from handler.schema.window import DecodingParams, Window, WindowResult
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.asking import refused
from tests.support.espeak import say_timed
from tests.support.fake_engine import FakeEngine
from tests.support.speech import SENTENCES, Samples, say, silence, wav
from tests.support.word_errors import word_error_rate

SPOKEN = {
    "de": "Am Morgen fuhren wir mit dem Zug nach München und besuchten dort unsere alten Freunde. "
    "Danach gingen wir zusammen in ein kleines Restaurant am Fluss.",
    "es": "Por la mañana fuimos en tren a Madrid y visitamos a nuestros viejos amigos. "
    "Después comimos juntos en un pequeño restaurante cerca del río.",
    "it": "La mattina siamo andati in treno a Roma e abbiamo visitato i nostri vecchi amici. "
    "Dopo abbiamo mangiato insieme in un piccolo ristorante.",
}
HEARD = {"de": "Freunde", "es": "amigos", "it": "amici"}


def spoken(language: str) -> Samples:
    return say_timed(SPOKEN[language], language, 140)[0]


def upload(*parts: Samples) -> AudioSource:
    return AudioSource(file=io.BytesIO(wav(np.concatenate(parts))))


@pytest.fixture(scope="module")
def base(base_folder: Path) -> Iterator[Pipeline]:
    made = build(settings(model_id=str(base_folder)))
    yield made
    made.close()


@pytest.mark.parametrize("language", SPOKEN)
async def test_a_language_is_found_out_and_its_words_are_written(base: Pipeline, language: str) -> None:
    got = await base.transcribe(upload(spoken(language)), Options())
    assert got.language == language
    assert got.language_probability is not None
    assert got.language_probability > 0.7
    assert HEARD[language] in got.text
    assert word_error_rate(SPOKEN[language], got.text) <= 0.4


async def test_a_language_may_be_given_by_its_name_and_translated(base: Pipeline) -> None:
    got = await base.transcribe(upload(spoken("es")), Options.parse({"language": "Spanish", "task": "translate"}))
    assert "friends" in got.text
    assert (got.language, got.language_probability) == ("es", None)


async def test_with_multi_each_chunk_says_its_own_language(base: Pipeline) -> None:
    from handler.output.formats import to_json

    pause = silence(1.2)
    got = await base.transcribe(upload(say(SENTENCES[0]), pause, spoken("de"), pause, spoken("es")), Options.parse({"language": "multi"}))
    chunks = to_json(got)["chunks"]
    said = {language: " ".join(c["text"] for c in chunks if c["language"] == language) for language in ("en", "de", "es")}
    assert [chunk["language"] for chunk in chunks] == sorted((chunk["language"] for chunk in chunks), key=list(said).index)
    assert "notebook" in said["en"]
    assert HEARD["de"] in said["de"]
    assert HEARD["es"] in said["es"]
    assert got.language in said


async def test_an_english_only_model_refuses_multi(pipeline: Pipeline) -> None:
    assert "needs a multilingual model" in (await refused(pipeline, upload(say("Hello.")), Options(language="multi"))).message


class Guessing(FakeEngine):
    """Hears a language in each window, more or less surely, by its number."""

    languages: tuple[str, ...] = ("en", "de")
    detects_language = True
    heard = ({"en": 0.55, "de": 0.45}, {"en": 0.1, "de": 0.9}, {"en": 0.3, "de": 0.7}, {"en": 0.3, "de": 0.7}, {"en": 1.0, "de": 0.0})

    def __init__(self) -> None:
        super().__init__()
        self.asked = list[DecodingParams]()

    def advance(self) -> list[tuple[Window, WindowResult]]:
        results = []
        for window, result in super().advance():
            self.asked.append(window.params)
            if window.params.detect_only:
                detected = self.heard[sum(how.detect_only for how in self.asked) - 1]
                result = WindowResult((), None, None, detected)
            results.append((window, result))
        return results


@pytest.mark.parametrize("batch", [1, 16])
async def test_doubtful_windows_decide_on_a_language_together(batch: int) -> None:
    engine = Guessing()
    house = Pipeline(engine, settings(chunk_length_s=10, batch_size=batch))
    noise = (0.1 * np.random.default_rng(0).standard_normal(75 * 16_000)).astype(np.float32)
    try:
        got = await house.transcribe(upload(noise), Options(vad=False))
    finally:
        house.close()
    assert got.language == "de"
    assert got.language_probability == pytest.approx((0.45 + 0.9 + 0.7 + 0.7) / 4, abs=0.02)
    assert sum(how.detect_only for how in engine.asked) == 4
    assert {how.language for how in engine.asked if not how.detect_only} == {"de"}
