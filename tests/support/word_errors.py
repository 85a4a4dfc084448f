"""Word errors as the field counts them: after Whisper's English normalizer."""

import re
from collections.abc import Sequence
from typing import Any


def count_word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Any:
    """Return jiwer's account of texts: substitutions, deletions, insertions, wer."""
    from jiwer import process_words
    from whisper.normalizers import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    return process_words([normalize(text) for text in references], [normalize(text) for text in hypotheses])


def total_errors(score: Any) -> int:
    """Return how many words are wrong, left out or invented."""
    return int(score.substitutions + score.deletions + score.insertions)


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Return the word error rate of one text, as a fraction."""
    return float(count_word_errors([reference], [hypothesis]).wer)


def plain_words(text: str) -> str:
    """Return the words of an English text in lower case, without punctuation."""
    return " ".join(re.sub(r"[^a-z' ]", "", text.lower().replace("-", " ")).split())
