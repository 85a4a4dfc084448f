"""The decoded text of one window, which decoding passes on to merging. Knows no samples and no engine."""

from dataclasses import dataclass, field

from handler.schema.transcript import Segment


@dataclass(slots=True)
class DecodedWindow:
    """The decoded segments of a window or of a part of a window, without the audio samples."""

    start: int  # samples, from the beginning of the audio
    end: int
    speech: tuple[tuple[int, int], ...]  # start and end of each span of detected speech, in samples
    channel: int | None
    segments: list[Segment] = field(default_factory=list)
    is_accepted: bool = True  # all of the text passed the thresholds
    warnings: list[tuple[float, str]] = field(default_factory=list)  # (seconds, warning) for each doubt about the text
