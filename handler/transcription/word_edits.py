"""List, filter and compare the words of segments. Pure functions. Knows no model and no audio."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult


def to_audio_time(window: Window, result: WindowResult) -> list[Segment]:
    """Return the segments of a result with times in seconds from the start of the audio instead of the window.

    Times after the end of the window are set to that end. Segments without a letter or digit are dropped.
    """

    def absolute(seconds: float) -> float:
        return round(window.start / SAMPLE_RATE + min(seconds, window.seconds), 3)

    return [
        replace(
            segment,
            start=absolute(segment.start),
            end=absolute(segment.end),
            words=tuple(replace(word, start=absolute(word.start), end=absolute(word.end)) for word in segment.words),
            channel=window.channel,
        )
        for segment in result.segments
        if any(character.isalnum() for character in segment.text)
    ]


def all_words(segments: Sequence[Segment]) -> list[Word]:
    """Return the words of all segments in one list, in the given order."""
    words: list[Word] = []
    for segment in segments:
        words += segment.words
    return words


def keep_words(segments: Sequence[Segment], keep: Callable[[Word], bool]) -> list[Segment]:
    """Return the segments with only the words for which `keep` returns True.

    A segment that loses all of its words is dropped. A segment that had no words is kept.
    """
    filtered = []
    for segment in segments:
        words = tuple(word for word in segment.words if keep(word))
        if len(words) == len(segment.words):
            filtered.append(segment)
        elif words:
            start, end, text = words[0].start, words[-1].end, "".join(word.text for word in words)
            filtered.append(replace(segment, start=start, end=end, text=text, tokens=(), words=words))
    return filtered


def normalize_word(word: Word) -> str:
    """Return the lower-case letters and digits of a word, so that words can be compared without punctuation."""
    return letters_and_digits(word.text)


def letters_and_digits(text: str) -> str:
    """Return the letters and digits of a text in lower case, without spaces and punctuation."""
    return "".join(character for character in text.lower() if character.isalnum())
