"""Mix the channels of a recording, or keep them apart. Knows no file and no format."""

import numpy as np
from numpy.typing import NDArray

from handler.audio.media_report import Planes

_DECISION_S = 0.5  # seconds for which the channels are weighted alike
_FADE_S = 0.02  # seconds in which weights change, so that no click is heard
_INVERTED = -0.7  # correlation of two channels at which their sum loses most of what both have
_INERTIA = 2.0  # a channel must have so many times the energy of the one in use to replace it


class ChannelMixer:
    """Mixes the channels of one recording to their mean.

    Two channels that carry the same signal with opposite signs, as a balanced microphone at a stereo input does, would
    cancel each other. The quieter of them is left out as long as they do.
    """

    def __init__(self) -> None:
        self._weights: NDArray[np.float32] | None = None  # of the samples before [channels]

    def mix(self, planes: Planes, sample_rate: int) -> Planes:
        """Return the mix of the next samples. [n, channels] → [n, 1]"""
        if planes.shape[1] == 1:
            self._weights = None
            return planes
        if self._weights is not None and len(self._weights) != planes.shape[1]:
            self._weights = None
        size = max(1, int(_DECISION_S * sample_rate))
        fade = int(_FADE_S * sample_rate)
        parts = [planes[start : start + size] for start in range(0, len(planes), size)]
        mixed = [self._mix_part(np.ascontiguousarray(part.T), fade) for part in parts]
        return np.concatenate(mixed)[:, None] if mixed else np.zeros((0, 1), np.float32)

    def _mix_part(self, channels: NDArray[np.float32], fade: int) -> NDArray[np.float32]:
        """Return the mix of channels. [channels, n] → [n]"""
        last, weights = self._weights, self._choose_weights(channels)
        self._weights = weights
        mixed: NDArray[np.float32] = weights @ channels
        if last is not None and not np.array_equal(last, weights):
            start = channels[:, :fade]
            share = np.linspace(0.0, 1.0, start.shape[1], dtype=np.float32)
            mixed[:fade] = share * mixed[:fade] + (1 - share) * (last @ start)
        return mixed

    def _choose_weights(self, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return equal weights for all channels but those that a louder one would cancel. [channels, n] → [channels]"""
        total = channels.sum(axis=1, dtype=np.float64)
        covariance = (channels @ channels.T).astype(np.float64) - np.outer(total, total) / channels.shape[1]
        energy = covariance.diagonal().clip(0.0)
        norm = np.sqrt(np.outer(energy, energy))
        inverted = (norm > 0) & (covariance < _INVERTED * norm)  # rounding makes silence vary with itself
        kept = np.ones(len(energy), bool)
        if inverted.any():
            was_kept = np.zeros(len(energy), bool) if self._weights is None else self._weights > 0
            for channel in np.argsort(-energy * np.where(was_kept, _INERTIA, 1.0), kind="stable"):
                if kept[channel]:
                    kept &= ~inverted[channel]
        weights: NDArray[np.float32] = (kept / kept.sum()).astype(np.float32)
        return weights


def pad_channels(planes: Planes, count: int) -> Planes:
    """Return the first `count` channels. Silent channels are added if `planes` has fewer. [n, count]"""
    return np.pad(planes[:, :count], ((0, 0), (0, max(0, count - planes.shape[1]))))
