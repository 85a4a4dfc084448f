"""The conversations by which speakers are measured, and what is told of them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from handler.schema.speakers import Turn
from handler.schema.window import SAMPLE_RATE
from scripts.lib.diarization import CONVERSATION_S, clips_of, conversations, load_model, of_recording, of_stream, score
from tests.support.conversations import voices


@pytest.fixture(scope="module")
def clips() -> dict[str, list[np.ndarray]]:
    return {name: list(voices()[name]) for name in ("reader", "story", "computer")}


def test_conversations_are_always_the_same_and_everybody_speaks(clips: dict[str, list[np.ndarray]]) -> None:
    once, again = (list(conversations(clips, 2, 4)) for _ in range(2))
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first.samples, second.samples)
        assert first.turns == second.turns
        assert {turn.speaker for turn in first.turns} == {0, 1}
        assert CONVERSATION_S < len(first.samples) / SAMPLE_RATE < CONVERSATION_S + 30
    assert not np.array_equal(once[0].samples[:SAMPLE_RATE], once[1].samples[:SAMPLE_RATE])


def test_recordings_without_speech_are_left_out_and_halves_differ(tmp_path: Path) -> None:
    for number, samples in enumerate(voices()["reader"][:3]):
        soundfile.write(tmp_path / f"{number}.wav", samples[: 4 * SAMPLE_RATE], SAMPLE_RATE)
    beep = 0.3 * np.sin(np.arange(2 * SAMPLE_RATE) / 3)
    soundfile.write(tmp_path / "beep.wav", beep, SAMPLE_RATE)
    soundfile.write(tmp_path / "silence.wav", np.zeros(2 * SAMPLE_RATE), SAMPLE_RATE)
    assert [len(clips_of(tmp_path, half)) for half in (0, 1)] == [2, 1]


def test_turns_are_scored_by_who_speaks_and_how_many_there_are(clips: dict[str, list[np.ndarray]]) -> None:
    (talk,) = conversations(clips, 3, 1)
    right = score(talk, talk.turns)
    assert (right.error, right.confusion, right.is_count_right) == (0, 0, True)
    alone = score(talk, [Turn(turn.start, turn.end, 0) for turn in talk.turns])
    assert alone.confusion > 0.2
    assert not alone.is_count_right


def test_recordings_and_streams_are_told_apart(clips: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    model = load_model(tmp_path)
    (talk,) = conversations({name: clips[name] for name in ("reader", "story")}, 2, 1)
    for diarize in (of_recording, of_stream):
        assert score(talk, diarize(model, talk)).error < 0.15
