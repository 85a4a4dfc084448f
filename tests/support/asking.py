"""Requests to a pipeline as tests make them."""

import io

import numpy as np
import pytest

from handler.audio.source import AudioSource
from handler.errors import AsrError
from handler.schema.options import Options
from handler.transcription.pipeline import Pipeline
from tests.support.speech import SENTENCES, say, silence

STORY = np.concatenate([part for text in SENTENCES * 2 for part in (say(text), silence(0.5))])  # about a minute


def upload(data: bytes) -> AudioSource:
    return AudioSource(file=io.BytesIO(data))


async def refused(pipeline: Pipeline, source: AudioSource, options: Options | None = None) -> AsrError:
    with pytest.raises(AsrError) as caught:
        await pipeline.transcribe(source, options or Options())
    return caught.value
