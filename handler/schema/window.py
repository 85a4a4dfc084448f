"""Windows of long audio, the parameters to decode them with, and the Engine and Aligner protocols.

Knows no model and no file.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from handler.schema.capabilities import Capabilities
from handler.schema.transcript import Evidence, Segment

SAMPLE_RATE = 16_000  # Hz; the rate of the samples that the audio decoder returns and that engines expect
Samples = NDArray[np.float32]  # [n], mono, SAMPLE_RATE, in [-1, 1]


@dataclass(frozen=True, slots=True)
class DecodingParams:
    """The parameters to decode one window with."""

    language: str | None = None  # code; None: the engine detects it
    task: str = "transcribe"
    prompt: str = ""  # text assumed to precede the window
    hotwords: str = ""  # words assumed to have occurred before
    temperature: float = 0.0  # 0: the most likely text; above: sampled
    patience: float = 1.0  # beam search ends once `patience * num_hypotheses` hypotheses are finished
    # Hypotheses are ranked by log-probability / ((5 + tokens) / 6) ** length_penalty. None: by the mean per token.
    length_penalty: float | None = None
    # Ids of text tokens that are never decoded. −1 stands for the engine's own list; None means that list alone.
    suppress: tuple[int, ...] | None = None
    draft: tuple[int, ...] = ()  # tokens that the text is likely to begin with (`WindowResult.tokens`), to save time
    num_hypotheses: int = 1  # beams at temperature 0, samples above 0; the best hypothesis is the result
    detect_only: bool = False  # detect the language, and decode no text


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of audio that an engine decodes as a whole, and the parameters to decode the audio with.

    A window is equal to itself alone, so it can be looked up in sets and dictionaries while it is under way.
    """

    start: int  # samples, from the beginning of the audio
    samples: Samples  # [n]
    # (start, end) of each stretch of detected speech inside the window, in samples from the beginning of the audio.
    speech: tuple[tuple[int, int], ...] = ()
    channel: int | None = None  # counted from 0; None if all channels are mixed
    params: DecodingParams = DecodingParams()
    overlap: int = 0  # samples at the end of this window that the next window contains as well

    @property
    def end(self) -> int:
        """Return the end of the window (exclusive), in samples from the beginning of the audio."""
        return self.start + len(self.samples)

    @property
    def seconds(self) -> float:
        """Return the length of the window in seconds."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """Return how many seconds of speech were detected in the window."""
        return sum(end - start for start, end in self.speech) / SAMPLE_RATE

    def part(self, start: int, end: int) -> "Window":
        """Return the part of the window from `start` to `end` (exclusive), with the speech in that part.

        Positions are counted in samples from the beginning of the audio. Those outside the window are clipped to it,
        so a part that lies wholly outside of the window is empty.
        """
        start = min(max(start, self.start), self.end)
        end = max(start, min(end, self.end))
        speech = tuple(
            (max(span_start, start), min(span_end, end))
            for span_start, span_end in self.speech
            if max(span_start, start) < min(span_end, end)
        )
        samples = self.samples[start - self.start : end - self.start]
        return replace(self, start=start, samples=samples, speech=speech, params=replace(self.params, draft=()))

    def with_params(self, **changes: Any) -> "Window":
        """Return a copy of the window with some decoding parameters changed."""
        return replace(self, params=replace(self.params, **changes))


@dataclass(frozen=True, slots=True)
class WindowResult:
    """The engine's result for one window."""

    segments: tuple[Segment, ...]  # chronological; times are seconds from the start of the window
    evidence: Evidence | None  # None if nothing was decoded
    language: str | None = None
    # Probability of each language by code. Empty if the engine did not detect the language.
    languages: Mapping[str, float] = field(default_factory=dict)
    seek_s: float | None = None  # seconds of the window that were decoded; None if the window was decoded completely
    tokens: tuple[int, ...] = ()  # all that were decoded, as a draft for a window that begins alike


class Engine(Protocol):
    """A speech model that decodes many windows in one batch.

    A single thread must make all calls, except that `token_bytes` may be called from any thread. Each call of
    `advance` does as much work as the engine chooses, and more windows may be admitted between two calls. A window
    takes up one sequence of the batch for each of its hypotheses (`params.num_hypotheses`).
    """

    max_batch_size: int  # largest number of sequences in the batch
    # Number of windows that are best admitted in one call, because running windows wait while new ones are encoded.
    encode_batch_size: int
    urgent_reserve: int  # sequences that only urgent windows take while there are any
    model_id: str
    device_name: str
    dtype_name: str  # number format of the weights, such as float16
    attention: str  # name of the attention kernels
    capabilities: Capabilities

    def free(self) -> int:
        """Return how many more sequences may be admitted now."""

    def admit(self, windows: Sequence[Window]) -> None:
        """Add windows to the batch. Together they must need at most `free()` sequences."""

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Do some work on all admitted windows, and remove finished windows from the batch.

        Return the finished windows with their results. The list is empty if no window is finished.
        """

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a text token, which may be only part of a character."""

    def halve(self) -> None:
        """Replace the batch with an empty one of half the size, which needs less memory.

        All admitted windows are forgotten, and the caller must admit them again to get their results.
        """

    def drop(self, windows: Collection[Window]) -> None:
        """Remove windows whose results are no longer needed. Windows that are not in the batch are ignored."""


class Aligner(Protocol):
    """A model that finds out when the words of a text are spoken, which another model has decoded.

    A single thread must make all calls.
    """

    model_id: str
    languages: tuple[str, ...]  # codes of the languages that it can read
    longest_window_s: float  # longest stretch of audio that it hears as a whole

    def align(self, results: Sequence[tuple[Window, WindowResult]]) -> list[WindowResult]:
        """Return the result of each window, all of which have a text, with a time for each word.

        A segment is divided where a sentence ends or the speaker pauses, and lasts from its first word to its last.
        """
