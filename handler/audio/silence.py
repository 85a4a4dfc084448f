"""Loudness of samples: where to cut, and what is silent. Knows no network and no file."""

import numpy as np

from handler.schema.window import SAMPLE_RATE, Samples, Window

FRAME = SAMPLE_RATE // 100  # samples of one loudness reading: 10 ms


QUIET_FRAMES = 20  # a cut wants 200 ms of quiet around it


SILENCE_RMS = 1e-4  # −80 dBFS: below it nobody hears anything


MARGIN = SAMPLE_RATE // 5  # samples of silence kept before and after sound: 200 ms


def loudness(samples: Samples) -> Samples:
    """Root mean square of each whole frame of FRAME samples. [n // FRAME]"""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    levels: Samples = np.sqrt(np.einsum("ij,ij->i", frames, frames) / FRAME)
    return levels


def quietest_cut(samples: Samples, stride: int) -> int:
    """Where to cut: the middle of the quietest QUIET_FRAMES within the last `stride` samples, or the end where that is too short."""
    levels = loudness(samples[len(samples) - stride :])
    if len(levels) < QUIET_FRAMES:
        return len(samples)
    smooth = np.convolve(levels, np.ones(QUIET_FRAMES), "valid")
    return len(samples) - stride + (int(smooth.argmin()) + QUIET_FRAMES // 2) * FRAME


def trim_silence(window: Window) -> list[Window]:
    """The window without the silence at its two ends but for a margin; no window where it is silent throughout."""
    samples = window.samples
    padded = np.pad(samples, (0, -len(samples) % FRAME))
    sounding = np.flatnonzero(loudness(padded) > SILENCE_RMS)
    if not len(sounding):
        return []
    first = max(0, int(sounding[0]) * FRAME - MARGIN)
    last = min(len(samples), (int(sounding[-1]) + 1) * FRAME + MARGIN)
    return [window.part(window.start + first, window.start + last)]
