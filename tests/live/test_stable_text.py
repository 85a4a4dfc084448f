"""Which words of a growing text are told, and that none is lost or told twice."""

import random

import pytest

from handler.live.stable_text import Agreement, StableText, Tier, Told
from handler.schema.transcript import Word

SURE, LIKELY, UNSURE = 0.95, 0.7, 0.4


def words(text: str, probability: float = SURE) -> list[Word]:
    return [Word(index, index + 1, f" {word}", probability) for index, word in enumerate(text.split())]


def spread(text: str, seconds: float = 1.0) -> list[Word]:
    """Return the words of a text that is spoken in so much time, each of which takes as long as any."""
    parts = text.split()
    length = seconds / len(parts)
    return [Word(index * length, (index + 1) * length, f" {word}", SURE) for index, word in enumerate(parts)]


class Growing:
    """A text whose passes come every so many seconds of audio."""

    def __init__(self, agreement: Agreement, step_s: float = 0.3) -> None:
        self.stable = StableText(agreement)
        self.step_s = step_s
        self.num_passes = 0

    def revise(self, words: list[Word]) -> Told:
        self.num_passes += 1
        return self.stable.revise(words, self.num_passes * self.step_s)

    def end(self, words: list[Word]) -> Told:
        return self.stable.end(words)


def told(stable: Growing, *passes: str, probability: float = SURE) -> str:
    return "".join(stable.revise(words(text, probability)).text for text in passes)


def test_words_that_two_passes_are_sure_of_are_told() -> None:
    stable = Growing(Agreement())
    assert told(stable, "The quick brow") == ""
    assert told(stable, "The quick brown fox") == " The quick"
    assert told(stable, "The quick brown fox jumps") == " brown fox"


@pytest.mark.parametrize(
    ("probability", "step_s", "passes"),
    [
        *[(SURE, 0.3, 2), (LIKELY, 0.3, 3), (UNSURE, 0.3, 4)],
        *[(SURE, 0.1, 4), (LIKELY, 0.1, 6), (UNSURE, 0.1, 9)],
        *[(SURE, 1.0, 2), (LIKELY, 1.0, 2), (UNSURE, 1.0, 2)],
    ],
)
def test_passes_agree_for_longer_on_a_word_that_one_is_less_sure_of(
    probability: float, step_s: float, passes: int
) -> None:
    stable = Growing(Agreement(), step_s)
    texts = [" ".join(["The", *["quick"] * number]) for number in range(passes)]
    assert told(stable, *texts[:-1], probability=probability) == ""
    assert told(stable, texts[-1], probability=probability) == " The"


def test_one_pass_that_is_unsure_of_a_word_delays_it_and_those_behind() -> None:
    stable = Growing(Agreement())
    stable.revise([*words("The"), Word(1, 2, " quick", UNSURE), Word(2, 3, " brown", SURE)])
    assert told(stable, "The quick brown") == " The"
    assert told(stable, "The quick brown") == " quick brown"


def test_all_passes_of_a_tier_have_to_be_so_sure() -> None:
    stable = Growing(Agreement((Tier(0.5, 0.6),)))
    for probability in (SURE, UNSURE, SURE, SURE):
        assert told(stable, "The", probability=probability) == ""
    assert told(stable, "The") == " The"


def test_all_passes_of_a_tier_have_to_agree() -> None:
    stable = Growing(Agreement((Tier(0.5, 0.0),)))
    assert told(stable, "cat", "hat", "cat", "cat") == ""
    assert told(stable, "cat") == " cat"


def test_punctuation_follows_with_the_next_word() -> None:
    stable = Growing(Agreement())
    assert told(stable, "Yes.", "Yes.") == " Yes"
    assert told(stable, "Yes, of", "Yes, of course") == ", of"
    assert stable.end(words("Yes, of course.")).text == " course."


def test_the_case_and_punctuation_of_a_word_need_not_agree() -> None:
    stable = Growing(Agreement())
    assert told(stable, "printing. In", "Printing, in the") == " Printing, in"


def test_the_rest_is_told_at_the_end_and_what_differs_is_counted() -> None:
    stable = Growing(Agreement())
    assert told(stable, "in being compared", "in being compared to") == " in being compared"
    last = stable.end(words("In being comparatively modern."))
    assert (last.text, last.contradicted) == (" modern.", 1)


@pytest.mark.parametrize(
    ("early", "late", "contradicted"),
    [
        ("maybe be", "may be be", 0),
        ("may be be", "maybe be", 0),
        ("a t the end", "at the end", 0),
        ("the cat sat", "the big cat sat", 0),  # what was told is there
        ("the big cat sat", "the cat sat", 1),
        ("on top", "one top", 1),
        ("they will want", "though on", 3),
        ("there now", "the renown", 2),  # the same letters, but none of the words
    ],
)
def test_words_that_were_told_and_are_not_in_the_end_are_counted(early: str, late: str, contradicted: int) -> None:
    stable = Growing(Agreement())
    for _ in range(2):
        stable.revise(spread(early))
    assert stable.end(spread(late)).contradicted == contradicted


def test_what_was_told_is_found_again_where_words_are_written_otherwise() -> None:
    stable = Growing(Agreement())
    assert told(stable, "the 42 line", "the 42 line") == " the 42 line"
    whole = [Word(0, 1, " the", SURE), Word(1, 3, " 42-line", SURE), Word(3, 4, " Bible", SURE)]
    last = stable.end(whole)
    assert (last.text, last.contradicted) == (" Bible", 0)  # the same letters


def test_words_that_follow_do_not_stand_for_what_was_told_however_it_is_written() -> None:
    stable = Growing(Agreement())
    spelled = spread("one hundred and five", 4 / 3)
    stable.revise(spelled)
    assert stable.revise(spelled).text == " one hundred and five"
    whole = [Word(0, 1.4, " 105", SURE), Word(1.4, 1.8, " people", SURE), Word(1.8, 2.1, " came", SURE)]
    assert stable.end(whole).text == " people came"


def test_a_text_that_vanishes_takes_nothing_back() -> None:
    stable = Growing(Agreement())
    assert told(stable, "Thank you", "Thank you") == " Thank you"
    last = stable.end([])
    assert (last.text, last.contradicted) == ("", 2)


def test_all_passes_of_an_agreement_have_to_agree() -> None:
    stable = Growing(Agreement((Tier(0.8, 0.0),)))
    assert told(stable, "a b", "a b", "a b") == ""
    assert told(stable, "a c") == " a"


def test_without_agreement_the_text_is_told_at_the_end() -> None:
    stable = Growing(Agreement(()))
    assert told(stable, *["a b c"] * 5) == ""
    assert stable.end(words("a b c")).text == " a b c"


def test_texts_that_only_grow_are_told_in_full_and_once() -> None:
    chance = random.Random(0)
    vocabulary = ["one", "two", "three", "one-two,", "two.", "Three", "a", "b"]
    for _ in range(200):
        text = chance.choices(vocabulary, k=chance.randrange(1, 30))
        stable, heard, pieces = Growing(Agreement()), 0, []
        while heard < len(text):
            heard = min(len(text), heard + chance.randrange(4))
            tail = chance.choices(vocabulary, k=chance.randrange(3))  # guesses at the end of the audio
            pieces.append(
                stable.revise(words(" ".join([*text[:heard], *tail]), chance.choice([SURE, LIKELY, UNSURE]))).text
            )
        last = stable.end(words(" ".join(text)))
        if not last.contradicted:
            assert "".join([*pieces, last.text]).lower().replace(" ", "").translate(PLAIN) == "".join(
                text
            ).lower().translate(PLAIN)


PLAIN = str.maketrans("", "", ",.-")
