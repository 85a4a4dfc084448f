"""Live sessions with the real model: turns, their text while it grows, and what becomes of the audio."""

import asyncio
import io
from collections.abc import Sequence

import pytest

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.live.events import Completed, Failed, Hypothesis, SpeechStarted, SpeechStopped
from handler.live.live_session import MAX_BACKLOG_S, LiveConfig
from handler.live.stable_text import Agreement
from handler.live.turn_detection import TurnDetection
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.pipeline import Pipeline
from tests.support.live import OPTIONS, Listener, joined, quiet, words
from tests.support.speech import FOX, PANGRAM, SENTENCES, say, wav
from tests.support.word_errors import word_error_rate

TURN = ["SpeechStarted", "SpeechStopped", "Committed", "Settled", "Completed"]
BY_COMMIT = LiveConfig(OPTIONS, detection=None)


@pytest.fixture
def listener(pipeline: Pipeline) -> Listener:
    return Listener(pipeline)


async def test_a_sentence_becomes_a_turn_whose_text_is_told_while_it_is_spoken(listener: Listener) -> None:
    await listener.hear(joined(quiet(1), say(PANGRAM), quiet(1)))
    assert listener.kinds() == TURN
    assert word_error_rate(PANGRAM, listener.texts()[0]) == 0
    assert "".join(listener.deltas()) == listener.texts()[0]
    assert len(listener.deltas()) > 3
    stopped = next(index for index, event in enumerate(listener.events) if isinstance(event, SpeechStopped))
    early = [event.delta for event in listener.events[:stopped] if isinstance(event, Hypothesis) and event.delta]
    assert len(early) > 3


async def test_the_times_of_a_turn_are_those_of_its_speech_with_padding_and_silence(listener: Listener) -> None:
    await listener.hear(joined(quiet(2), say(FOX), quiet(1)))
    started = next(event for event in listener.events if isinstance(event, SpeechStarted))
    stopped = next(event for event in listener.events if isinstance(event, SpeechStopped))
    completed = next(event for event in listener.events if isinstance(event, Completed))
    first, last = completed.segments[0].words[0], completed.segments[-1].words[-1]
    assert first.start - 0.6 < started.at_s < first.start
    assert stopped.at_s == pytest.approx(last.end + 0.5, abs=0.4)


async def test_each_pause_ends_a_turn(listener: Listener) -> None:
    await listener.hear(joined(*(part for text in SENTENCES[:3] for part in (say(text), quiet(1)))))
    assert listener.kinds() == TURN * 3
    assert word_error_rate(words(SENTENCES[:3]), words(listener.texts())) <= 0.05
    assert [event.turn for event in listener.events if isinstance(event, Completed)] == [0, 1, 2]


async def test_a_longer_silence_can_be_asked_for(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, LiveConfig(OPTIONS, TurnDetection(silence_duration_s=2.5)))
    await listener.hear(joined(say(FOX), quiet(1), say(PANGRAM), quiet(3)))
    assert len(listener.texts()) == 1
    assert word_error_rate(f"{FOX} {PANGRAM}", listener.texts()[0]) == 0


async def test_a_threshold_that_nothing_reaches_finds_no_turn(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, LiveConfig(OPTIONS, TurnDetection(threshold=1.0)))
    await listener.hear(joined(say(FOX), quiet(1)))
    assert listener.events == []


async def test_silence_is_no_event_and_is_forgotten(listener: Listener) -> None:
    for _ in range(30):
        await listener.session.push(quiet(10))
    assert listener.events == []
    assert listener.session._audio.end - listener.session._audio.start < 10 * SAMPLE_RATE
    await listener.hear(joined(say(FOX), quiet(1)))
    assert word_error_rate(FOX, listener.texts()[0]) == 0


async def test_a_commit_ends_a_turn_where_nothing_else_does(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    await listener.hear(joined(say(FOX), quiet(2), say(PANGRAM)))
    assert "Committed" not in listener.kinds()
    assert listener.deltas()
    listener.session.commit()
    await listener.session.finish()
    assert word_error_rate(f"{FOX} {PANGRAM}", listener.texts()[0]) == 0


async def test_a_turn_without_speech_has_an_empty_text(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    await listener.hear(quiet(1))
    listener.session.commit()
    await listener.session.finish()
    assert listener.texts() == [""]


async def test_a_commit_needs_audio_and_speech_where_turns_are_detected(listener: Listener, pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRequest, match=r"at least 0\.1 s of audio"):
        Listener(pipeline, BY_COMMIT).session.commit()
    await listener.hear(quiet(1))
    with pytest.raises(InvalidRequest, match="speech that belongs to no turn"):
        listener.session.commit()


async def test_a_commit_behind_a_turn_that_is_over_makes_no_other(listener: Listener) -> None:
    await listener.hear(joined(say(FOX), quiet(1)))
    with pytest.raises(InvalidRequest):
        listener.session.commit()
    assert len(listener.texts()) == 1


async def test_a_long_silence_in_a_turn_holds_nothing_up(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    await listener.hear(say(FOX))
    for _ in range(8):
        await listener.session.push(quiet(10))
    assert listener.session.backlog_s < 20
    await listener.hear(say(PANGRAM))
    listener.session.commit()
    await listener.session.finish()
    assert word_error_rate(f"{FOX} {PANGRAM}", listener.texts()[0]) == 0


async def test_detection_that_changes_holds_from_the_next_turn_on(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    await listener.hear(say(FOX))
    listener.session.config = LiveConfig(OPTIONS)
    await listener.hear(quiet(2))
    assert "Committed" not in listener.kinds()
    listener.session.commit()
    await listener.hear(joined(say(PANGRAM), quiet(1)))
    assert len(listener.texts()) == 2
    assert word_error_rate(PANGRAM, listener.texts()[1]) == 0


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.9])
async def test_a_turn_ends_at_any_threshold(pipeline: Pipeline, threshold: float) -> None:
    listener = Listener(pipeline, LiveConfig(OPTIONS, TurnDetection(threshold=threshold)))
    await listener.hear(joined(say(FOX), quiet(2)))
    assert listener.texts()


async def test_commits_do_not_shift_the_times_of_what_follows(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    for _ in range(20):
        await listener.session.push(quiet(0.205))
        listener.session.commit()
    assert listener.session.received_s == pytest.approx(20 * 0.205)


async def test_a_short_word_at_the_end_is_not_lost(listener: Listener) -> None:
    await listener.hear(quiet(1))
    await listener.session.push(say(FOX)[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + 4000])  # a quarter of a second
    await listener.session.finish()
    assert "Completed" in listener.kinds()


async def test_what_is_cleared_is_not_told(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    await listener.hear(say(FOX))
    listener.session.clear()
    await listener.hear(say(PANGRAM))
    listener.session.commit()
    await listener.session.finish()
    assert listener.kinds() == ["Cleared", "Committed", "Settled", "Completed"]
    assert word_error_rate(PANGRAM, listener.texts()[0]) == 0


async def test_speech_without_a_pause_is_settled_part_by_part(pipeline: Pipeline) -> None:
    speech = joined(*map(say, SENTENCES * 2))
    listener = Listener(pipeline, BY_COMMIT)
    await listener.hear(speech)
    assert listener.kinds().count("Settled") >= 2
    assert listener.session.backlog_s < 25
    listener.session.commit()
    await listener.session.finish()
    assert word_error_rate(words(SENTENCES * 2), listener.texts()[0]) <= 0.05


async def test_the_text_is_that_of_a_file(listener: Listener, pipeline: Pipeline) -> None:
    speech = joined(*(part for text in SENTENCES for part in (say(text), quiet(0.8))))
    await listener.hear(speech)
    transcript = await pipeline.transcribe(AudioSource(file=io.BytesIO(wav(speech))), Options())
    assert word_error_rate(transcript.text, words(listener.texts())) <= 0.02


async def test_audio_that_comes_at_once_is_taken_as_fast_as_it_is_decoded(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    speech = joined(*map(say, SENTENCES * 8))
    assert len(speech) / SAMPLE_RATE > 2 * MAX_BACKLOG_S
    pushing = asyncio.create_task(listener.session.push(speech))
    most = 0.0
    while not pushing.done():
        most = max(most, listener.session.backlog_s)
        await asyncio.sleep(0)
    assert most <= MAX_BACKLOG_S + 2
    listener.session.commit()
    await listener.session.finish()
    assert word_error_rate(words(SENTENCES * 8), listener.texts()[0]) <= 0.05


async def test_the_end_completes_the_open_turn(listener: Listener) -> None:
    await listener.hear(say(FOX)[: -SAMPLE_RATE // 5])
    await listener.session.finish()
    assert listener.kinds() == ["SpeechStarted", "Committed", "Settled", "Completed"]
    assert word_error_rate(FOX, listener.texts()[0]) == 0


async def test_text_that_no_pass_may_tell_is_told_once_it_is_settled(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, LiveConfig(OPTIONS, agreement=Agreement(())))
    await listener.hear(joined(say(FOX), quiet(1)))
    assert listener.deltas() == listener.texts()


async def test_waits_and_words_are_counted(listener: Listener, pipeline: Pipeline) -> None:
    before = pipeline.stats().counters
    await listener.hear(joined(say(FOX), quiet(1)))
    after = pipeline.stats().counters
    assert after["live_words"] - before.get("live_words", 0) == len(FOX.split())
    assert after["audio_s"] > before.get("audio_s", 0)
    assert listener.latency.word.cumulative()[0][-1] == ("+Inf", len(FOX.split()))
    assert listener.latency.turn.cumulative()[0][-1] == ("+Inf", 1)


async def test_a_turn_that_fails_is_told_and_the_next_one_works(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = listener.pipeline.runner.engine
    with monkeypatch.context() as patch:
        admit = engine.admit

        def fail(windows: Sequence[Window]) -> None:
            patch.setattr(engine, "admit", admit)
            raise RuntimeError("out of order")

        patch.setattr(engine, "admit", fail)
        await listener.hear(say(FOX))
    listener.session.clear()
    failed = [event for event in listener.events if isinstance(event, Failed)]
    assert [event.error.code for event in failed] == ["internal"]
    await listener.hear(joined(quiet(1), say(PANGRAM), quiet(1)))
    assert word_error_rate(PANGRAM, listener.texts()[-1]) == 0


async def test_a_closed_session_leaves_nothing_behind(listener: Listener) -> None:
    await listener.session.push(say(FOX))
    listener.session.close()
    await listener.idle()
    assert "Completed" not in listener.kinds()
    stats = listener.pipeline.stats()
    assert (stats.waiting_windows, stats.active_sequences) == (0, 0)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_many_sessions_share_the_engine(pipeline: Pipeline) -> None:
    listeners = [Listener(pipeline) for _ in range(6)]

    async def speak(listener: Listener, text: str) -> None:
        speech = joined(say(text), quiet(1))
        for start in range(0, len(speech), 8000):
            await listener.session.push(speech[start : start + 8000])
        await listener.session.finish()

    await asyncio.gather(*(speak(*each) for each in zip(listeners, SENTENCES, strict=True)))
    for listener, text in zip(listeners, SENTENCES, strict=True):
        assert word_error_rate(text, words(listener.texts())) <= 0.1


async def test_samples_whose_wait_is_cancelled_are_heard_all_the_same(pipeline: Pipeline) -> None:
    listener = Listener(pipeline, BY_COMMIT)
    pushing = asyncio.create_task(listener.session.push(joined(*map(say, SENTENCES * 8))))
    while not pushing.done():
        await asyncio.sleep(0)
        if listener.session.received_s > MAX_BACKLOG_S:
            break
    pushing.cancel()
    await asyncio.gather(pushing, return_exceptions=True)
    received_s = listener.session.received_s
    one = asyncio.create_task(listener.session.push(quiet(0.5)))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    assert listener.session.received_s == pytest.approx(received_s + 0.5)
    listener.session.close()
