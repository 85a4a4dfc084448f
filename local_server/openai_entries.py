"""Write what files and live speech have in common in OpenAI's API: words, tokens, usage. Knows no route."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from handler.schema.transcript import Word

TokenBytes = Callable[[int], bytes]  # returns the bytes of the token with a given id


def word_entries(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Return words with their times."""
    return [{"word": word.text.strip(), "start": word.start, "end": word.end} for word in words]


def logprob_entries(words: Sequence[Word], token_bytes: TokenBytes) -> list[dict[str, Any]]:
    """Return the tokens of words with their log-probabilities.

    Each entry has the token's text, log-probability and bytes. If a token is only a part of a character, its text is
    the replacement character, while its bytes are exact.
    """
    tokens = [token for word in words for token in word.tokens]
    return [_logprob(token_bytes(token), logprob) for token, logprob in tokens]


def _logprob(raw: bytes, logprob: float) -> dict[str, Any]:
    return {"token": raw.decode("utf-8", "replace"), "logprob": round(logprob, 5), "bytes": list(raw)}


def usage_of(seconds: float) -> dict[str, Any]:
    """Return the usage of some seconds of audio."""
    return {"type": "duration", "seconds": math.ceil(seconds)}
