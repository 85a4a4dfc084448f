"""Write the speech that the product carries, by the voice that the package hibari-tts carries (Apache-2.0).

test_input.json is one sentence as base64, and .runpod/tests.json sends it; handler/startup/assets/check.wav is a second
of speech that a starting process tries its model with.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
import soundfile
import soxr
from hibari import Hibari
from numpy.typing import NDArray

from handler.schema.window import SAMPLE_RATE
from handler.startup.check_speech import PATH, WORDS

ROOT = Path(__file__).parents[2]
TEXT = "The quick brown fox jumps over the lazy dog, and the engine writes down every word."


def main() -> None:
    """Speak, encode at 16 kHz, write."""
    file = io.BytesIO()
    soundfile.write(file, _spoken(TEXT), SAMPLE_RATE, format="OGG", subtype="VORBIS")
    event = {"input": {"audio_base64": base64.b64encode(file.getvalue()).decode(), "language": "en"}}
    (ROOT / "test_input.json").write_text(json.dumps(event) + "\n")
    (ROOT / ".runpod/tests.json").write_text(json.dumps(hub_tests(event["input"]), indent=2) + "\n")
    soundfile.write(PATH, _spoken(f"{' '.join(WORDS).capitalize()}."), SAMPLE_RATE, subtype="PCM_16")


def hub_tests(job: dict[str, str]) -> dict[str, object]:
    """What RunPod's Hub sends to a release; that the model understands is checked before it takes jobs."""
    config = {
        "gpuTypeId": "NVIDIA GeForce RTX 4090",
        "gpuCount": 1,
        "env": [{"key": "MODEL_ID", "value": "openai/whisper-large-v3-turbo"}],
        "allowedCudaVersions": json.loads((ROOT / ".runpod/hub.json").read_text())["config"]["allowedCudaVersions"],
    }
    tests = [
        {"name": name, "input": {**job, **options}, "timeout": 60_000}
        for name, options in (("transcribe", {}), ("words_as_subtitles", {"timestamps": "word", "format": "srt"}))
    ]
    return {"tests": tests, "config": config}


def _spoken(text: str) -> NDArray[np.float32]:
    samples = soxr.resample(Hibari()(text, seed=0), 24_000, SAMPLE_RATE)
    return np.asarray(np.clip(samples, -1, 1), np.float32)


if __name__ == "__main__":
    main()
