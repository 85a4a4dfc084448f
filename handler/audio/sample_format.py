"""Bounds on the sample rate, the channels and the blocks of media files, and the scale of float samples.

Knows no library that reads files.
"""

import numpy as np

from handler.audio.media_report import BLOCK_S, Planes
from handler.errors import UnsupportedMedia

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000  # Hz
MAX_FILE_CHANNELS = 64
MAX_BLOCK_SAMPLES = 2**20  # of all channels together
_INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)  # full scale of 16, 24 and 32-bit integers
_MAX_OVERSHOOT = 8.0  # louder float samples are not the work of a careless mix: their full scale is not 1
_LOUD_SHARE = 0.001  # of the samples of a block; so many may be damaged without an effect on the scale


def check_sample_format(sample_rate: int, channels: int) -> None:
    """Raise UnsupportedMedia if a file states a sample rate in Hz or a number of channels that no recorder writes."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        limits = f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
        raise UnsupportedMedia(f"expected a sample rate of {limits}; the file states {sample_rate} Hz")
    if not 1 <= channels <= MAX_FILE_CHANNELS:
        raise UnsupportedMedia(f"expected 1 to {MAX_FILE_CHANNELS} channels; the file states {channels}")


def count_block_frames(sample_rate: int, channels: int) -> int:
    """Return the number of frames to read at a time: BLOCK_S seconds, or fewer if there are many channels."""
    return max(1, min(int(BLOCK_S * sample_rate), MAX_BLOCK_SAMPLES // channels))


class FloatScaler:
    """Scales the float samples of one file such that full scale is 1.

    Some programs write integers as floats, with a full scale of 32768 for example. The scale is a power of two that is
    found from the loudest samples so far, so it grows only. Damaged bytes are floats of any size, so a few samples have
    no effect on it, and what exceeds it by far is clipped.
    """

    def __init__(self) -> None:
        self._full_scale = 1.0

    def scale(self, planes: Planes) -> Planes:
        """Return the samples divided by the full scale. NaN becomes 0. [n, channels]"""
        peak = np.abs(planes).max(initial=0.0)
        if not np.isfinite(peak):
            planes = np.nan_to_num(planes, nan=0.0)
            peak = np.abs(planes).max(initial=0.0)
        if peak > self._full_scale:
            self._full_scale = max(self._full_scale, _find_full_scale(planes))
            limit = np.float32(self._full_scale * _MAX_OVERSHOOT)
            planes = np.clip(planes, -limit, limit)
        return planes if self._full_scale == 1.0 else planes / np.float32(self._full_scale)


def _find_full_scale(planes: Planes) -> float:
    """Return the full scale of samples, some of which exceed 1."""
    peak = float(np.quantile(np.abs(planes), 1.0 - _LOUD_SHARE, method="higher"))
    if 1.0 < peak <= _INTEGER_SCALES[-1] and np.array_equal(planes, np.rint(planes)):
        return next(scale for scale in _INTEGER_SCALES if scale >= peak)
    if _MAX_OVERSHOOT < peak <= _INTEGER_SCALES[-1]:
        return float(2.0 ** np.ceil(np.log2(peak)))
    return 1.0
