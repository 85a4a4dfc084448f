"""The windows of a request as they are cut and decoded, and the text that can change no more. Pure; knows no engine and no door.

A window that shares its end with the next one is joined with it, so windows go in groups: a group ends with a window that
shares nothing, and is settled when all of it, and all before it, is decoded.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from handler.schema.transcript import Segment
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.merge import Passage, merge_windows


@dataclass(slots=True)
class _Group:
    """Windows of a channel that overlap one another."""

    start: int  # samples
    left: set[Window] = field(default_factory=set)  # those that are not decoded yet
    passages: list[Passage] = field(default_factory=list)
    closed: bool = False  # no other window joins it


class ReorderBuffer:
    """Takes windows in the order of their channel as they are cut, and passages in any order as they are decoded."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []  # the settled ones
        self.segments: list[Segment] = []  # the settled ones, in order of time
        self._groups: dict[int | None, deque[_Group]] = {}
        self._of: dict[Window, _Group] = {}
        self._reached: dict[int | None, float] = {}  # no window of a channel begins before it but those in its groups, seconds
        self._pending: list[Segment] = []  # settled in their channel; another channel may still say something before them
        self._ended = False

    def cut(self, window: Window) -> None:
        """Take in a window that will be decoded."""
        groups = self._groups.setdefault(window.channel, deque())
        if not groups or groups[-1].closed:
            groups.append(_Group(window.start))
        groups[-1].left.add(window)
        groups[-1].closed = not window.shared
        self._of[window] = groups[-1]

    def done(self, window: Window, passage: Passage) -> None:
        """Take in what was read from a window."""
        group = self._of.pop(window)
        group.left.remove(window)
        group.passages.append(passage)

    def floor(self, channel: int | None, seconds: float) -> None:
        """Take in that no window of a channel that is still to be cut will begin before a place."""
        self._reached[channel] = max(seconds, self._reached.get(channel, 0.0))

    def end(self) -> None:
        """No window will be cut any more."""
        self._ended = True
        for groups in self._groups.values():
            for group in groups:
                group.closed = True

    def finalize(self, channels: Sequence[int | None]) -> list[Segment]:
        """The segments that have become settled since the last call, in order of time; `channels` are those that there are."""
        for channel, groups in self._groups.items():
            while groups and groups[0].closed and not groups[0].left:
                group = groups.popleft()
                self.passages += group.passages
                self._pending += merge_windows(group.passages)
                self.floor(channel, max(passage.end for passage in group.passages) / SAMPLE_RATE)
        whole = self._ended and not any(self._groups.values())
        reached = float("inf") if whole else self.reached(channels)
        self._pending.sort(key=lambda segment: (segment.start, segment.channel or 0))
        count = next((at for at, segment in enumerate(self._pending) if segment.start >= reached), len(self._pending))
        final_segments, self._pending = self._pending[:count], self._pending[count:]
        self.segments += final_segments
        return final_segments

    def reached(self, channels: Sequence[int | None]) -> float:
        """Up to where all channels are settled, seconds."""
        return min(self._up_to(channel) for channel in channels)

    def _up_to(self, channel: int | None) -> float:
        groups = self._groups.get(channel)
        return groups[0].start / SAMPLE_RATE if groups else self._reached.get(channel, 0.0)
