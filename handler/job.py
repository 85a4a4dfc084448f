"""A job of the queue and its answer: the platform's objects to ours and back. Knows no engine and no SDK."""

from collections.abc import Mapping
from typing import Any

from handler.errors import InvalidRequest
from handler.formats import render, to_json
from handler.schema import AudioSource, Options, Transcript

SOURCES = {"url": "url", "audio_base64": "base64"}  # field of a job's input → field of AudioSource


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
