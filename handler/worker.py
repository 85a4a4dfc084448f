"""The queue's door: importing it loads the model into device memory; `handler(event)` transcribes. Knows nothing of decoding."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from handler import logs
from handler.errors import AsrError, InvalidRequest
from handler.formats import render, to_json
from handler.pipeline import ProgressCallback
from handler.schema import AudioSource, Options, Transcript
from handler.sdk import sdk
from handler.settings import Settings
from handler.start import build
from handler.timeline import Timeline

SOURCES = {"url": "url", "audio_base64": "base64"}  # field of a job's input → field of AudioSource

settings = Settings.from_env(os.environ)
logs.configure(settings.log_level)
timeline = Timeline.of_process()


def _import_sdk() -> None:
    with timeline.span("import_sdk"):
        sdk()


pipeline = build(settings, timeline, beside=_import_sdk)


async def handler(event: Mapping[str, Any], progress: ProgressCallback | None = None) -> dict[str, Any]:
    """The transcript of one job, or its error as text under `error`, beginning with the stable code."""
    try:
        source, options = parse_job(event)
        return await asyncio.to_thread(answer, await pipeline.transcribe(source, options, progress), options)
    except AsrError as exc:
        logs.info("job_refused", job=event.get("id"), **exc.as_dict())
        return {"error": str(exc)}


def parse_job(event: Mapping[str, Any]) -> tuple[AudioSource, Options]:
    """What a job asks for. Raises InvalidRequest."""
    given = event.get("input")
    if not isinstance(given, Mapping):
        raise InvalidRequest("input must be an object with url or audio_base64")
    sources = {SOURCES[name]: value for name, value in given.items() if name in SOURCES and value is not None}
    if len(sources) != 1 or not all(isinstance(value, str) for value in sources.values()):
        raise InvalidRequest("input must have either url or audio_base64, as a string")
    return AudioSource(**sources), Options.parse({name: value for name, value in given.items() if name not in SOURCES})


def answer(transcript: Transcript, options: Options) -> dict[str, Any]:
    """The output of a job; a format that is text stands under `formatted` beside the object."""
    rendered = render(transcript, options.format)
    return {**to_json(transcript), "formatted": rendered} if isinstance(rendered, str) else rendered
