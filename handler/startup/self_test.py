"""Decode a second of known speech before the first request. Knows no weights."""

import wave
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.schema.window import Samples, Window
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import letters_and_digits

CHECK = Path(__file__).parent / "assets/check.wav"  # synthetic speech
CHECK_WORDS = ("good", "morning")


def self_test(pipeline: Pipeline, settings: Settings) -> None:
    """Decode a second of speech, which also triggers the setup that an engine does for its first window.

    Raises ModelUnavailable if the model recognizes none of the spoken words, unless the settings disable this check.
    """
    window = Window(0, _samples(CHECK)).with_params(language="en")
    text = "".join(segment.text for segment in pipeline.runner.submit(CHECK, window).result().segments)
    pipeline.runner.cancel(CHECK)  # otherwise the runner would keep the usage record of this test
    if settings.startup_check and not any(word in letters_and_digits(text) for word in CHECK_WORDS):
        mismatch = f"it heard {text.strip()!r} where {' '.join(CHECK_WORDS)!r} is said"
        advice = "the weights are damaged, or the model knows no English (STARTUP_CHECK=0 starts it all the same)"
        raise ModelUnavailable(f"MODEL_ID={settings.model_id}: {mismatch}; {advice}")


def _samples(path: Path) -> Samples:
    """Return the samples, of shape [n] and in [-1, 1], of a mono 16-bit WAV file at 16 kHz."""
    import numpy as np

    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(2**15)
