"""A draft of a text saves steps: words, times and evidence are those of a text without."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from handler.schema.transcript import Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from handler.whisper.loading import load_engine
from handler.whisper.sequences import Hypothesis
from handler.whisper.task_builder import draft_of
from tests.conftest import settings
from tests.support.speech import PANGRAM, say

SPEECH = say(PANGRAM)
WORD = 100  # any token of text
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
        assert one.start == pytest.approx(another.start, abs=0.03)
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
        (first, *text * 100),
    ]


def test_the_text_is_that_without_a_draft_whatever_the_draft_is(exact: Pipeline) -> None:
    whole = exact.decode(WINDOW)
    assert len(whole.tokens) > 20
    for draft in drafts_of(whole.tokens):
        assert_same(exact.decode(WINDOW.with_params(draft=draft)), whole)


def num_steps(pipeline: Pipeline, window: Window, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often the engine advances until a window is decoded."""
    engine, count = pipeline.resources.engine, 0
    advance = engine.advance

    def counted() -> list[tuple[Window, WindowResult]]:
        nonlocal count
        count += 1
        return advance()

    with monkeypatch.context() as patch:
        patch.setattr(engine, "advance", counted)
        pipeline.decode(window)
    return count


def test_a_draft_saves_a_step_for_each_token_and_for_the_one_behind_it(
    exact: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = exact.decode(WINDOW).tokens
    steps = num_steps(exact, WINDOW, monkeypatch)
    for count in (1, 5, len(tokens) - 1):
        drafted = WINDOW.with_params(draft=tokens[:count])
        assert steps - num_steps(exact, drafted, monkeypatch) == count + 1
    whole, wrong = WINDOW.with_params(draft=tokens), WINDOW.with_params(draft=tuple(reversed(tokens[1:])))
    assert steps - num_steps(exact, whole, monkeypatch) == len(tokens)  # a step finds that the text is over
    assert steps - num_steps(exact, wrong, monkeypatch) == 1


def test_a_draft_that_loops_ends_where_steps_would_find_the_loop(tiny_folder: Path) -> None:
    engine = load_engine(tiny_folder, settings(batch_size=1))
    engine.admit([WINDOW])
    engine.advance()
    batch = engine._batch
    interval, (first,) = batch._loop_interval(WINDOW), batch.sequences[0].hypothesis.tokens
    decoded = Hypothesis([first, *[WORD] * (3 * interval)], [-0.1] * (3 * interval + 1))
    batch.resume_from(0, decoded)
    assert batch.sequences[0].hypothesis.tokens == decoded.tokens[: interval - 1]


def test_the_text_of_the_beginning_of_the_audio_is_a_draft_of_all_of_it(exact: Pipeline) -> None:
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
    for params in ({"num_hypotheses": 3}, {"temperature": 0.4, "num_hypotheses": 2}):
        window = WINDOW.with_params(**params)
        assert exact.decode(window.with_params(draft=whole.tokens)) == exact.decode(window)


@pytest.mark.parametrize("params", [{"num_hypotheses": 2}, {"temperature": 0.2}, {"detect_only": True}])
def test_a_draft_is_for_the_likeliest_text_alone(params: dict[str, Any]) -> None:
    drafted = WINDOW.with_params(draft=(1, 2))
    assert draft_of(drafted) == (1, 2)
    assert draft_of(drafted.with_params(**params)) == ()


def test_the_tokens_that_a_request_suppresses_are_not_taken_from_a_draft(exact: Pipeline) -> None:
    whole = exact.decode(WINDOW)
    window = WINDOW.with_params(suppress=(-1, whole.tokens[3]))
    without = exact.decode(window)
    assert without.tokens != whole.tokens
    assert_same(exact.decode(window.with_params(draft=whole.tokens)), without)
