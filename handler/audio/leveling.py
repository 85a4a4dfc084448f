"""Choose the gain at which voice activity detection hears each frame. Knows no network and no file.

The network finds less and less of speech below about −50 dBFS. Quiet audio is therefore amplified for the network, and
for nothing else. Speech at an ordinary level keeps a gain of 1. Noise is not taken for speech at any gain that is
chosen here, because it is amplified to a level at which the network rejects it as well.
"""

import numpy as np
from numpy.typing import NDArray

from handler.schema.window import SAMPLE_RATE, Samples

TARGET_RMS = 10 ** (-35 / 20)  # −35 dBFS: the level of the loudest frames of the quietest speech that needs no gain
MAX_GAIN = 10 ** (40 / 20)  # 40 dB; speech that needs more is hardly above the noise of 24-bit samples and converters
FALL_DB_PER_S = 1.0  # slow: in the pauses of a near voice, a far one or crosstalk keeps its distance
SUSTAINED_FRAMES = 3  # a sound that is shorter than this is a click, and the frames after it keep their gain


class Leveler:
    """Follows the level of one stream of frames.

    The level of a frame depends only on that frame and on those before it, so the gains do not depend on how many
    frames come at once.
    """

    def __init__(self, frame: int) -> None:
        """Create a follower for frames of `frame` samples."""
        self._fall = 10 ** (-FALL_DB_PER_S * frame / SAMPLE_RATE / 20)  # factor per frame
        self._level = 0.0
        self._recent = [0.0] * SUSTAINED_FRAMES  # root mean square of the last frames

    def gains(self, frames: Samples) -> NDArray[np.float32]:
        """Return the factor, from 1 to MAX_GAIN, for each of the frames that follow. frames [n, frame] → [n]"""
        levels = np.sqrt(np.einsum("ij,ij->i", frames, frames) / frames.shape[1])
        followed = [self._follow(level) for level in levels.tolist()]
        return np.clip(TARGET_RMS / np.maximum(followed, TARGET_RMS / MAX_GAIN), 1, MAX_GAIN).astype(np.float32)

    def _follow(self, level: float) -> float:
        """Return the level to amplify a frame by: its own, or that of louder frames shortly before it."""
        self._recent = [*self._recent[1:], level]
        self._level = max(self._level * self._fall, min(self._recent))
        return max(self._level, level)
