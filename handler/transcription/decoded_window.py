"""The text of one window, as it passes from decoding to merging. Knows no samples and no engine."""

from dataclasses import dataclass, field

from handler.schema.transcript import Segment


@dataclass(slots=True)
class DecodedWindow:
    """The text of a window or of a part of it, without its samples."""

    start: int  # samples, from the beginning of the audio
    end: int
    speech: tuple[tuple[int, int], ...]  # spans of detected speech, samples
    channel: int | None
    segments: list[Segment] = field(default_factory=list)
    is_accepted: bool = True  # all of the text passed the thresholds
    warnings: list[tuple[float, str]] = field(default_factory=list)  # doubts about the text, each with its second
