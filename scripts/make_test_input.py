"""Write test_input.json: one spoken sentence as base64, made by the voice that the package hibari-tts carries (Apache-2.0)."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import soundfile
import soxr
from hibari import Hibari

TEXT = "The quick brown fox jumps over the lazy dog, and the engine writes down every word."


def main() -> None:
    """Speak, encode as Ogg Vorbis at 16 kHz, write."""
    samples = soxr.resample(Hibari()(TEXT, seed=0), 24_000, 16_000)
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), 16_000, format="OGG", subtype="VORBIS")
    event = {"input": {"audio_base64": base64.b64encode(file.getvalue()).decode(), "language": "en"}}
    (Path(__file__).parent.parent / "test_input.json").write_text(json.dumps(event) + "\n")


if __name__ == "__main__":
    main()
