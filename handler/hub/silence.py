"""Silence around the audio of a window, for networks that hear better with it. Knows no network."""

from dataclasses import dataclass

import numpy as np

from handler.schema.window import SAMPLE_RATE, Samples


@dataclass(frozen=True, slots=True)
class Silence:
    """How much silence surrounds the audio: at least so much before and after it, up to a whole number of steps.

    Windows of about the same length then have equal lengths, and may share a batch of a network that padding disturbs.
    What a window gets does not depend on the others.
    """

    before_s: float
    after_s: float
    step_s: float

    def length(self, samples: int) -> int:
        """Return the length of audio of `samples` samples with the silence around it, in samples."""
        step = round(self.step_s * SAMPLE_RATE)
        return -(-(samples + round((self.before_s + self.after_s) * SAMPLE_RATE)) // step) * step

    def around(self, samples: Samples) -> Samples:
        """Return audio [n] with the silence around it. [length(n)]"""
        surrounded = np.zeros(self.length(len(samples)), np.float32)
        start = round(self.before_s * SAMPLE_RATE)
        surrounded[start : start + len(samples)] = samples
        return surrounded
