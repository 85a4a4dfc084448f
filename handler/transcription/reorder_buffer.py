"""Release text in order of time as soon as it is final, in whatever order windows are decoded. Knows no engine.

A window that overlaps the next one is joined with it, so windows form groups: a group ends with a window without
overlap, and its text is final when all of it and all windows before it are decoded.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from handler.schema.transcript import Segment
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.merge import merge_windows


@dataclass(slots=True)
class _Group:
    """Windows of a channel, each of which overlaps the next."""

    start: int  # samples
    undecoded: set[Window] = field(default_factory=set)
    decoded: list[DecodedWindow] = field(default_factory=list)
    is_closed: bool = False  # no more windows join it


class ReorderBuffer:
    """Takes the windows of each channel in order as they are cut, and their text in any order as they are decoded."""

    def __init__(self) -> None:
        self.windows: list[DecodedWindow] = []  # those whose text is final
        self.segments: list[Segment] = []  # final, in order of time
        self._groups: dict[int | None, deque[_Group]] = {}
        self._group_of: dict[Window, _Group] = {}
        self._watermarks: dict[int | None, float] = {}  # seconds; later windows of a channel begin after it
        self._buffered: list[Segment] = []  # final in their channel; another channel may still have earlier text
        self._has_ended = False

    def add(self, window: Window) -> None:
        """Register a window that will be decoded."""
        groups = self._groups.setdefault(window.channel, deque())
        if not groups or groups[-1].is_closed:
            groups.append(_Group(window.start))
        groups[-1].undecoded.add(window)
        groups[-1].is_closed = not window.overlap
        self._group_of[window] = groups[-1]

    def complete(self, window: Window, decoded: DecodedWindow) -> None:
        """Store the text of a registered window."""
        group = self._group_of.pop(window)
        group.undecoded.remove(window)
        group.decoded.append(decoded)

    def advance_watermark(self, channel: int | None, seconds: float) -> None:
        """Note that no window of a channel still to be cut begins before `seconds`."""
        self._watermarks[channel] = max(seconds, self._watermarks.get(channel, 0.0))

    def end(self) -> None:
        """Note that no more windows will be cut."""
        self._has_ended = True
        for groups in self._groups.values():
            for group in groups:
                group.is_closed = True

    def finalize(self, channels: Sequence[int | None]) -> list[Segment]:
        """Return the segments that became final since the last call, in order of time.

        `channels` are all channels of the audio.
        """
        for channel, groups in self._groups.items():
            while groups and groups[0].is_closed and not groups[0].undecoded:
                group = groups.popleft()
                self.windows += group.decoded
                self._buffered += merge_windows(group.decoded)
                self.advance_watermark(channel, max(window.end for window in group.decoded) / SAMPLE_RATE)
        is_complete = self._has_ended and not any(self._groups.values())
        until_s = float("inf") if is_complete else self.finalized_until_s(channels)
        return self._release_until(until_s)

    def _release_until(self, seconds: float) -> list[Segment]:
        self._buffered.sort(key=lambda segment: (segment.start, segment.channel or 0))
        indices = (index for index, segment in enumerate(self._buffered) if segment.start >= seconds)
        count = next(indices, len(self._buffered))
        final_segments, self._buffered = self._buffered[:count], self._buffered[count:]
        self.segments += final_segments
        return final_segments

    def finalized_until_s(self, channels: Sequence[int | None]) -> float:
        """Return the time in seconds up to which the text of all channels is final."""
        return min(self._channel_finalized_until_s(channel) for channel in channels)

    def _channel_finalized_until_s(self, channel: int | None) -> float:
        groups = self._groups.get(channel)
        return groups[0].start / SAMPLE_RATE if groups else self._watermarks.get(channel, 0.0)
