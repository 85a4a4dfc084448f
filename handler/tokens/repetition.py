"""Detect loops and repetition in decoded text. Knows no tensor."""

import zlib
from collections.abc import Sequence

# A run of tokens that is repeated at the end of a hypothesis is a loop if it occurs at least MIN_LOOP_REPEATS times and
# all its occurrences together have at least MIN_LOOP_TOKENS tokens.
MIN_LOOP_REPEATS = 4
MIN_LOOP_TOKENS = 24
MAX_LOOP_PERIOD = 40  # tokens; longer runs are not searched for


def compression_ratio(text: str) -> float:
    """Return the number of UTF-8 bytes of `text`, divided by the number of bytes after zlib compression.

    Return 0 if `text` is empty. Source: openai/whisper, whisper/utils.py.
    """
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def loop_start(tokens: Sequence[int]) -> int | None:
    """Return the index of the first repeat in the loop that ends `tokens`, or None if `tokens` do not end in a loop.

    A loop is a run of tokens that occurs MIN_LOOP_REPEATS times or more, with at least MIN_LOOP_TOKENS tokens in all.
    Cutting `tokens` at the index keeps only the first occurrence of the run.
    """
    for period in range(1, MAX_LOOP_PERIOD + 1):
        equal = 0  # number of tokens at the end that equal the token one period before
        while equal + period < len(tokens) and tokens[-1 - equal] == tokens[-1 - equal - period]:
            equal += 1
        if equal + period >= max(MIN_LOOP_REPEATS * period, MIN_LOOP_TOKENS):
            return len(tokens) - equal
    return None
