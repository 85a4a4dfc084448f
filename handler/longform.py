"""Long audio as windows: the Engine protocol, silence, joining what two windows heard. Knows no model and no file."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handler.schema import SAMPLE_RATE, Evidence, Segment, Word

Samples = NDArray[np.float32]  # [n], mono, SAMPLE_RATE, in [-1, 1]

FRAME = SAMPLE_RATE // 100  # samples of one loudness reading: 10 ms
QUIET_FRAMES = 20  # a cut wants 200 ms of quiet around it
SILENCE_RMS = 1e-4  # −80 dBFS: below it nobody hears anything
SAME_TIME_S = 0.7  # two windows that hear one word time it no further apart
MARGIN = SAMPLE_RATE // 5  # samples of silence kept before and after sound: 200 ms


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a window is to be decoded."""

    language: str | None = None  # code; None: the engine finds out
    task: str = "transcribe"
    prompt: str = ""  # text taken to precede it
    hotwords: str = ""  # words taken to have come up before
    temperature: float = 0.0  # 0: the likeliest text; above: sampled
    patience: float = 1.0  # how many times as many beams' texts have to end
    length_penalty: float | None = None  # power of ((5 + tokens) / 6) that texts are ranked by; None: their number is taken
    suppress: tuple[int, ...] | None = None  # ids of text tokens that never come, −1 for the engine's own; None: only these
    rows: int = 1  # texts worked on at once, the best of which is the result: beams at temperature 0, samples above
    detect_only: bool = False  # find out the language and decode nothing


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of audio that an engine takes at once, and how it is to be decoded."""

    start: int  # samples, from the beginning of the audio
    samples: Samples  # [n]
    speech: tuple[tuple[int, int], ...] = ()  # where in the audio speech was heard, samples, ordered, inside the window
    channel: int | None = None  # None: all channels mixed
    how: Decoding = Decoding()
    shared: int = 0  # samples at its end that the next window begins with

    @property
    def end(self) -> int:
        """The sample behind its last one, from the beginning of the audio."""
        return self.start + len(self.samples)

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """Seconds of speech heard in it."""
        return sum(end - start for start, end in self.speech) / SAMPLE_RATE

    def part(self, start: int, end: int) -> "Window":
        """The stretch of it between two samples of the audio."""
        start, end = max(start, self.start), min(end, self.end)
        speech = tuple((max(a, start), min(b, end)) for a, b in self.speech if a < end and b > start)
        return replace(self, start=start, samples=self.samples[start - self.start : end - self.start], speech=speech)

    def asked(self, **how: Any) -> "Window":
        """The same window to be decoded in another way."""
        return replace(self, how=replace(self.how, **how))


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What an engine made of one window."""

    segments: tuple[Segment, ...]  # times in seconds from the window's start, ordered, inside it
    evidence: Evidence | None  # None where nothing was decoded
    language: str | None = None
    languages: Mapping[str, float] = field(default_factory=dict)  # probability of each language, where the engine detected it
    rest_s: float | None = None  # from here on the engine did not get to it; None: all of it is done


class Engine(Protocol):
    """A speech model that works on many windows at once, of any length, vocabulary and way of decoding.

    One thread owns it. `advance` does as much work as the engine sees fit before others may join. A window takes as many
    rows as it asks for.
    """

    rows: int  # in all
    together: int  # windows that are best admitted at once: what a step waits for the others
    model_id: str
    device_name: str
    longest_window_s: float
    languages: tuple[str, ...]  # codes that it knows
    detects_language: bool
    text_tokens: int  # ids below it are text

    def free(self) -> int:
        """Rows that could be admitted now."""

    def admit(self, windows: Sequence[Window]) -> None:
        """Take in windows that together ask for at most `free()` rows."""

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Do some work on all that was admitted and give back what is finished."""

    def spelled(self, token: int) -> bytes:
        """The bytes that a token of text stands for; alone they may be no whole character. From any thread."""

    def halve(self) -> None:
        """Go on with half of the rows, so that what is left has memory; all that was admitted is forgotten."""

    def drop(self, windows: Collection[Window]) -> None:
        """Stop work on windows that nobody waits for; those that are not here are passed over."""


def loudness(samples: Samples) -> Samples:
    """Root mean square of each whole frame of FRAME samples. [n // FRAME]"""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    levels: Samples = np.sqrt(np.einsum("ij,ij->i", frames, frames) / FRAME)
    return levels


def quietest(samples: Samples, stride: int) -> int:
    """Where to cut: the middle of the quietest QUIET_FRAMES within the last `stride` samples, or the end where that is too short."""
    levels = loudness(samples[len(samples) - stride :])
    if len(levels) < QUIET_FRAMES:
        return len(samples)
    smooth = np.convolve(levels, np.ones(QUIET_FRAMES), "valid")
    return len(samples) - stride + (int(smooth.argmin()) + QUIET_FRAMES // 2) * FRAME


def trimmed(window: Window) -> list[Window]:
    """The window without the silence at its two ends but for a margin; no window where it is silent throughout."""
    samples = window.samples
    padded = np.pad(samples, (0, -len(samples) % FRAME))
    sounding = np.flatnonzero(loudness(padded) > SILENCE_RMS)
    if not len(sounding):
        return []
    first = max(0, int(sounding[0]) * FRAME - MARGIN)
    last = min(len(samples), (int(sounding[-1]) + 1) * FRAME + MARGIN)
    return [window.part(window.start + first, window.start + last)]


def placed(window: Window, result: WindowResult) -> list[Segment]:
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


def kept(segments: Sequence[Segment], keep: Callable[[Word], bool]) -> list[Segment]:
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


def joined(left: Sequence[Segment], right: Sequence[Segment], overlap: tuple[float, float]) -> list[Segment]:
    """The segments of two windows that both heard `overlap`, seconds: in it, one takes over from the other where they agree.

    They agree on the longest run of equal words said at about the same time; where there is none, the middle of the overlap
    divides them. What only one of them heard stays.
    """
    start, end = overlap
    before = [word for word in words_of(left) if word.end > start]
    after = [word for word in words_of(right) if word.start < end]
    if not before or not after:
        return [*left, *right]
    size, at, other = _agreement(before, after)
    if size:
        gone = {id(word) for word in (*before[at + size // 2 :], *after[: other + size // 2])}
        return kept([*left, *right], lambda word: id(word) not in gone)
    middle = (start + end) / 2
    return [*kept(left, lambda w: w.start + w.end < 2 * middle), *kept(right, lambda w: w.start + w.end >= 2 * middle)]


def _agreement(before: Sequence[Word], after: Sequence[Word]) -> tuple[int, int, int]:
    """The longest run of equal words at about the same times: how many, and where it begins in the one and in the other."""
    best = (0, 0, 0)
    lengths: dict[tuple[int, int], int] = {}  # of the run that ends with this pair
    for i, first in enumerate(before):
        for j, second in enumerate(after):
            if plain(first) and plain(first) == plain(second) and abs(first.start - second.start) <= SAME_TIME_S:
                lengths[i, j] = size = lengths.get((i - 1, j - 1), 0) + 1
                best = max(best, (size, i + 1 - size, j + 1 - size), key=lambda run: run[0])
    return best


def plain(word: Word) -> str:
    """A word as it is compared: letters and digits, small."""
    return letters(word.text)


def letters(text: str) -> str:
    """The letters and digits of a text, small."""
    return "".join(character for character in text.lower() if character.isalnum())
