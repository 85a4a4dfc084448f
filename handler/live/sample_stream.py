"""Make samples at 16 kHz of bytes that arrive in pieces of any size. Knows no protocol."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from handler.schema.window import SAMPLE_RATE, Samples

PCM16, MU_LAW, A_LAW = "pcm_s16le", "pcm_mulaw", "pcm_alaw"
SAMPLE_BYTES = {PCM16: 2, MU_LAW: 1, A_LAW: 1}


def _mu_law_table() -> NDArray[np.float32]:
    """Return the sample that each byte of µ-law stands for. Source: ITU-T G.711, table 2a."""
    code = ~np.arange(256) & 0xFF
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768).astype(np.float32)


def _a_law_table() -> NDArray[np.float32]:
    """Return the sample that each byte of A-law stands for. Source: ITU-T G.711, table 1a."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, code & 15
    linear = (mantissa << 4) + 8
    magnitude = np.where(exponent > 0, (linear + 0x100) << np.maximum(exponent - 1, 0), linear)
    return (np.where(code & 0x80, magnitude, -magnitude) / 32768).astype(np.float32)


_TABLES = {MU_LAW: _mu_law_table(), A_LAW: _a_law_table()}


class SampleStream:
    """Turns the bytes of one stream of one channel into samples."""

    def __init__(self, encoding: str, rate: int) -> None:
        """Expect samples of an encoding, which is a key of SAMPLE_BYTES, at `rate` Hz."""
        self.encoding = encoding
        self.rate = rate
        self._incomplete = b""  # the first bytes of a sample
        self._resampler: Any = None

    def slices(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes that follow in slices of at most a second, so that nothing works long on one."""
        size = self.rate * SAMPLE_BYTES[self.encoding]
        return (data[start : start + size] for start in range(0, len(data), size))

    def push(self, data: bytes) -> Samples:
        """Return the samples that are complete with the bytes that follow."""
        data = self._incomplete + data
        size = SAMPLE_BYTES[self.encoding]
        count = len(data) // size * size
        self._incomplete = data[count:]
        return self._resample(self._decode(data[:count]), is_last=False)

    def flush(self) -> Samples:
        """Return what the resampler holds back. What follows then is a stream of its own."""
        samples = self._resample(np.zeros(0, np.float32), is_last=True)
        self._resampler = None
        return samples

    def _decode(self, data: bytes) -> Samples:
        if self.encoding == PCM16:
            return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
        return _TABLES[self.encoding][np.frombuffer(data, np.uint8)]

    def _resample(self, samples: Samples, *, is_last: bool) -> Samples:
        if self.rate == SAMPLE_RATE or (is_last and self._resampler is None):
            return samples
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32")
        resampled: Samples = self._resampler.resample_chunk(samples, last=is_last)
        return resampled
