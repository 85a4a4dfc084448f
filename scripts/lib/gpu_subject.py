"""The worker that scripts/gpu_check examines: a pipeline that is ready, and speech of known words."""

import asyncio
import io
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from handler.audio.source import AudioSource
from handler.schema.options import Options
from handler.schema.transcript import Transcript
from handler.schema.window import SAMPLE_RATE, Samples
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline
from handler.whisper.engine import WhisperEngine
from scripts.lib.gpu_facts import device_facts
from tests.support.speech import FOX, PANGRAM, SENTENCES, container, say, silence, wav
from tests.support.word_errors import count_word_errors

TEXTS = (FOX, PANGRAM, *SENTENCES)
TEXTS_CPU = TEXTS[:3]


@dataclass
class Subject:
    """A worker that is ready on a device."""

    pipeline: Pipeline
    settings: Settings
    start_s: dict[str, float]

    @property
    def engine(self) -> WhisperEngine:
        """The engine of the worker. Only for use while no request is in work."""
        return cast("WhisperEngine", self.pipeline.engine)

    @property
    def device(self) -> torch.device:
        """The device that the engine computes on."""
        return self.engine._device

    @property
    def is_gpu(self) -> bool:
        """Whether that is a GPU. On a processor, everything is done on a smaller scale."""
        return self.device.type == "cuda"

    def facts(self) -> dict[str, Any]:
        """Return facts of the device and of what was chosen for it."""
        chosen = {
            "dtype": self.engine.dtype_name,
            "attention": self.engine.attention,
            "rows": self.engine.max_batch_size,
            "graphs": self.engine.has_graphs,
        }
        return device_facts(self.device) | chosen

    @property
    def texts(self) -> tuple[str, ...]:
        """What is said in the clips."""
        return TEXTS if self.is_gpu else TEXTS_CPU

    @cached_property
    def clips(self) -> list[bytes]:
        """Each text as a file."""
        return [wav(say(text), format="FLAC") for text in self.texts]

    def story(self, seconds: float) -> Samples:
        """Return the texts one after another, again and again, at least `seconds` long."""
        parts: list[Samples] = []
        while sum(map(len, parts)) < seconds * SAMPLE_RATE:
            for text in TEXTS:
                parts += [say(text), silence(0.5)]
        return np.concatenate(parts)

    def transcribe(self, files: Sequence[bytes], clients: int = 1) -> list[Transcript]:
        """Transcribe files for so many clients, each of which sends its next file when it has an answer."""
        return asyncio.run(self._transcribe(files, clients))

    async def _transcribe(self, files: Sequence[bytes], clients: int) -> list[Transcript]:
        free = asyncio.Semaphore(clients)

        async def one(file: bytes) -> Transcript:
            async with free:
                return await self.pipeline.transcribe(AudioSource(file=io.BytesIO(file)), Options(language="en"))

        waiting: list[Coroutine[Any, Any, Transcript]] = [one(file) for file in files]
        return await asyncio.gather(*waiting)

    def word_errors(self) -> float:
        """Return the word error rate of the texts, as a fraction."""
        heard = [transcript.text for transcript in self.transcribe(self.clips, clients=len(self.clips))]
        return float(count_word_errors(list(self.texts), heard).wer)

    def close(self) -> None:
        """End the worker."""
        self.pipeline.close()


def load(settings: Settings) -> Subject:
    """Start a worker in this process. Raises what a start raises."""
    timeline = Timeline()
    pipeline = build(settings, timeline)
    return Subject(pipeline, settings, {span.name: round(span.seconds, 3) for span in timeline.spans()})


def as_mp3(samples: Samples) -> bytes:
    """Return an mp3 file."""
    return container(samples, "mp3", "libmp3lame", 44_100)
