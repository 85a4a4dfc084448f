"""Hold the last seconds of a stream of samples, and what is known of each frame. Knows no turn and no model."""

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handler.audio.silero import FRAME
from handler.audio.vad import VoiceActivity
from handler.schema.window import SAMPLE_RATE, Samples


@dataclass(frozen=True, slots=True)
class AudioPart:
    """A stretch of a stream: whole frames, with the probability of speech in each."""

    start: int  # samples, from the beginning of the stream
    samples: Samples  # [frames * FRAME]
    probabilities: NDArray[np.float32]  # [frames]

    @property
    def end(self) -> int:
        """The end of the part (exclusive), in samples from the beginning of the stream."""
        return self.start + len(self.samples)


class LiveAudio:
    """The samples of one stream from `start` on, the probability of speech in each frame, and when each arrived.

    Positions count samples from the beginning of the stream. A probability is told as soon as its frame is heard, and
    may rise within the next seconds, when it turns out that somebody began to speak (see VoiceActivity).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._vad = VoiceActivity()
        self._blocks: list[Samples] = []
        self._final: NDArray[np.float32] = np.zeros(0, np.float32)  # probabilities that change no more
        self._arrivals: list[tuple[int, float]] = []  # end of each block, and the time at which it arrived
        self.start = 0  # of the first sample that is held
        self.end = 0  # behind the last sample that has arrived

    @property
    def heard(self) -> int:
        """The end of the last whole frame."""
        return self.end - self.end % FRAME

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The probability of speech in each whole frame from `start` on. [frames]"""
        return np.concatenate((self._final, self._vad.provisional))

    def push(self, samples: Samples) -> None:
        """Add the samples that follow."""
        if len(samples):
            samples = np.nan_to_num(samples)  # the network would hear nothing ever after
            self._blocks.append(samples)
            self._final = np.concatenate((self._final, self._vad.push(samples)))
            self.end += len(samples)
            self._arrivals.append((self.end, self._clock()))

    def pad(self) -> None:
        """Complete the last frame with silence, so that all that has arrived is heard."""
        self.push(np.zeros(-self.end % FRAME, np.float32))

    def part(self, start: int, end: int) -> AudioPart:
        """Return the whole frames from `start` to `end` that are held. Both are multiples of FRAME."""
        start, end = max(start, self.start), min(end, self.heard)
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        samples = self._blocks[0] if self._blocks else np.zeros(0, np.float32)
        first, last = start - self.start, max(start, end) - self.start
        return AudioPart(start, samples[first:last], self.probabilities[first // FRAME : last // FRAME])

    def release(self, before: int) -> None:
        """Forget the frames before a position, as far as their probabilities change no more."""
        count = min((before - self.start) // FRAME, len(self._final))
        if count <= 0:
            return
        samples = np.concatenate(self._blocks)[count * FRAME :]
        self._blocks = [samples.copy()]  # a view would keep what is forgotten
        self._final = self._final[count:].copy()
        self.start += count * FRAME
        del self._arrivals[: self._arrival_of(self.start)]

    def waited_s(self, position: int) -> float:
        """Return how many seconds ago the sample before a position has arrived."""
        if not self._arrivals:
            return 0.0
        _, arrived_at = self._arrivals[min(self._arrival_of(position), len(self._arrivals) - 1)]
        return self._clock() - arrived_at

    def _arrival_of(self, position: int) -> int:
        """Return the index of the first arrival whose block ends at a position or behind it."""
        return bisect_left(self._arrivals, position, key=lambda arrival: arrival[0])


def to_samples(seconds: float) -> int:
    """Return the number of samples in some seconds, rounded to whole frames."""
    return round(seconds * SAMPLE_RATE / FRAME) * FRAME
