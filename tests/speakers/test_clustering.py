"""Grouping of voices, with vectors whose groups are known."""

from dataclasses import replace

import numpy as np
import pytest

from handler.schema.speakers import SpeakerCount
from handler.speakers import clustering
from handler.speakers.clustering import LONE_THRESHOLD, Voice, group_voices

THRESHOLD = 0.7
ANY = SpeakerCount()


def voice(direction: int, chunk: int, local: int = 0, solo_s: float = 2.0, start: int = 0, noise: float = 0.1) -> Voice:
    """Return a voice near to one of eight directions, or one that could not be heard if that is −1."""
    if direction < 0:
        return Voice(chunk, local, start, start + 10, 0.1)
    chance = np.random.default_rng((direction, chunk, local, start))
    vector = np.eye(8, dtype=np.float32)[direction] + noise * chance.standard_normal(8).astype(np.float32)
    return Voice(chunk, local, start, start + 100, solo_s, vector / np.linalg.norm(vector))


def partition(groups: list[int]) -> list[int]:
    """Return the groups numbered in the order in which they first occur."""
    order = list(dict.fromkeys(groups))
    return [order.index(group) for group in groups]


def test_voices_of_the_same_person_are_together() -> None:
    people = [0, 1, 0, 2, 1, 0, 2, 2]
    voices = [voice(person, chunk) for chunk, person in enumerate(people)]
    assert partition(group_voices(voices, ANY, THRESHOLD)) == partition(people)


def test_nobody_is_nobody_and_one_is_one() -> None:
    assert group_voices([], ANY, THRESHOLD) == []
    assert group_voices([voice(0, 0)], ANY, THRESHOLD) == [0]
    assert group_voices([voice(-1, 0), voice(-1, 1)], ANY, THRESHOLD) == [0, 0]


def test_different_speakers_of_a_chunk_are_rather_different_however_similar() -> None:
    voices = [voice(0, chunk, local) for chunk in range(2) for local in range(2)]
    groups = group_voices(voices, ANY, THRESHOLD)
    assert len(set(groups)) == 2


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_stated_number_is_held(number: int) -> None:
    voices = [voice(person, chunk) for chunk, person in enumerate([0, 1, 2, 0, 1, 2, 0])]
    assert len(set(group_voices(voices, SpeakerCount(number, number), THRESHOLD))) == number


def test_more_speakers_than_voices_cannot_be_found() -> None:
    assert group_voices([voice(0, 0), voice(0, 1)], SpeakerCount(5, 5), THRESHOLD) in ([0, 1], [1, 0])


def test_a_short_voice_makes_no_group_of_its_own() -> None:
    voices = [voice(0, 0), voice(0, 1), voice(5, 2, solo_s=0.5)]
    assert set(group_voices(voices, ANY, THRESHOLD)) == {0}


def test_what_could_not_be_heard_belongs_to_the_nearest_of_its_speaker() -> None:
    voices = [voice(0, 0), voice(1, 0, local=1), voice(-1, 0, local=1, start=300), voice(-1, 9)]
    groups = group_voices(voices, ANY, THRESHOLD)
    assert groups[2] == groups[1] != groups[0]


def test_what_could_not_be_heard_is_not_of_whoever_speaks_meanwhile() -> None:
    amid = replace(voice(-1, 0, local=1), start=20, end=60)  # while the speaker of the chunk goes on
    voices = [voice(0, 0), amid, voice(1, 1)]
    groups = group_voices(voices, ANY, THRESHOLD)
    assert groups[1] == groups[2] != groups[0]


def test_what_could_not_be_heard_and_adjoins_a_voice_belongs_to_it() -> None:
    gone_on = voice(-1, 0, local=1, start=105)  # 5 frames behind a voice, and far behind one of the same number
    voices = [voice(1, 0, local=1, start=300), voice(0, 0, start=0), gone_on]
    groups = group_voices(voices, ANY, THRESHOLD)
    assert groups[2] == groups[1] != groups[0]


@pytest.mark.parametrize("start", [90, 95])
def test_what_could_not_be_heard_belongs_to_its_own_speaker_who_goes_on(start: int) -> None:
    onset = Voice(0, 1, start, 110, 0.1)
    voices = [voice(0, 0), onset, voice(1, 0, local=1, start=112)]
    groups = group_voices(voices, ANY, THRESHOLD)
    assert groups[1] == groups[2] != groups[0]


def test_many_voices_are_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MAX_CLUSTERED", 10)
    people = [chunk % 3 for chunk in range(200)]
    voices = [voice(person, chunk) for chunk, person in enumerate(people)]
    assert partition(group_voices(voices, ANY, THRESHOLD)) == partition(people)


def test_a_stray_voice_takes_nobodys_place_where_the_number_is_stated() -> None:
    people = [voice(0, chunk) for chunk in range(10)] + [voice(1, chunk, noise=0.05) for chunk in range(10, 20)]
    groups = group_voices([*people, voice(5, 30)], SpeakerCount(2, 2), THRESHOLD)
    assert partition(groups[:20]) == [0] * 10 + [1] * 10
    assert len(set(groups)) == 2


def test_two_voices_that_join_each_other_stay_somebody() -> None:
    vectors = np.eye(8, dtype=np.float32)
    cosine = 1 - (LONE_THRESHOLD - 0.05)
    pair = [vectors[1], np.float32(cosine) * vectors[1] + np.float32(np.sqrt(1 - cosine**2)) * vectors[2]]
    voices = [voice(0, chunk, noise=0.01) for chunk in range(3)]
    voices += [Voice(10 + index, 0, 0, 100, 2.0, vector) for index, vector in enumerate(pair)]
    groups = group_voices(voices, ANY, LONE_THRESHOLD - 0.1)
    assert len(set(groups)) == 2
    assert groups[3] == groups[4] != groups[0]


def test_somebody_who_says_little_in_a_long_recording_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MAX_CLUSTERED", 100)
    people = [int(chunk % 40 > 37) for chunk in range(1000)]
    lengths = [2.0 if person else 3.0 for person in people]
    voices = [voice(person, chunk, solo_s=lengths[chunk]) for chunk, person in enumerate(people)]
    assert partition(group_voices(voices, ANY, THRESHOLD)) == partition(people)
