"""Divide words into segments where a sentence ends or the speaker pauses. Knows no token and no model."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from handler.schema.transcript import Word

MAX_PAUSE_S = 1.0  # a longer pause between two words ends a segment
_SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "।")


def split_segments(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Yield the words of each segment. No segment is empty."""
    ends = [index for index, (word, following) in enumerate(pairwise(words), 1) if _ends_segment(word, following)]
    for start, end in pairwise([0, *ends, len(words)]):
        if start < end:
            yield words[start:end]


def _ends_segment(word: Word, following: Word) -> bool:
    return word.text.endswith(_SENTENCE_ENDS) or following.start - word.end > MAX_PAUSE_S
