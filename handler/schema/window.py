"""Long audio as windows: the Engine protocol, silence, joining what two windows heard. Knows no model and no file."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handler.schema.transcript import Evidence, Segment

SAMPLE_RATE = 16_000  # Hz: what decoding delivers and engines take
Samples = NDArray[np.float32]  # [n], mono, SAMPLE_RATE, in [-1, 1]


@dataclass(frozen=True, slots=True)
class DecodingParams:
    """How a window is to be decoded."""

    language: str | None = None  # code; None: the engine finds out
    task: str = "transcribe"
    prompt: str = ""  # text taken to precede it
    hotwords: str = ""  # words taken to have come up before
    temperature: float = 0.0  # 0: the likeliest text; above: sampled
    patience: float = 1.0  # how many times as many beams' texts have to end
    length_penalty: float | None = None  # power of ((5 + tokens) / 6) that texts are ranked by; None: their number is taken
    suppress: tuple[int, ...] | None = None  # ids of text tokens that never come, −1 for the engine's own; None: only these
    num_hypotheses: int = 1  # texts worked on at once, the best of which is the result: beams at temperature 0, samples above
    detect_only: bool = False  # find out the language and decode nothing


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of audio that an engine takes at once, and how it is to be decoded."""

    start: int  # samples, from the beginning of the audio
    samples: Samples  # [n]
    speech: tuple[tuple[int, int], ...] = ()  # where in the audio speech was heard, samples, ordered, inside the window
    channel: int | None = None  # None: all channels mixed
    params: DecodingParams = DecodingParams()
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

    def with_params(self, **changes: Any) -> "Window":
        """The same window to be decoded in another way."""
        return replace(self, params=replace(self.params, **changes))


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What an engine made of one window."""

    segments: tuple[Segment, ...]  # times in seconds from the window's start, ordered, inside it
    evidence: Evidence | None  # None where nothing was decoded
    language: str | None = None
    languages: Mapping[str, float] = field(default_factory=dict)  # probability of each language, where the engine detected it
    seek_s: float | None = None  # from here on the engine did not get to it; None: all of it is done


class Engine(Protocol):
    """A speech model that works on many windows at once, of any length, vocabulary and way of decoding.

    One thread owns it. `advance` does as much work as the engine sees fit before others may join. A window takes as many
    rows as it asks for.
    """

    max_batch_size: int  # rows in all
    encode_batch_size: int  # windows that are best admitted at once: what a step waits for the others
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
