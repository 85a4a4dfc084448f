"""Release text in chronological order as soon as it can no longer change (is "final"). Knows no engine.

Windows may be decoded in any order. Consecutive windows that overlap form a group, because their text has to be joined.
A group ends with a window that does not overlap the next one. The text of a group is final when all windows of the
group and all windows before it are decoded.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from handler.schema.transcript import Segment
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.merge import merge_windows


@dataclass(slots=True)
class _Group:
    """Consecutive windows of a channel, each of which overlaps the next one."""

    start: int  # samples
    undecoded: set[Window] = field(default_factory=set)
    decoded: list[DecodedWindow] = field(default_factory=list)
    is_closed: bool = False  # True if no more windows can join the group


class TextEditor(Protocol):
    """Changes text when it is released, and may hold some of it back."""

    @property
    def held_from_s(self) -> float:
        """The start of the first segment that is held back, or infinity."""

    def push(self, segments: Sequence[Segment], *, is_last: bool) -> list[Segment]:
        """Take the next segments, and return what can be released. After the last ones, that is everything."""


class ReorderBuffer:
    """Collects the decoded text of windows, and releases the text that can no longer change.

    The windows of each channel must be added in chronological order, but may be completed in any order.
    """

    def __init__(self, editor: TextEditor | None = None) -> None:
        """Create a buffer. `editor` changes segments when they are released."""
        self._editor = editor
        self.windows: list[DecodedWindow] = []  # windows whose text is final
        self.segments: list[Segment] = []  # all segments released so far, in chronological order
        self.decoded_segments: list[Segment] = []  # those that are final, before any edit
        self._groups: dict[int | None, deque[_Group]] = {}
        self._group_of: dict[Window, _Group] = {}
        self._watermarks: dict[int | None, float] = {}  # seconds before which no later window of the channel begins
        self._buffered: list[Segment] = []  # final, but another channel may still have earlier text
        self._has_ended = False

    def add(self, window: Window) -> None:
        """Register a window that is going to be decoded."""
        groups = self._groups.setdefault(window.channel, deque())
        if not groups or groups[-1].is_closed:
            groups.append(_Group(window.start))
        groups[-1].undecoded.add(window)
        groups[-1].is_closed = not window.overlap
        self._group_of[window] = groups[-1]

    def complete(self, window: Window, decoded: DecodedWindow) -> None:
        """Store the decoded text of a window that was registered with `add`."""
        group = self._group_of.pop(window)
        group.undecoded.remove(window)
        group.decoded.append(decoded)

    def advance_watermark(self, channel: int | None, seconds: float) -> None:
        """Record that every window added to the channel from now on begins at `seconds` or later."""
        self._watermarks[channel] = max(seconds, self._watermarks.get(channel, 0.0))

    def end(self) -> None:
        """Record that no more windows will be added."""
        self._has_ended = True
        for groups in self._groups.values():
            for group in groups:
                group.is_closed = True

    def finalize(self, channels: Sequence[int | None]) -> list[Segment]:
        """Return the segments that became final since the last call, in chronological order.

        `channels` must list all channels of the audio, because text is held back until no channel can add earlier text.
        """
        for channel, groups in self._groups.items():
            while groups and groups[0].is_closed and not groups[0].undecoded:
                group = groups.popleft()
                self.windows += group.decoded
                self._buffered += merge_windows(group.decoded)
                self.advance_watermark(channel, max(window.end for window in group.decoded) / SAMPLE_RATE)
        is_complete = self._has_ended and not any(self._groups.values())
        until_s = float("inf") if is_complete else self._decoded_until_s(channels)
        return self._release_until(until_s)

    def _release_until(self, seconds: float) -> list[Segment]:
        """Release and return the buffered segments that start before `seconds`."""
        self._buffered.sort(key=lambda segment: (segment.start, segment.channel or 0))
        indices = (index for index, segment in enumerate(self._buffered) if segment.start >= seconds)
        count = next(indices, len(self._buffered))
        final_segments, self._buffered = self._buffered[:count], self._buffered[count:]
        self.decoded_segments += final_segments
        if self._editor is not None:
            final_segments = self._editor.push(final_segments, is_last=seconds == float("inf"))
        self.segments += final_segments
        return final_segments

    def finalized_until_s(self, channels: Sequence[int | None]) -> float:
        """Return the time in seconds before which the text of all channels is final and released."""
        decoded_until_s = self._decoded_until_s(channels)
        return decoded_until_s if self._editor is None else min(decoded_until_s, self._editor.held_from_s)

    def _decoded_until_s(self, channels: Sequence[int | None]) -> float:
        """Return the time in seconds before which the text of all channels is final."""
        return min(self._channel_finalized_until_s(channel) for channel in channels)

    def _channel_finalized_until_s(self, channel: int | None) -> float:
        """Return the time in seconds before which the text of one channel is final."""
        groups = self._groups.get(channel)
        return groups[0].start / SAMPLE_RATE if groups else self._watermarks.get(channel, 0.0)
