"""Transcribe a second of known speech before the first request. Knows no weights."""

import wave
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.schema.window import Samples, Window
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import letters

CHECK = Path(__file__).parent / "assets/check.wav"  # synthetic speech


CHECK_WORDS = ("good", "morning")


def self_test(pipeline: Pipeline, settings: Settings) -> None:
    """Decode a second of speech: what is set up at the first window is, and weights that understand nothing are found out."""
    window = Window(0, _samples(CHECK)).with_params(language="en")
    text = "".join(segment.text for segment in pipeline.runner.submit(CHECK, window).result().segments)
    pipeline.runner.cancel(CHECK)  # forget the request
    if settings.startup_check and not any(word in letters(text) for word in CHECK_WORDS):
        raise ModelUnavailable(
            f"MODEL_ID={settings.model_id}: it heard {text.strip()!r} where {' '.join(CHECK_WORDS)!r} is said; the weights are damaged, or "
            "the model knows no English (STARTUP_CHECK=0 starts it all the same)"
        )


def _samples(path: Path) -> Samples:
    """The samples of a 16-bit file at 16 kHz. [n]"""
    import numpy as np

    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(2**15)
