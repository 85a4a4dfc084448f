"""Split decoded tokens into segments at timestamps, and find where decoding goes on. Knows no tensor and no window.

Source: openai/whisper, whisper/transcribe.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.tokenizer import Specials


@dataclass(slots=True)
class TokenSegment:
    """The text tokens between two timestamps. Times in seconds from the window's start."""

    start_s: float
    end_s: float
    ids: list[int]
    offset: int = 0  # index of the first one among the decoded tokens
    is_open: bool = False  # no timestamp ends it


def split_segments(
    tokens: Sequence[int], window_s: float, specials: Specials
) -> tuple[list[TokenSegment], float | None]:
    """Return the segments of a window of `window_s` seconds, and the start, if any, of a last segment without its text.

    By such a start, an end's timestamp repeated, Whisper signals that the window ends inside speech; decoding goes on
    from it.
    """
    segments: list[TokenSegment] = []
    start_s, text, is_start = 0.0, list[int](), False
    for index, token in enumerate(tokens):
        if token >= specials.timestamp_begin:
            time_s = min(window_s, (token - specials.timestamp_begin) * TIMESTAMP_S)
            if text:
                segments.append(TokenSegment(start_s, time_s, text, index - len(text)))
            start_s, text, is_start = time_s, [], not text
        elif token < specials.eot:
            text.append(token)
    if text:
        text_end = len(tokens) - (tokens[-1] >= specials.eot)
        segments.append(TokenSegment(start_s, window_s, text, text_end - len(text), is_open=True))
    seek_s = start_s if segments and is_start and not text and start_s < window_s else None
    return segments, seek_s


def complete_segments(segments: list[TokenSegment]) -> tuple[list[TokenSegment], float | None]:
    """Return the segments to keep of a text that broke off, and the time after the last complete one, to go on from.

    A single open segment is kept, with None for the time.
    """
    if not segments:
        return segments, None
    if not segments[-1].is_open:
        return segments, segments[-1].end_s
    if len(segments) > 1:
        return segments[:-1], segments[-1].start_s
    return segments, None


def before_text_token(tokens: Sequence[int], index: int, specials: Specials) -> list[int]:
    """Return the tokens before the text token with the given index among text tokens."""
    prefix: list[int] = []
    text_count = 0
    for token in tokens:
        if token < specials.eot:
            if text_count == index:
                break
            text_count += 1
        prefix.append(token)
    return prefix
