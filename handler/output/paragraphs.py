"""Join segments to paragraphs, as a person would set them. Pure functions. Knows no format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handler.output.subtitles import CLOSING, SENTENCE_END
from handler.schema.transcript import Segment, text_of

PAUSE_S = 2.0  # a pause of this length behind a sentence begins a paragraph
LONG_CHARS = 500  # so does the end of the sentence with which a paragraph gets longer
LONGEST_CHARS = 1500  # and of the segment, where sentences do not end


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text of one speaker and channel."""

    start: float  # seconds from the beginning of the audio
    end: float
    text: str
    speaker: str | None = None
    channel: int | None = None


def paragraphs(segments: Sequence[Segment]) -> Iterator[Paragraph]:
    """Yield the paragraphs of a transcript, in the order of its segments."""
    group: list[Segment] = []
    for segment in segments:
        if group and _begins_paragraph(group, segment):
            yield _paragraph(group)
            group = []
        group.append(segment)
    if group:
        yield _paragraph(group)


def _begins_paragraph(before: Sequence[Segment], segment: Segment) -> bool:
    last = before[-1]
    if (last.speaker, last.channel) != (segment.speaker, segment.channel):
        return True
    length = sum(len(each.text) for each in before)
    if not last.text.rstrip(CLOSING).endswith(tuple(SENTENCE_END)):
        return length > LONGEST_CHARS
    return length > LONG_CHARS or segment.start - last.end >= PAUSE_S


def _paragraph(group: Sequence[Segment]) -> Paragraph:
    return Paragraph(group[0].start, group[-1].end, text_of(group), group[0].speaker, group[0].channel)
