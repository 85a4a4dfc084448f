"""Segments for tests, and their text."""

from handler.schema.transcript import Segment, Word


def make_segment(text: str, start: float = 0.0, word_s: float = 0.5) -> Segment:
    """Return a segment whose words take `word_s` seconds each."""
    words = tuple(
        Word(start + i * word_s, start + (i + 1) * word_s, f" {word}", 0.9) for i, word in enumerate(text.split())
    )
    return Segment(words[0].start, words[-1].end, "".join(word.text for word in words), words=words)


def text_of(segments: list[Segment]) -> str:
    """Return the text of segments as one line."""
    return "".join(segment.text for segment in segments).strip()
