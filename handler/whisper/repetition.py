"""Loops and repetition in decoded text. Pure functions; knows no tensor."""

import zlib
from collections.abc import Sequence

# A run of tokens repeated at the end of a text is a loop if it comes so often and is so long in all.
MIN_LOOP_REPEATS = 4
MIN_LOOP_TOKENS = 24
MAX_LOOP_PERIOD = 40  # tokens of the longest run that is searched for


def compression_ratio(text: str) -> float:
    """Return the bytes of a text divided by those of its zlib form; 0 without text.

    Source: openai/whisper, whisper/utils.py.
    """
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def loop_start(tokens: Sequence[int]) -> int | None:
    """Return the index at which a loop at the end of `tokens` begins to repeat its run, or None if there is no loop."""
    for period in range(1, MAX_LOOP_PERIOD + 1):
        equal = 0  # tokens at the end that equal those one period before
        while equal + period < len(tokens) and tokens[-1 - equal] == tokens[-1 - equal - period]:
            equal += 1
        if equal + period >= max(MIN_LOOP_REPEATS * period, MIN_LOOP_TOKENS):
            return len(tokens) - equal
    return None
