"""Turns, and who is heard at a time."""

import numpy as np

from handler.schema.speakers import SpeakerActivity, Turn


def activity(*rows: str, start_s: float = 0.0) -> SpeakerActivity:
    """Return an activity in frames of 0.1 s; each row is a speaker, in which # is speech."""
    return SpeakerActivity(np.array([[letter == "#" for letter in row] for row in rows]).T, 0.1, start_s)


def rounded(turns: list[Turn]) -> list[tuple[float, float, int]]:
    return [(round(turn.start, 3), round(turn.end, 3), turn.speaker) for turn in turns]


def test_turns_are_in_order_and_short_pauses_are_part_of_them() -> None:
    found = activity("..###..###......##", "....######........", start_s=10.0).turns()
    assert rounded(found) == [(10.2, 11.0, 0), (10.4, 11.0, 1), (11.6, 11.8, 0)]


def test_who_is_heard_most_comes_first() -> None:
    both = activity("######....", "....######")
    assert both.speakers_at(0.0, 0.4) == [(0, 1.0)]
    assert [speaker for speaker, _ in both.speakers_at(0.3, 1.0)] == [1, 0]
    assert both.speakers_at(5.0, 6.0) == []


def test_who_is_nearest_to_a_pause() -> None:
    both = activity("###" + "." * 40, "." * 20 + "###" + "." * 20)
    assert both.nearest(0.5, 0.6) == 0
    assert both.nearest(1.7, 1.8) == 1
    assert both.nearest(2.4, 2.5) == 1
    assert both.nearest(9.0, 9.1) is None
    assert activity("....").nearest(0.0, 0.1) is None
