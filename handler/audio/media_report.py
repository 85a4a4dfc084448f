"""What a reader of media files finds out about a file, and how it is asked to read the file.

Knows no library that reads files.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.float32]  # samples [n, channels] at the sample rate of the file

MAX_CHANNELS = 8  # largest number of channels that can be split
BLOCK_S = 0.5  # seconds of audio read at a time; fixed, so that samples do not depend on when bytes arrive
CUT_OFF = "the file is cut off or damaged: what could be heard of it was transcribed"
DAMAGED = "parts of the file are damaged and were left out"


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How to read a file."""

    split: bool = False  # keep each channel apart instead of mixing all into one
    track: int | None = None  # number of the audio track, from 0; None: the one that a player would choose
    encoding: str | None = None  # of samples without a header, such as pcm_mulaw; None: the file has a header
    sample_rate: int | None = None  # Hz, of samples without a header
    channels: int = 1  # of samples without a header
    listen_from: int = 0  # samples at 16 kHz before which nobody has to know where there is speech


@dataclass(slots=True)
class MediaReport:
    """What is known of a file so far.

    `duration` is the duration in seconds that the container states. It is None if the container states none, and until
    the first block has been read. `warnings` holds a sentence for each defect, and is complete once all blocks are
    read.
    """

    duration: float | None = None
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning, unless it was added before."""
        if text not in self.warnings:
            self.warnings.append(text)
