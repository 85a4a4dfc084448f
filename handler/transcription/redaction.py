"""Redact final text before anybody sees it. Knows no engine and no request.

What is sensitive may go on in the next segment. So text that may be the beginning of something is held back, with
everything after it, until more text shows what it is.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import accumulate

from handler.schema.transcript import Segment
from handler.transcription.sensitive_text import Found, find_sensitive, open_from
from handler.transcription.text_edits import Edit, apply_edits

MAX_HELD_CHARS = 2000  # of one thing that goes on and on, such as digits in a row; then it is told in parts


class Redactor:
    """Replaces what is sensitive in segments by placeholders such as `[CARD]`, and counts it."""

    def __init__(self, kinds: Collection[str]) -> None:
        """Take the kinds of what is sensitive, of options.REDACTED_KINDS."""
        self.kinds = kinds
        self._held: list[Segment] = []  # in chronological order
        self.counts: Counter[str] = Counter()

    @property
    def held_from_s(self) -> float:
        """The start of the first segment that is held back, or infinity."""
        return self._held[0].start if self._held else float("inf")

    def push(self, segments: Sequence[Segment], *, is_last: bool) -> list[Segment]:
        """Take the next segments, and return what can be told, redacted. After the last ones, that is everything."""
        held = [*self._held, *segments]
        channels = dict.fromkeys(segment.channel for segment in held)
        found = {channel: find_sensitive(_text(held, channel), self.kinds) for channel in channels}
        ready = len(held)
        if not is_last:
            ready = min([ready, *(self._ready(held, channel, found[channel]) for channel in channels)])
        told, self._held = held[:ready], held[ready:]
        return self._redact(told, found)

    def _ready(self, held: Sequence[Segment], channel: int | None, found: Sequence[Found]) -> int:
        """Return how many segments can be told, as far as one channel is concerned."""
        numbers = [number for number, segment in enumerate(held) if segment.channel == channel]
        starts = [0, *accumulate(len(_text_of(held[number])) for number in numbers)]
        # The end of what can be told moves to the start of a segment, and before what would go on in that segment.
        until = open_from(_text(held, channel), self.kinds)
        for each in reversed(found):
            if each.start >= starts[-1] - MAX_HELD_CHARS and each.end > starts[bisect_right(starts, until) - 1]:
                until = min(until, each.start)
        count = bisect_right(starts, until) - 1
        return numbers[count] if count < len(numbers) else len(held)

    def _redact(self, told: Sequence[Segment], found: dict[int | None, list[Found]]) -> list[Segment]:
        redacted: list[Segment] = []
        for channel in dict.fromkeys(segment.channel for segment in told):
            own = [segment for segment in told if segment.channel == channel]
            length = sum(len(_text_of(segment)) for segment in own)
            inside = [each for each in found[channel] if each.start < length]
            self.counts.update(each.kind for each in inside)
            edits = [Edit(each.start, min(each.end, length), f"[{each.kind.upper()}]") for each in inside]
            redacted += apply_edits(own, edits, keeps_tokens=False)
        return sorted(redacted, key=lambda segment: (segment.start, segment.channel or 0))


def _text(segments: Sequence[Segment], channel: int | None) -> str:
    return "".join(_text_of(segment) for segment in segments if segment.channel == channel)


def _text_of(segment: Segment) -> str:
    return "".join(word.text for word in segment.words) or segment.text
