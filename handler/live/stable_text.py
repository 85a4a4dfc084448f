"""Decide which words of a growing text can be told. What was told is never taken back. Knows no model.

The text of an open turn is decoded again and again, and the last words of each pass are guesses. A word is told when
passes in a row agree on it and on all words before it (local agreement). Two passes suffice for a word that both are
sure of. On 290 s of speech with tiny.en, 3.2 % of the words that two passes agree on turn out otherwise, and 0.7 % of
those that three agree on; asking for the third only where a probability is below SURE_PROBABILITY costs no accuracy,
and half of the words come 0.2 s earlier. Sources: Liu et al., 2020, doi.org/10.21437/Interspeech.2020-2897; Macháček et
al., 2023, arxiv.org/abs/2307.14743.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handler.schema.transcript import Word
from handler.transcription.word_edits import letters_and_digits

SURE_PROBABILITY = 0.7
ROLL_BACK = 1  # words


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much agreement it takes until a word is told."""

    passes: int | None = 3  # that agree on a word; None: none suffice, and text is told when it is decoded for good
    # Two passes suffice for a word that has at least this probability in both.
    sure_probability: float = SURE_PROBABILITY


@dataclass(frozen=True, slots=True)
class Told:
    """Text that is told now, behind what was told before."""

    text: str = ""
    words: tuple[Word, ...] = ()  # those that begin in it
    rest: tuple[Word, ...] = ()  # those behind them, which are guesses
    contradicted: int = 0  # how many words that were told before are not as they turn out to be


class StableText:
    """The text of one window, while it grows.

    The punctuation behind the last word that is told follows with the next one: it is what passes disagree on most.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._told: list[str] = []  # the words that were told, as `_key` gives them
        self._told_words: list[Word] = []
        self._earlier: deque[Sequence[Word]] = deque(maxlen=max(1, (agreement.passes or 2) - 1))  # the latest first
        self._owes_punctuation = False

    @property
    def kept(self) -> tuple[Word, ...]:
        """The words that the next pass need not decode again. The last ones are decoded again nonetheless."""
        return tuple(self._told_words[: max(0, len(self._told_words) - ROLL_BACK)])

    def revise(self, words: Sequence[Word]) -> Told:
        """Take the words of the next pass, and return what can be told now."""
        keys = [_key(word.text) for word in words]
        place = _align(self._told, keys)
        count = self._num_agreed(words[place:], keys[place:])
        self._earlier.appendleft(words)
        if not count:
            return Told(rest=tuple(words[place:]))
        return self._tell(words, keys, place, place + count, is_last=False)

    def _num_agreed(self, words: Sequence[Word], keys: Sequence[str]) -> int:
        """Return on how many of the words behind those that were told the passes agree."""
        if self._agreement.passes is None:
            return 0
        common: list[Sequence[Word]] = []  # of each earlier pass, and of all after it
        count = len(keys)
        for earlier in self._earlier:
            earlier_keys = [_key(word.text) for word in earlier]
            place = _align(self._told, earlier_keys)
            count = min(count, _num_common(earlier_keys[place:], keys))
            common.append(earlier[place : place + count])
        if not common:
            return 0
        agreed = count if len(common) + 1 >= self._agreement.passes else 0
        for word, same in zip(words[agreed:], common[0][agreed:], strict=False):
            if min(word.probability, same.probability) < self._agreement.sure_probability:
                break
            agreed += 1
        return agreed

    def end(self, words: Sequence[Word]) -> Told:
        """Take the words as they turn out to be, and return all that was not told yet."""
        keys = [_key(word.text) for word in words]
        place = _align(self._told, keys)
        contradicted = int(_distances(self._told, keys[:place])[-1])
        told = self._tell(words, keys, place, len(words), is_last=True)
        return Told(told.text, told.words, contradicted=contradicted)

    def _tell(self, words: Sequence[Word], keys: Sequence[str], start: int, end: int, *, is_last: bool) -> Told:
        owed = ""
        if self._owes_punctuation and start and keys[start - 1] == self._told[-1]:
            owed = _split_punctuation(words[start - 1].text)[1]
        text = "".join(word.text for word in words[start:end])
        if not is_last:
            text, _ = _split_punctuation(text)
        self._owes_punctuation = not is_last
        self._told += keys[start:end]
        self._told_words += words[start:end]
        return Told(owed + text, tuple(words[start:end]), tuple(words[end:]))


def _key(text: str) -> str:
    """Return what of a word has to agree."""
    return letters_and_digits(text) or text.strip()


def _split_punctuation(text: str) -> tuple[str, str]:
    """Return a text without what follows its last letter or digit, and that."""
    count = len(text)
    while count and not text[count - 1].isalnum():
        count -= 1
    return (text[:count], text[count:]) if count else (text, "")


def _num_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many items two sequences have in common at their beginnings."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _align(told: Sequence[str], words: Sequence[str]) -> int:
    """Return how many of the first `words` stand for what was told.

    They are those whose letters differ least from the letters that were told, so that `42 line` stands for `42-line`.
    """
    common = _num_common(told, words)
    letters = "".join(told[common:])
    if not letters:
        return common
    ends = np.cumsum([0, *map(len, words[common:])])
    distances = _distances(letters, "".join(words[common:]))[ends]
    return common + min(range(len(ends)), key=lambda count: (distances[count], abs(ends[count] - len(letters))))


def _distances(first: Sequence[str], second: Sequence[str]) -> NDArray[np.int64]:
    """Return the edit distance between `first` and each prefix of `second`, the empty one included. [len(second) + 1]

    Source: Wagner and Fischer, 1974, doi.org/10.1145/321796.321811, a row at a time.
    """
    items = np.array(list(second))
    places = np.arange(len(second) + 1)
    row = places
    for count, item in enumerate(first, 1):
        changed = np.minimum(row[:-1] + (items != item), row[1:] + 1)
        row = np.minimum.accumulate(np.concatenate(([count], changed)) - places) + places
    return row
