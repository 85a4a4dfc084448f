"""Requests that tests make to a pipeline."""

import io

import numpy as np
import pytest

from handler.audio.source import AudioSource
from handler.audio.spool import Spool
from handler.errors import AsrError
from handler.schema.options import Options
from handler.transcription.pipeline import Pipeline
from tests.support.speech import SENTENCES, say, silence

# Samples of about a minute of speech.
STORY = np.concatenate([np.concatenate((say(text), silence(0.5))) for text in SENTENCES * 2])


def upload(data: bytes) -> AudioSource:
    """Return the source of an uploaded file."""
    return AudioSource(file=io.BytesIO(data))


async def error_of(pipeline: Pipeline, source: AudioSource, options: Options | None = None) -> AsrError:
    """Return the error that a request ends with."""
    with pytest.raises(AsrError) as caught:
        await pipeline.transcribe(source, options or Options())
    return caught.value


def growing_file(data: bytes) -> Spool:
    """Return a spool that holds a complete file."""
    spool = Spool(len(data))
    spool.write(data)
    spool.finish()
    return spool
