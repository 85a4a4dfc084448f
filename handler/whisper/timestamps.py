"""Split decoded tokens into segments, and find where decoding must continue. Knows no tensor and no window.

Source: openai/whisper, whisper/transcribe.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from handler.whisper.dims import TIMESTAMP_S
from handler.whisper.tokenizer import Specials


@dataclass(slots=True)
class TokenSegment:
    """The text tokens between two timestamps. Times are in seconds from the window's start."""

    start_s: float
    end_s: float
    ids: list[int]
    offset: int = 0  # index of the segment's first text token among all decoded tokens
    is_open: bool = False  # whether the timestamp at its end is missing


def split_segments(
    tokens: Sequence[int], window_s: float, specials: Specials
) -> tuple[list[TokenSegment], float | None]:
    """Split the decoded tokens of a window of `window_s` seconds into segments.

    Return the segments and the time, in seconds from the window's start, from which decoding must continue. If the
    window ends inside speech, the last timestamp that Whisper decodes starts a further segment, which has no text.
    Decoding must continue from this timestamp. The time is None if there is no such timestamp or no segment. It is also
    None if the timestamp is the window's end.
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
    """Drop the open last segment of a hypothesis that was cut off.

    Return the remaining segments and the time, in seconds from the window's start, from which decoding must continue. A
    segment is open if no timestamp ends it. An open segment is kept if it is the only one, and the time is then None.
    The time is also None if `segments` is empty.
    """
    if not segments:
        return segments, None
    if not segments[-1].is_open:
        return segments, segments[-1].end_s
    if len(segments) > 1:
        return segments[:-1], segments[-1].start_s
    return segments, None


def before_text_token(tokens: Sequence[int], index: int, specials: Specials) -> list[int]:
    """Return the tokens that precede text token number `index`, counted from 0 among text tokens only.

    Return all tokens if no text token has this number.
    """
    prefix: list[int] = []
    text_count = 0
    for token in tokens:
        if token < specials.eot:
            if text_count == index:
                break
            text_count += 1
        prefix.append(token)
    return prefix
