"""Measure loudness, find quiet places to cut, and trim silence. Knows no network and no file."""

import numpy as np

from handler.schema.window import SAMPLE_RATE, Samples, Window

LEVEL_FRAME = SAMPLE_RATE // 100  # samples per loudness value: 10 ms
QUIET_FRAMES = 20  # a cut is made in the middle of the quietest stretch of this many frames: 200 ms
SILENCE_RMS = 1e-4  # −80 dBFS; sound below this level is inaudible
MARGIN = SAMPLE_RATE // 5  # samples of silence kept before and after sound: 200 ms


def loudness(samples: Samples) -> Samples:
    """Return the root mean square of each complete frame of LEVEL_FRAME samples. [n // LEVEL_FRAME]"""
    frames = samples[: len(samples) // LEVEL_FRAME * LEVEL_FRAME].reshape(-1, LEVEL_FRAME)
    levels: Samples = np.sqrt(np.einsum("ij,ij->i", frames, frames) / LEVEL_FRAME)
    return levels


def quietest_cut(samples: Samples, stride: int) -> int:
    """Return the index of the sample before which a cut is least likely to hit a word.

    This is the middle of the quietest QUIET_FRAMES consecutive frames among the last `stride` samples. If `stride` is
    shorter than QUIET_FRAMES frames, return the number of samples, which means no cut.
    """
    levels = loudness(samples[len(samples) - stride :])
    if len(levels) < QUIET_FRAMES:
        return len(samples)
    smooth = np.convolve(levels, np.ones(QUIET_FRAMES), "valid")
    return len(samples) - stride + (int(smooth.argmin()) + QUIET_FRAMES // 2) * LEVEL_FRAME


def trim_silence(window: Window) -> list[Window]:
    """Return a list with the window, without the silence at both ends. Return an empty list if all of it is silent.

    MARGIN samples of silence are kept before the first sound and after the last sound.
    """
    samples = window.samples
    padded = np.pad(samples, (0, -len(samples) % LEVEL_FRAME))
    audible = np.flatnonzero(loudness(padded) > SILENCE_RMS)
    if not len(audible):
        return []
    first = max(0, int(audible[0]) * LEVEL_FRAME - MARGIN)
    last = min(len(samples), (int(audible[-1]) + 1) * LEVEL_FRAME + MARGIN)
    return [window.part(window.start + first, window.start + last)]
