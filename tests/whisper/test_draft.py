"""A draft of a text saves steps and changes nothing: words, times and evidence are those of a text without."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from handler.schema.transcript import Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.speech import PANGRAM, say

SPEECH = say(PANGRAM)
WINDOW = Window(0, SPEECH, ((0, len(SPEECH)),))


@pytest.fixture(scope="module", params=["tiny_folder", "base_folder"])
def exact(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """Yield pipelines with an English and with a multilingual model, whose numbers are rounded hardly at all."""
    folder: Path = request.getfixturevalue(request.param)
    pipeline = build(settings(model_id=str(folder), dtype="float32"))
    yield pipeline
    pipeline.close()


def words_of(result: WindowResult) -> list[Word]:
    return [word for segment in result.segments for word in segment.words]


def assert_same(result: WindowResult, other: WindowResult) -> None:
    assert result.tokens == other.tokens
    assert result.seek_s == other.seek_s
    assert result.evidence is not None
    assert other.evidence is not None
    assert result.evidence.tokens == other.evidence.tokens
    assert result.evidence.avg_logprob == pytest.approx(other.evidence.avg_logprob, abs=0.002)
    assert result.evidence.no_speech_prob == pytest.approx(other.evidence.no_speech_prob, abs=0.002)
    for one, another in zip(words_of(result), words_of(other), strict=True):
        assert one.text == another.text
        assert one.end == pytest.approx(another.end, abs=0.03)
        assert one.probability == pytest.approx(another.probability, abs=0.002)


def drafts_of(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """Return drafts that are right, right at first, and wrong, of texts and of timestamps."""
    middle, (first, *text) = len(tokens) // 2, tokens
    chance = random.Random(0)
    noise = [chance.randrange(first + 100) for _ in range(20)]
    return [
        tuple(tokens),
        tuple(tokens[:1]),
        tuple(tokens[:middle]),
        (*tokens[:middle], *reversed(text)),
        (first + 3, *text),
        tuple(text),
        (first, first + 1, *text),
        tuple(noise),
        (*tokens, *tokens),
        (*tokens[:-1], *text),
        tuple(text * 100),
    ]


def test_a_draft_changes_nothing(exact: Pipeline) -> None:
    whole = exact.decode(WINDOW)
    assert len(whole.tokens) > 20
    for draft in drafts_of(whole.tokens):
        assert_same(exact.decode(WINDOW.with_params(draft=draft)), whole)


@pytest.mark.parametrize(("share", "most"), [(0, 100), (0.5, 20), (1, 3)])
def test_the_tokens_of_a_draft_take_no_steps(
    exact: Pipeline, monkeypatch: pytest.MonkeyPatch, share: float, most: int
) -> None:
    whole = exact.decode(WINDOW)
    engine, num_steps = exact.resources.engine, 0
    advance = engine.advance

    def counted() -> list[tuple[Window, WindowResult]]:
        nonlocal num_steps
        num_steps += 1
        return advance()

    monkeypatch.setattr(engine, "advance", counted)
    exact.decode(WINDOW.with_params(draft=whole.tokens[: round(share * len(whole.tokens))]))
    assert 0 < num_steps <= most


def test_the_draft_of_the_beginning_of_the_audio_changes_nothing(exact: Pipeline) -> None:
    whole = exact.decode(WINDOW)
    draft: tuple[int, ...] = ()
    for end in range(SAMPLE_RATE, len(SPEECH), SAMPLE_RATE // 2):
        part = WINDOW.part(0, end)
        alone = exact.decode(part)
        assert_same(exact.decode(part.with_params(draft=draft)), alone)
        draft = alone.tokens
    assert_same(exact.decode(WINDOW.with_params(draft=draft)), whole)


def test_texts_with_and_without_a_draft_share_a_batch(exact: Pipeline) -> None:
    whole = exact.decode(WINDOW)
    owner = object()
    drafts = [(), *drafts_of(whole.tokens), ()]
    futures = [exact.runner.submit(owner, WINDOW.with_params(draft=draft)) for draft in drafts]
    for future in futures:
        assert_same(future.result(), whole)
    exact.runner.cancel(owner)


def test_a_draft_is_not_used_by_other_ways_to_choose_tokens(exact: Pipeline) -> None:
    whole = exact.decode(WINDOW)
    for params in ({"num_hypotheses": 3}, {"temperature": 0.4, "num_hypotheses": 2}, {"detect_only": True}):
        window = WINDOW.with_params(**params)
        assert exact.decode(window.with_params(draft=whole.tokens)) == exact.decode(window)


def test_the_tokens_that_a_request_suppresses_are_not_taken_from_a_draft(exact: Pipeline) -> None:
    whole = exact.decode(WINDOW)
    window = WINDOW.with_params(suppress=(-1, whole.tokens[3]))
    without = exact.decode(window)
    assert without.tokens != whole.tokens
    assert_same(exact.decode(window.with_params(draft=whole.tokens)), without)
