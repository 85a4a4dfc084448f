"""Speakers who keep their numbers while a stream goes on, on real voices."""

import numpy as np
import pytest

from handler.schema.speakers import SpeakerActivity, SpeakerCount, SpeakerModel, Turn
from handler.schema.window import SAMPLE_RATE
from handler.speakers import online_diarizer
from tests.support.conversations import Conversation, converse, error_rates

ANY = SpeakerCount()
MARGIN_S = 0.3  # of silence around a stretch


def stretches(talk: Conversation, number_of_turns: int | None = None) -> list[tuple[float, np.ndarray]]:
    """Return where each turn of a conversation begins, with some silence, and its samples."""
    spans = [(max(0.0, turn.start - MARGIN_S), turn.end + MARGIN_S) for turn in talk.turns[:number_of_turns]]
    return [(start, talk.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]) for start, end in spans]


def heard(model: SpeakerModel, talk: Conversation, count: SpeakerCount = ANY) -> list[SpeakerActivity]:
    diarizer = model.new_online_diarizer()
    assert diarizer is not None
    return [diarizer.add(diarizer.hear(samples), count).starting_at(start) for start, samples in stretches(talk)]


def turns_of(activities: list[SpeakerActivity]) -> list[Turn]:
    return [turn for activity in activities for turn in activity.turns()]


@pytest.mark.parametrize("names", [("reader", "story"), ("story", "reader", "president")])
def test_speakers_keep_their_numbers(speaker_model: SpeakerModel, names: tuple[str, ...]) -> None:
    talk = converse(names, 12)
    found = turns_of(heard(speaker_model, talk))
    assert error_rates(talk.turns, found)[1] < 0.08
    numbers = [turn.speaker for turn in found]
    assert sorted(set(numbers), key=numbers.index) == sorted(set(numbers))  # in the order of their first words


def test_one_person_is_one_speaker(speaker_model: SpeakerModel) -> None:
    assert {turn.speaker for turn in turns_of(heard(speaker_model, converse(("reader",), 8)))} == {0}


@pytest.mark.parametrize(
    ("count", "found"), [(SpeakerCount(1, 1), 1), (SpeakerCount(2, 2), 2), (SpeakerCount(4, 5), 3)]
)
def test_there_are_no_more_speakers_than_may_be(speaker_model: SpeakerModel, count: SpeakerCount, found: int) -> None:
    activities = heard(speaker_model, converse(("reader", "story", "president"), 9), count)
    assert max(activity.num_speakers for activity in activities) == found


def test_nobody_is_two_because_two_are_expected(speaker_model: SpeakerModel) -> None:
    talk = converse(("reader", "story"), 8)
    assert error_rates(talk.turns, turns_of(heard(speaker_model, talk, SpeakerCount(2, 2))))[1] < 0.08


def test_several_people_in_one_stretch_are_numbered_in_the_order_of_their_first_words(
    speaker_model: SpeakerModel,
) -> None:
    talk = converse(("president", "story"), 4)
    diarizer = speaker_model.new_online_diarizer()
    assert diarizer is not None
    turns = diarizer.add(diarizer.hear(talk.samples), ANY).turns()
    assert [turns[0].speaker, max(turn.speaker for turn in turns)] == [0, 1]


def test_what_is_heard_and_not_added_does_not_count(speaker_model: SpeakerModel) -> None:
    talk = converse(("reader", "story"), 6)
    diarizer = speaker_model.new_online_diarizer()
    assert diarizer is not None
    for (_, samples), expected in zip(stretches(talk), heard(speaker_model, talk), strict=True):
        diarizer.hear(samples[: len(samples) // 2])
        found = diarizer.add(diarizer.hear(samples), ANY)
        np.testing.assert_array_equal(found.active, expected.active)


def test_somebody_from_long_ago_is_known_again(speaker_model: SpeakerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_diarizer, "MAX_VOICES", 12)
    first, others = converse(("reader",), 3), converse(("story", "president"), 12)
    diarizer = speaker_model.new_online_diarizer()
    assert diarizer is not None
    found: list[set[int]] = []
    for talk in (first, others, first):
        activities = [diarizer.add(diarizer.hear(samples), ANY) for _, samples in stretches(talk)]
        found.append({turn.speaker for turn in turns_of(activities) if turn.end - turn.start > 0.5})
    assert found == [{0}, {1, 2}, {0}]


def test_silence_has_no_speaker(speaker_model: SpeakerModel) -> None:
    diarizer = speaker_model.new_online_diarizer()
    assert diarizer is not None
    for length in (0, 100, SAMPLE_RATE, 25 * SAMPLE_RATE):
        assert diarizer.add(diarizer.hear(np.zeros(length, np.float32)), ANY).num_speakers == 0
