"""Windows of long audio, how they are decoded, and the Engine protocol. Knows no model and no file."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handler.schema.transcript import Evidence, Segment

SAMPLE_RATE = 16_000  # Hz, of the samples that the audio decoder returns and engines take
Samples = NDArray[np.float32]  # [n], mono, SAMPLE_RATE, in [-1, 1]


@dataclass(frozen=True, slots=True)
class DecodingParams:
    """Parameters of decoding one window."""

    language: str | None = None  # code; None: the engine detects it
    task: str = "transcribe"
    prompt: str = ""  # text assumed to precede the window
    hotwords: str = ""  # words assumed to have occurred before
    temperature: float = 0.0  # 0: the most likely text; above: sampled
    patience: float = 1.0  # beam search ends after `patience` times as many finished texts as beams
    length_penalty: float | None = None  # power of (5 + tokens) / 6 in the ranking; None: rank by the mean per token
    suppress: tuple[int, ...] | None = None  # ids of text tokens never decoded; −1: the engine's own; None: only those
    num_hypotheses: int = 1  # decoded at once, the best is the result: beams at temperature 0, samples above
    detect_only: bool = False  # detect the language and decode nothing


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of audio that an engine decodes at once, and the parameters to decode it with."""

    start: int  # samples, from the beginning of the audio
    samples: Samples  # [n]
    speech: tuple[tuple[int, int], ...] = ()  # detected speech, samples of the audio, ordered, inside the window
    channel: int | None = None  # None: all channels mixed
    params: DecodingParams = DecodingParams()
    overlap: int = 0  # samples at its end that the next window begins with

    @property
    def end(self) -> int:
        """Return the sample after the last one, counted from the beginning of the audio."""
        return self.start + len(self.samples)

    @property
    def seconds(self) -> float:
        """Return the length of the window in seconds."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """Return the seconds of speech detected in the window."""
        return sum(end - start for start, end in self.speech) / SAMPLE_RATE

    def part(self, start: int, end: int) -> "Window":
        """Return the part of the window between two samples of the audio."""
        start, end = max(start, self.start), min(end, self.end)
        speech = tuple(
            (max(span_start, start), min(span_end, end))
            for span_start, span_end in self.speech
            if span_start < end and span_end > start
        )
        samples = self.samples[start - self.start : end - self.start]
        return replace(self, start=start, samples=samples, speech=speech)

    def with_params(self, **changes: Any) -> "Window":
        """Return the same window with some parameters changed."""
        return replace(self, params=replace(self.params, **changes))


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The engine's result for one window."""

    segments: tuple[Segment, ...]  # times in seconds from the window's start, ordered, inside it
    evidence: Evidence | None  # None if nothing was decoded
    language: str | None = None
    languages: Mapping[str, float] = field(default_factory=dict)  # probabilities, if the engine detected it
    seek_s: float | None = None  # the window is decoded up to here; None: completely


class Engine(Protocol):
    """A speech model that decodes many windows at once, whatever its window length, vocabulary and decoding method.

    One thread owns it. `advance` does as much work as the engine chooses before other windows may join. A window needs
    `num_hypotheses` sequences of the batch.
    """

    max_batch_size: int  # sequences in total
    encode_batch_size: int  # windows that are best admitted at once: all others wait while they are encoded
    model_id: str
    device_name: str
    longest_window_s: float
    languages: tuple[str, ...]  # codes of the languages that the model knows
    detects_language: bool
    text_tokens: int  # ids below it are text

    def free(self) -> int:
        """Return how many sequences could be admitted now."""

    def admit(self, windows: Sequence[Window]) -> None:
        """Add windows to the batch; together they need at most `free()` sequences."""

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Do some work on all admitted windows, and return the finished ones with their results."""

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a text token, which may be part of a character. May be called from any thread."""

    def halve(self) -> None:
        """Continue with half the batch size, so that the rest fits in memory; all admitted windows are forgotten."""

    def drop(self, windows: Collection[Window]) -> None:
        """Stop decoding windows whose results are no longer needed; windows that are not in the batch are ignored."""
