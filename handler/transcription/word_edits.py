"""Words of segments: list them, keep some of them, compare them. Pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult


def place_segments(window: Window, result: WindowResult) -> list[Segment]:
    """The segments of a window in seconds from the beginning of the audio, inside the window; those without a letter are left out."""

    def at(seconds: float) -> float:
        return round(window.start / SAMPLE_RATE + min(seconds, window.seconds), 3)

    return [
        replace(
            segment,
            start=at(segment.start),
            end=at(segment.end),
            words=tuple(replace(word, start=at(word.start), end=at(word.end)) for word in segment.words),
            channel=window.channel,
        )
        for segment in result.segments
        if any(character.isalnum() for character in segment.text)
    ]


def words_of(segments: Sequence[Segment]) -> list[Word]:
    """The words of segments, one after the other."""
    return [word for segment in segments for word in segment.words]


def keep_words(segments: Sequence[Segment], keep: Callable[[Word], bool]) -> list[Segment]:
    """Segments with only some of their words; those that lose all of them are left out."""
    found = []
    for segment in segments:
        words = tuple(word for word in segment.words if keep(word))
        if len(words) == len(segment.words):
            found.append(segment)
        elif words:
            text = "".join(word.text for word in words)
            found.append(replace(segment, start=words[0].start, end=words[-1].end, text=text, tokens=(), words=words))
    return found


def plain(word: Word) -> str:
    """A word as it is compared: letters and digits, small."""
    return letters(word.text)


def letters(text: str) -> str:
    """The letters and digits of a text, small."""
    return "".join(character for character in text.lower() if character.isalnum())
