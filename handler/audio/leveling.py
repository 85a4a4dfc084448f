"""Choose the gain at which voice activity detection hears each frame. Knows no network and no file.

The network finds less and less of speech below about −50 dBFS. Quiet audio is therefore amplified for the network, and
for nothing else. Speech at an ordinary level keeps a gain of 1. Noise is not taken for speech at any gain that is
chosen here, because it is amplified to a level at which the network rejects it as well.
"""

import numpy as np
from numpy.typing import NDArray

from handler.schema.window import SAMPLE_RATE, Samples

TARGET_DB = -35.0  # level in dBFS of the loudest frames of the quietest speech that needs no gain
MAX_GAIN_DB = 40.0  # speech that needs more is hardly above the noise of converters and of 24-bit samples
FALL_DB_PER_S = 1.0  # slow: in the pauses of a near voice, a far one or crosstalk keeps its distance
SUSTAINED_FRAMES = 3  # a shorter sound is a click, and the frames after it keep their gain
_SILENCE = 1e-10  # lowest root mean square of a frame, so that it has a logarithm


class Leveler:
    """Follows the level of one stream of frames.

    The level of a frame depends only on that frame and on those before it, so the gains do not depend on how many
    frames come at once.
    """

    def __init__(self, frame: int) -> None:
        """Create a follower for frames of `frame` samples."""
        self._fall_db = FALL_DB_PER_S * frame / SAMPLE_RATE  # per frame
        self._level_db = -np.inf  # after the last frame
        self._recent_db = np.full(SUSTAINED_FRAMES - 1, -np.inf)  # root mean square of the last frames

    def gains(self, frames: Samples) -> NDArray[np.float32]:
        """Return the factors to multiply the frames that follow by, at least 1. frames [n, frame] → [n], n ≥ 1"""
        rms = np.sqrt(np.einsum("ij,ij->i", frames, frames) / frames.shape[1])
        rms_db = 20 * np.log10(np.maximum(rms, _SILENCE))
        level_db = np.maximum(self._follow(rms_db), rms_db)  # a click is not amplified, either
        gain_db = np.minimum(np.maximum(TARGET_DB - level_db, 0), MAX_GAIN_DB)
        gains: NDArray[np.float32] = (10 ** (gain_db / 20)).astype(np.float32)
        return gains

    def _follow(self, rms_db: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the level after each frame: it rises at once to that of a sustained sound, and falls slowly. [n]"""
        recent_db = np.concatenate((self._recent_db, rms_db))
        self._recent_db = recent_db[len(rms_db) :]
        sustained_db = np.minimum(np.minimum(recent_db[:-2], recent_db[1:-1]), rms_db)  # of SUSTAINED_FRAMES frames
        fallen_db = self._fall_db * np.arange(1, len(rms_db) + 1)
        peaks_db = np.maximum.accumulate(np.append(self._level_db, sustained_db + fallen_db))
        levels_db: NDArray[np.float64] = peaks_db[1:] - fallen_db
        self._level_db = levels_db[-1]
        return levels_db
