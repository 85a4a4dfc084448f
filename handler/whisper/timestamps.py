"""Decoded tokens to segments: what lies between two timestamps, and where a window is to be decoded on. Knows no tensor and no window.

Source: openai/whisper, whisper/transcribe.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.tokenizer import Specials


@dataclass(slots=True)
class TokenSegment:
    """The ids between two timestamps. Times in seconds from the window's start."""

    start: float
    end: float
    ids: list[int]
    at: int = 0  # place of the first one among the decoded tokens
    open: bool = False  # it has no timestamp at its end


def split_segments(tokens: Sequence[int], seconds: float, specials: Specials) -> tuple[list[TokenSegment], float | None]:
    """The parts of a window of `seconds`, and where the next one begins if the model said that one begins and not what is in it.

    That is how Whisper says that a window ends inside speech: the timestamp of an end, and once more for a beginning.
    """
    parts: list[TokenSegment] = []
    start, text, opened = 0.0, list[int](), False
    for place, token in enumerate(tokens):
        if token >= specials.timestamp_begin:
            at = min(seconds, (token - specials.timestamp_begin) * TIMESTAMP_S)
            if text:
                parts.append(TokenSegment(start, at, text, place - len(text)))
            start, text, opened = at, [], not text
        elif token < specials.eot:
            text.append(token)
    if text:
        behind = len(tokens) - (tokens[-1] >= specials.eot)
        parts.append(TokenSegment(start, seconds, text, behind - len(text), open=True))
    return parts, start if parts and opened and not text and start < seconds else None


def complete_segments(parts: list[TokenSegment]) -> tuple[list[TokenSegment], float | None]:
    """Of a text that broke off, the parts to keep and where to decode on: behind the last one that is whole."""
    if not parts or not parts[-1].open:
        return parts, parts[-1].end if parts else None
    return (parts[:-1], parts[-1].start) if len(parts) > 1 else (parts, None)


def before_text_token(tokens: Sequence[int], count: int, specials: Specials) -> list[int]:
    """The tokens up to the text token number `count`, that one left out."""
    kept: list[int] = []
    for token in tokens:
        if token < specials.eot:
            if count == 0:
                break
            count -= 1
        kept.append(token)
    return kept
