"""A text that begins as it is told to: the rest, its times and its evidence are those of a text without."""

import pytest

from handler.schema.transcript import Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.pipeline import Pipeline
from tests.support.speech import PANGRAM, say

SPEECH = say(PANGRAM)
WINDOW = Window(0, SPEECH, ((0, len(SPEECH)),))


def words_of(result: WindowResult) -> list[Word]:
    return [word for segment in result.segments for word in segment.words]


def text_of(words: list[Word]) -> str:
    return "".join(word.text for word in words)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_a_text_goes_on_from_its_own_beginning_as_it_did(pipeline: Pipeline, count: int) -> None:
    whole = pipeline.decode(WINDOW)
    prefix = text_of(words_of(whole)[:count])
    continued = pipeline.decode(WINDOW.with_params(prefix=prefix))
    assert [word.text for word in words_of(continued)] == [word.text for word in words_of(whole)]
    for one, other in zip(words_of(continued), words_of(whole), strict=True):
        assert one.end == pytest.approx(other.end, abs=0.1)
        assert one.probability == pytest.approx(other.probability, abs=0.02)


def test_a_text_goes_on_from_words_that_were_not_said(pipeline: Pipeline) -> None:
    other = pipeline.decode(Window(0, say("Mind the gap."), ((0, 2 * SAMPLE_RATE),)))
    prefix = text_of(words_of(other)[:1])
    continued = pipeline.decode(WINDOW.with_params(prefix=prefix))
    assert words_of(continued)[0].text == words_of(other)[0].text
    assert len(words_of(continued)) > 10
    assert words_of(continued)[0].probability < 0.1  # of what was said, whatever it was elsewhere


def test_texts_with_and_without_a_beginning_share_a_batch(pipeline: Pipeline) -> None:
    whole = pipeline.decode(WINDOW)
    prefix = text_of(words_of(whole)[:6])
    owner = object()
    futures = [
        pipeline.runner.submit(owner, WINDOW.with_params(prefix=prefix if number % 2 else "")) for number in range(6)
    ]
    texts = {"".join(word.text for word in words_of(future.result())) for future in futures}
    pipeline.runner.cancel(owner)
    assert texts == {"".join(word.text for word in words_of(whole))}


def test_a_beginning_that_is_too_long_for_the_context_is_cut(pipeline: Pipeline) -> None:
    result = pipeline.decode(WINDOW.with_params(prefix=" a" * 1000))
    assert result.evidence is not None
    assert result.evidence.looped
