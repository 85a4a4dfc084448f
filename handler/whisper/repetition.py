"""Loops and repetition in decoded text. Pure functions; knows no tensor."""

import zlib
from collections.abc import Sequence

LOOP_REPEATS = 4  # so many copies of one run of tokens at the end of a text are a loop


LOOP_TOKENS = 24  # and together they are at least so long


LOOP_LONGEST = 40  # tokens of the longest run looked for


def compression_ratio(text: str) -> float:
    """Bytes of a text by bytes of its zlib form. Source: openai/whisper, whisper/utils.py."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def loop_start(tokens: Sequence[int]) -> int | None:
    """Where a loop at the end of `tokens` has said its run once and would begin it again, or None where there is no loop."""
    for period in range(1, LOOP_LONGEST + 1):
        equal = 0  # tokens at the end that equal those one period before
        while equal + period < len(tokens) and tokens[-1 - equal] == tokens[-1 - equal - period]:
            equal += 1
        if equal + period >= max(LOOP_REPEATS * period, LOOP_TOKENS):
            return len(tokens) - equal
    return None
