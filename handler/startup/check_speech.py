"""A second of known speech, for checks at the start. Knows no model."""

import wave
from pathlib import Path

from handler.schema.window import Samples

PATH = Path(__file__).parent / "assets/check.wav"  # synthetic speech
WORDS = ("good", "morning")


def check_speech() -> Samples:
    """Return its samples, of shape [n] and in [-1, 1], at 16 kHz."""
    import numpy as np

    with wave.open(str(PATH)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(2**15)
