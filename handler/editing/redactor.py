"""Redact final text before anybody sees it. Knows no engine and no request.

What is sensitive may go on in the next segment. So text that may be the beginning of something is held back, with
everything after it, until more text shows what it is.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

from handler.editing.edits import Edit, apply_edits, text_of_words
from handler.editing.sensitive_text import Found, find_sensitive, open_from
from handler.schema.transcript import Segment

MAX_HELD_CHARS = 2000  # of one thing that goes on and on, such as digits in a row; then it is told in parts
MAX_PAUSE_S = 10.0  # of one channel while others speak; nothing goes on behind a longer one


@dataclass(frozen=True, slots=True)
class _Channel:
    """The text of one channel, as far as it is held."""

    numbers: list[int]  # of its segments, among all that are held
    starts: list[int]  # where each begins in the text, and the length of the text
    text: str
    found: list[Found]

    def segment_at(self, place: int) -> int:
        """Return the number of the segment that a place of the text is in."""
        return self.numbers[bisect_right(self.starts, place) - 1]

    def length_until(self, number: int) -> int:
        """Return the length of the text of the segments before a number."""
        return self.starts[bisect_left(self.numbers, number)]


class Redactor:
    """Replaces what is sensitive in segments by placeholders such as `[CARD]`, and counts it."""

    def __init__(self, kinds: Collection[str]) -> None:
        """Take the kinds of what is sensitive, of REDACTED_KINDS."""
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
        channels = [self._channel(held, channel) for channel in dict.fromkeys(segment.channel for segment in held)]
        ready = len(held) if is_last else self._ready(held, channels)
        told: list[Segment] = []
        for channel in channels:
            told += self._redact(held, channel, ready)
        self._held = held[ready:]
        return sorted(told, key=lambda segment: (segment.start, segment.channel or 0))

    def _channel(self, held: Sequence[Segment], channel: int | None) -> _Channel:
        numbers = [number for number, segment in enumerate(held) if segment.channel == channel]
        texts = [text_of_words(held[number]) for number in numbers]
        text = "".join(texts)
        return _Channel(numbers, [0, *accumulate(map(len, texts))], text, find_sensitive(text, self.kinds))

    def _ready(self, held: Sequence[Segment], channels: Sequence[_Channel]) -> int:
        """Return how many segments can be told: those before anything that may go on."""
        ready = len(held)
        for channel in channels:
            until = open_from(channel.text, self.kinds)
            has_paused = held[-1].start - held[channel.numbers[-1]].end > MAX_PAUSE_S
            if until < len(channel.text) and not has_paused:
                ready = min(ready, channel.segment_at(until))
        while True:  # until nothing that was found is parted
            parted = [
                channel.segment_at(each.start)
                for channel in channels
                for each in channel.found
                if channel.segment_at(each.start) < ready <= channel.segment_at(each.end - 1)
                and each.start >= len(channel.text) - MAX_HELD_CHARS
            ]
            if not parted:
                return ready
            ready = min(parted)

    def _redact(self, held: Sequence[Segment], channel: _Channel, ready: int) -> list[Segment]:
        """Return the segments of a channel that can be told, redacted."""
        length = channel.length_until(ready)
        inside = [each for each in channel.found if each.start < length]
        self.counts.update(each.kind for each in inside)
        edits = [Edit(each.start, min(each.end, length), f"[{each.kind.upper()}]") for each in inside]
        return apply_edits([held[number] for number in channel.numbers if number < ready], edits, keeps_tokens=False)
