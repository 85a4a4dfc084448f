"""Long audio as windows: the Engine protocol, cutting where it is quiet, assembling in order. Knows no model and no file."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from handler.schema import SAMPLE_RATE, Evidence, Segment

Samples = NDArray[np.float32]  # [n], mono, SAMPLE_RATE, in [-1, 1]

FRAME = SAMPLE_RATE // 100  # samples of one loudness reading: 10 ms
QUIET_FRAMES = 20  # a cut wants 200 ms of quiet around it
SILENCE_RMS = 1e-4  # −80 dBFS: below it nobody hears anything
MARGIN = SAMPLE_RATE // 5  # samples of silence kept before and after sound: 200 ms


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stretch of audio that an engine takes at once, and how it is to be decoded."""

    start: int  # samples, from the beginning of the audio
    samples: Samples  # [n]
    language: str | None = None  # code; None: the engine finds out
    task: str = "transcribe"
    prompt: str = ""  # text taken to precede it
    detect_only: bool = False  # find out the language and decode nothing

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return len(self.samples) / SAMPLE_RATE

    def since(self, offset_s: float) -> "Window":
        """What is left of it from `offset_s` seconds on."""
        skip = round(offset_s * SAMPLE_RATE)
        return replace(self, start=self.start + skip, samples=self.samples[skip:])


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What an engine made of one window."""

    segments: tuple[Segment, ...]  # times in seconds from the window's start, ordered, inside it
    evidence: Evidence | None  # None where nothing was decoded
    language: str | None = None
    language_probability: float | None = None  # where the engine detected it
    rest_s: float | None = None  # from here on the engine did not get to it; None: all of it is done


class Engine(Protocol):
    """A speech model that works on many windows at once, of any length, vocabulary and way of decoding.

    One thread owns it. `advance` does as much work as the engine sees fit before others may join.
    """

    model_id: str
    device_name: str
    longest_window_s: float
    languages: tuple[str, ...]  # codes that it knows
    detects_language: bool

    def free(self) -> int:
        """Rows that could be admitted now."""

    def admit(self, windows: Sequence[Window]) -> None:
        """Take in windows, at most `free()` of them."""

    def advance(self) -> list[tuple[Window, WindowResult]]:
        """Do some work on all that was admitted and give back what is finished."""

    def drop(self, windows: Collection[Window]) -> None:
        """Stop work on windows that nobody waits for; those that are not here are passed over."""


class Cutter:
    """Cuts a stream of samples into windows of at most `longest` samples, the quietest place within `stride` of their end.

    Stretches of silence are left out, so silence alone makes no window.
    """

    def __init__(self, longest_s: float, stride_s: float) -> None:
        self._longest = round(longest_s * SAMPLE_RATE)
        self._stride = round(stride_s * SAMPLE_RATE)
        self._held: list[Samples] = []
        self._count = 0  # samples held
        self._start = 0  # place of the first held sample

    def push(self, block: Samples) -> list[Window]:
        """Take in more samples; give back the windows that are complete."""
        self._held.append(block)
        self._count += len(block)
        return self._cut(self._longest + 1)

    def finish(self) -> list[Window]:
        """No more samples will come: the windows that are left."""
        return self._cut(1)

    def _cut(self, least: int) -> list[Window]:
        windows = []
        if self._count >= least:
            samples = np.concatenate(self._held)
            while len(samples) >= least:
                end = quietest(samples[: self._longest], self._stride) if len(samples) > self._longest else len(samples)
                windows += trimmed(Window(self._start, samples[:end]))
                samples = samples[end:]
                self._start += end
            self._held, self._count = [samples], len(samples)
        return windows


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
    return [replace(window, start=window.start + first, samples=samples[first:last])]


def placed(window: Window, result: WindowResult) -> list[Segment]:
    """The segments of a window in seconds from the beginning of the audio, inside the window; those without text are left out."""
    offset = window.start / SAMPLE_RATE
    segments = []
    for segment in result.segments:
        if segment.text.strip():
            start, end = (round(offset + min(at, window.seconds), 3) for at in (segment.start, segment.end))
            segments.append(replace(segment, start=start, end=end))
    return segments
