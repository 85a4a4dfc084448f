"""How peers start: a server like Salad's asr-api, and a RunPod worker around faster-whisper.

Run as a program it is one of them.
"""

import base64
import os
import sys
import tempfile
from typing import Any


def asr_api(folder: str) -> None:
    """Serve the pipeline of `transformers` by FastAPI, loaded before it listens. Source: SaladTechnologies/asr-api."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

    model = AutoModelForSpeechSeq2Seq.from_pretrained(
        folder, dtype=torch.float32, low_cpu_mem_usage=True, use_safetensors=True
    )
    processor = AutoProcessor.from_pretrained(folder)
    recognizer = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        max_new_tokens=128,
        chunk_length_s=30,
        batch_size=16,
        return_timestamps=True,
        dtype=torch.float32,
        device="cpu",
    )
    app = FastAPI()

    @app.get("/hc")
    async def health() -> dict[str, str]:
        return {"status": "ok", "model": type(recognizer).__name__}

    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error")


def faster_whisper_worker(folder: str) -> None:
    """The SDK and a model loaded at import, a file for each job. Source: runpod-workers/worker-faster_whisper."""
    import runpod
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=int(os.environ["OMP_NUM_THREADS"]))

    def handler(job: dict[str, Any]) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(job["input"]["audio_base64"]))
            file.flush()
            segments, _ = model.transcribe(file.name, language="en", beam_size=1)
            return {"text": "".join(segment.text for segment in segments)}

    runpod.serverless.start({"handler": handler})


KINDS = {"asr-api": asr_api, "faster-whisper": faster_whisper_worker}

if __name__ == "__main__":
    KINDS[sys.argv[1]](sys.argv[2])
