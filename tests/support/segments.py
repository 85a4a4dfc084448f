"""Segments made for tests, and their text."""

from handler.schema.transcript import Segment, Word


def spoken(text: str, start: float = 0.0, each: float = 0.5) -> Segment:
    """A segment whose words take `each` seconds."""
    words = tuple(Word(start + i * each, start + (i + 1) * each, f" {word}", 0.9) for i, word in enumerate(text.split()))
    return Segment(words[0].start, words[-1].end, "".join(word.text for word in words), words=words)


def text_of(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments).strip()
