"""Words without a length: a phrase that is written twice but was said once."""

from dataclasses import replace

import pytest

from handler.schema.transcript import Segment, Word
from handler.transcription.timeless_words import ends_timeless, remove_timeless_repeats
from tests.support.segments import text_of


def segment(*words: tuple[str, float]) -> Segment:
    """Return a segment of words with their lengths in seconds, one right after the other."""
    timed, end = [], 0.0
    for text, length in words:
        timed.append(Word(end, end + length, f" {text}", 0.9))
        end += length
    return Segment(0.0, end, "".join(word.text for word in timed), (1, 2), words=tuple(timed))


def spoken(text: str, length: float = 0.3) -> list[tuple[str, float]]:
    return [(word, length) for word in text.split()]


def timeless(text: str, rest_s: float = 0.0) -> list[tuple[str, float]]:
    """Return words without a length, but for the last one, which has what is left of the time."""
    words = spoken(text, 0.0)
    return [*words[:-1], (words[-1][0], rest_s)]


ONCE = "and that as an example of fine typography"


@pytest.mark.parametrize("rest_s", [0.0, 0.32])
@pytest.mark.parametrize("repeat", ["that has an example of fine typography", "as an example of fine typography", ONCE])
def test_a_repeat_without_time_is_removed_and_its_last_time_belongs_to_what_was_said(
    repeat: str, rest_s: float
) -> None:
    (left,) = remove_timeless_repeats([segment(*spoken(ONCE), *timeless(repeat, rest_s))])
    assert text_of([left]) == ONCE
    assert left.end == left.words[-1].end == pytest.approx(0.3 * len(ONCE.split()) + rest_s)


def test_a_phrase_without_time_before_the_one_that_was_said_is_removed() -> None:
    (left,) = remove_timeless_repeats([segment(*spoken("well"), *timeless(ONCE), *spoken(ONCE))])
    assert text_of([left]) == f"well {ONCE}"
    assert left.words[1].start == pytest.approx(0.3)


def test_a_segment_of_a_repeat_alone_is_removed_and_the_text_after_it_stays() -> None:
    segments = [segment(*spoken(ONCE)), segment(*timeless(ONCE)), segment(*spoken("and more"))]
    assert text_of(remove_timeless_repeats(segments)) == f"{ONCE} and more"


@pytest.mark.parametrize(
    "words",
    [
        spoken(f"{ONCE} {ONCE}"),  # said twice
        [*spoken(ONCE), *timeless("fine typography")],  # too few words to be sure
        [*spoken(ONCE), *timeless("as an example of fine typography", 2.0)],  # there was time to say it
        [*spoken(ONCE), *timeless("we met her on monday")],  # no repeat
        spoken(ONCE, 0.02),
        [],
    ],
)
def test_other_words_stay_as_they_are(words: list[tuple[str, float]]) -> None:
    given = [segment(*words)]
    assert remove_timeless_repeats(given) == given


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*spoken(ONCE), *timeless("we met her on monday", 0.2)], True),
        (timeless("we met her"), True),
        ([*timeless("we met her", 0.0), *spoken(ONCE)], False),
        ([*spoken(ONCE), *timeless("we met")], False),
        ([*spoken(ONCE), *timeless("we met her on monday", 3.0)], False),
        (spoken(ONCE), False),
        ([], False),
    ],
)
def test_a_text_whose_last_words_take_no_time_is_known(words: list[tuple[str, float]], expected: bool) -> None:
    assert ends_timeless([segment(*words)]) is expected


def test_segments_without_words_are_no_sign_of_anything() -> None:
    plain = replace(segment(*spoken(ONCE)), words=())
    assert not ends_timeless([plain])
    assert remove_timeless_repeats([plain]) == [plain]
