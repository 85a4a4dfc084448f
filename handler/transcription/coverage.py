"""Which speech has become text: spans of speech against times of words, pure functions. Knows no model and no file."""

from collections.abc import Iterable, Sequence

from handler.schema.transcript import Segment, Word
from handler.schema.window import SAMPLE_RATE

WORD_S = 0.6  # a word lasts no longer than this …
LETTER_S = 0.12  # … and so much a letter: warping stretches the words around what was left out
REACH_S = 0.5  # around a word, speech counts as covered: word times are not exact
LEAST_GAP_S = 1.0  # shorter stretches without text are breath, laughter, and what voice activity hears before and after words
LEAST_SPEECH_S = 0.4  # an utterance of its own that is shorter and has no text is a noise

Times = tuple[float, float]  # seconds


def united(intervals: Iterable[Times]) -> list[Times]:
    """Intervals in order, those that touch put together."""
    found: list[Times] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > start:
            found.append((start, end))
    return found


def without(intervals: Sequence[Times], taken: Sequence[Times]) -> list[Times]:
    """What is left of ordered, separate intervals when others, ordered and separate too, are taken out."""
    left: list[Times] = []
    first = 0
    for start, end in intervals:
        while first < len(taken) and taken[first][1] <= start:
            first += 1
        at = first
        while at < len(taken) and taken[at][0] < end:
            if taken[at][0] > start:
                left.append((start, taken[at][0]))
            start = max(start, taken[at][1])
            at += 1
        if start < end:
            left.append((start, end))
    return left


def length(intervals: Iterable[Times]) -> float:
    """Seconds in all."""
    return sum(end - start for start, end in intervals)


def covered_by(segments: Iterable[Segment]) -> list[Times]:
    """Where the text of segments was said, with what lies close around it; by words, and by segments where there are none."""
    return united((start - REACH_S, end + REACH_S) for segment in segments for start, end in _said(segment))


def _said(segment: Segment) -> list[Times]:
    return [lasting(word) for word in segment.words] if segment.words else [(segment.start, segment.end)]


def lasting(word: Word) -> Times:
    """When a word was said, no longer than a word can last: what is too much goes from the side that is silent, its end."""
    return word.start, min(word.end, word.start + WORD_S + LETTER_S * len(word.text.strip()))


def gaps(speech: Sequence[tuple[int, int]], segments: Iterable[Segment]) -> list[Times]:
    """Speech without text, seconds: long stretches, and short utterances that have none at all. `speech` is in samples."""
    utterances = in_seconds(speech)
    return worth_telling(without(utterances, covered_by(segments)), utterances)


def in_seconds(speech: Iterable[tuple[int, int]]) -> list[Times]:
    """Spans of speech in samples as ordered, separate ones in seconds."""
    return united((start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in speech)


def worth_telling(left: Iterable[Times], utterances: Sequence[Times]) -> list[Times]:
    """Of the stretches of utterances that are left without text, those that are gaps."""
    whole = set(utterances)
    return [gap for gap in left if gap[1] - gap[0] >= (LEAST_SPEECH_S if gap in whole else LEAST_GAP_S)]


def between(start: float, end: float, channel: int | None) -> str:
    """A stretch of time, seconds, in words."""
    return f"between {start:.1f} and {end:.1f} s" + ("" if channel is None else f" of channel {channel}")
