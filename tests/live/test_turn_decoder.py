"""The passes over the window of an open turn: each has the text of the one before as a draft."""

from concurrent.futures import Future

import pytest

from handler.live.turn_decoder import TurnDecoder
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.pipeline import Pipeline
from tests.support.speech import PANGRAM, say

SPEECH = say(PANGRAM)
WHOLE = Window(0, SPEECH, ((0, len(SPEECH)),))
FIRST = WHOLE.part(0, 2 * SAMPLE_RATE)


@pytest.fixture
def decoded(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Window, Future[WindowResult]]]:
    """Return the list of all windows that the engine is given, with their results."""
    windows: list[tuple[Window, Future[WindowResult]]] = []
    submit = pipeline.resources.runner.submit

    def recorded(owner: object, window: Window, *, is_urgent: bool = False) -> Future[WindowResult]:
        windows.append((window, submit(owner, window, is_urgent=is_urgent)))
        return windows[-1][1]

    monkeypatch.setattr(pipeline.resources.runner, "submit", recorded)
    return windows


async def test_the_text_of_a_pass_is_the_draft_of_the_next_one_and_of_the_last(
    pipeline: Pipeline, decoded: list[tuple[Window, Future[WindowResult]]]
) -> None:
    decoder = TurnDecoder(pipeline.resources, Options(), None)
    assert await decoder.guess(FIRST)
    assert await decoder.guess(WHOLE)
    await decoder.settle(WHOLE)
    first, second, last = decoded
    assert first[0].params.draft == ()
    assert second[0].params.draft == first[1].result().tokens != ()
    assert last[0].params.draft == second[1].result().tokens != ()


async def test_a_window_that_begins_elsewhere_has_no_draft(
    pipeline: Pipeline, decoded: list[tuple[Window, Future[WindowResult]]]
) -> None:
    decoder = TurnDecoder(pipeline.resources, Options(), None)
    assert await decoder.guess(FIRST)
    assert await decoder.guess(WHOLE.part(2 * SAMPLE_RATE, WHOLE.end))
    assert decoded[1][0].params.draft == ()


async def test_a_text_that_cannot_be_trusted_is_no_draft(
    pipeline: Pipeline, decoded: list[tuple[Window, Future[WindowResult]]]
) -> None:
    decoder = TurnDecoder(pipeline.resources, Options(logprob_threshold=0.0), None)
    assert await decoder.guess(FIRST) is None
    assert await decoder.guess(WHOLE) is None
    assert decoded[1][0].params.draft == ()
