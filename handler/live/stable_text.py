"""Decide which words of a growing text can be told. What was told is never taken back. Knows no model.

The text of an open turn is decoded again and again, and the last words of each pass are guesses. A word is told when
passes in a row agree on it and on all words before it (local agreement), over more audio where they are less sure of
it. What counts is how much audio was heard between the passes, not how many there were: on 600 s of speech with
tiny.en, 0.7 % of the words turn out otherwise with a pass every 0.2 s, and as many with one every 1.8 s. So the text is
as stable on a machine that is busy, and comes as soon as it can. Sources: Liu et al., 2020,
doi.org/10.21437/Interspeech.2020-2897; Macháček et al., 2023, arxiv.org/abs/2307.14743.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.schema.transcript import Word
from handler.transcription.word_edits import letters_and_digits

PARTED = 3  # words that may be one in another text, as `may be` is `maybe`
SAME_PLACE_S = 0.15  # by which the times of a word differ from pass to pass
LETTERS_PER_S = 30.0  # wrong letters that weigh as much as a second at which a word lies elsewhere


class Pass(NamedTuple):
    """The words of one pass."""

    heard_s: float  # the end of the audio that it heard
    words: Sequence[Word]


class Tier(NamedTuple):
    """One of the ways in which passes can agree on a word."""

    seconds: float  # of audio that was heard between the first and the last of them
    probability: float  # which each of them gives the word at least


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much agreement it takes until a word is told.

    A word is told if the passes meet one of the tiers. Without any, text is told when it is decoded for good.
    """

    tiers: tuple[Tier, ...] = (Tier(0.25, 0.9), Tier(0.5, 0.6), Tier(0.8, 0.0))

    @property
    def longest_s(self) -> float:
        """The seconds of audio between passes that no tier asks more than."""
        return max((tier.seconds for tier in self.tiers), default=0.0)

    def allows(self, place: int, passes: Sequence[Pass]) -> bool:
        """Return whether the word at a place may be told.

        The first of the passes is the latest. The others have only the words at their beginning that they share with
        it and with all that came after them.
        """
        return any(self._is_met(tier, place, passes) for tier in self.tiers)

    @staticmethod
    def _is_met(tier: Tier, place: int, passes: Sequence[Pass]) -> bool:
        for number, (heard_s, words) in enumerate(passes):
            if len(words) <= place or words[place].probability < tier.probability:
                return False
            if number and passes[0].heard_s - heard_s >= tier.seconds:
                return True
        return False


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
        self._told: list[Word] = []
        self._passes: deque[Pass] = deque()  # as far back as agreement counts, the latest first
        self._owes_punctuation = False

    def revise(self, words: Sequence[Word], heard_s: float) -> Told:
        """Take the words of the next pass, over the audio up to `heard_s`, and return what can be told now."""
        place = _align(self._told, words)
        count = self._num_agreed(Pass(heard_s, words[place:]))
        self._passes.appendleft(Pass(heard_s, words))
        while len(self._passes) > 1 and heard_s - self._passes[-2].heard_s >= self._agreement.longest_s:
            self._passes.pop()
        if not count:
            return Told(rest=tuple(words[place:]))
        return self._tell(words, place, place + count, is_last=False)

    def _num_agreed(self, latest: Pass) -> int:
        """Return on how many of the words behind those that were told the passes agree."""
        keys = [_key(word.text) for word in latest.words]
        passes, num_common = [latest], len(keys)
        for heard_s, words in self._passes:
            same = words[_align(self._told, words) :]
            num_common = min(num_common, _num_common([_key(word.text) for word in same], keys))
            passes.append(Pass(heard_s, same[:num_common]))
        agreed = 0
        while self._agreement.allows(agreed, passes):
            agreed += 1
        return agreed

    def end(self, words: Sequence[Word]) -> Told:
        """Take the words as they turn out to be, and return all that was not told yet."""
        place = _align(self._told, words)
        contradicted = _num_differing(self._told, words[:place])
        told = self._tell(words, place, len(words), is_last=True)
        return Told(told.text, told.words, contradicted=contradicted)

    def _tell(self, words: Sequence[Word], start: int, end: int, *, is_last: bool) -> Told:
        owed = ""
        if self._owes_punctuation and start and _key(words[start - 1].text) == _key(self._told[-1].text):
            owed = _split_punctuation(words[start - 1].text)[1]
        text = "".join(word.text for word in words[start:end])
        if not is_last:
            text, _ = _split_punctuation(text)
        self._owes_punctuation = not is_last
        self._told += words[start:end]
        return Told(owed + text, tuple(words[start:end]), tuple(words[end:]))


# How many words of one text may stand for how many of another, whose letters are the same.
_PIECES = [(1, 1), *((1, count) for count in range(2, PARTED + 1)), *((count, 1) for count in range(2, PARTED + 1))]


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


def _num_differing(told: Sequence[Word], words: Sequence[Word]) -> int:
    """Return how many of the words that were told are not among `words`, in their order.

    Words that are only parted otherwise do not differ: up to PARTED may stand for one. Words that were added count for
    nothing.
    """
    told_keys, keys = ([_key(word.text) for word in words] for words in (told, words))
    for _ in range(2):  # without what they have in common at the beginning, and then at the end
        common = _num_common(told_keys, keys)
        told_keys, keys = told_keys[common:][::-1], keys[common:][::-1]
    # The longest common subsequence. kept[i][k]: how many of the first i words that were told are among the first k.
    kept = [[0] * (len(keys) + 1) for _ in range(len(told_keys) + 1)]
    for i in range(1, len(told_keys) + 1):
        for k in range(1, len(keys) + 1):
            same = (
                kept[i - a][k - b] + a
                for a, b in _PIECES
                if a <= i and b <= k and "".join(told_keys[i - a : i]) == "".join(keys[k - b : k])
            )
            kept[i][k] = max(kept[i - 1][k], kept[i][k - 1], *same)
    return len(told_keys) - kept[-1][-1]


def _align(told: Sequence[Word], words: Sequence[Word]) -> int:
    """Return how many of the first `words` stand for what was told.

    They are those whose letters differ least from the letters that were told, so that `42 line` stands for `42-line`,
    and which lie where these lay: otherwise `105 people` could stand for `one hundred and five`.
    """
    told_keys, keys = [_key(word.text) for word in told], [_key(word.text) for word in words]
    common = _num_common(told_keys, keys)
    letters = "".join(told_keys[common:])
    if not letters:
        return common
    ends = np.cumsum([0, *map(len, keys[common:])])
    costs = _distances(letters, "".join(keys[common:]))[ends] + _time_costs(told[-1].end, words[common:])
    return common + min(range(len(ends)), key=lambda count: (costs[count], abs(ends[count] - len(letters))))


def _time_costs(told_until_s: float, words: Sequence[Word]) -> NDArray[np.float64]:
    """Return what speaks against each number of the first words, by their times. [len(words) + 1]

    Words whose middle lies behind what was told speak against it if they are included, others if they are not.
    """
    middles = np.array([(word.start + word.end) / 2 for word in words])
    if len(set(middles.tolist())) < len(words):  # words without times of their own
        return np.zeros(len(words) + 1)
    late = np.maximum(middles - told_until_s - SAME_PLACE_S, 0)
    early = np.maximum(told_until_s - middles - SAME_PLACE_S, 0)
    included, missing = np.concatenate(([0.0], late)), np.concatenate((early, [0.0]))
    costs: NDArray[np.float64] = LETTERS_PER_S * (included + missing)
    return costs


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
