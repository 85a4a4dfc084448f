"""Read what a request to `POST /asr` or `POST /jobs` asks for. Knows no pipeline and no response."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.schema.options import Options
from handler.validators import check, string
from local_server.uploads.fields import join_arrays
from local_server.uploads.multipart import FILE_FIELD
from local_server.uploads.raw_samples import options_of_type
from local_server.uploads.request_body import BINARY, FORM, JSON, RequestBody

CALLBACK_URL = "callback_url"  # of a job
LARGE_BYTES = 64 * 1024  # of JSON, whose parsing takes a moment


async def parse_asr_request(body: RequestBody, query: Mapping[str, str]) -> tuple[AudioSource, Options]:
    """Return the audio source and the options of a request to `POST /asr`.

    The request's content type decides how the body is read. An option in a JSON body or a form overrides the same
    option in `query`. Raises AsrError.
    """
    source, values = await _read(body, query)
    if CALLBACK_URL in values:
        raise InvalidRequest(f"{CALLBACK_URL} must be sent to POST /jobs, which takes the same requests", CALLBACK_URL)
    return source, Options.parse(values)


async def parse_job_request(body: RequestBody, query: Mapping[str, str]) -> tuple[AudioSource, Options, str | None]:
    """Return the audio source, the options and the webhook of a request to `POST /jobs`. Raises AsrError.

    Its body is like that of `POST /asr`.
    """
    source, values = await _read(body, query)
    url = values.pop(CALLBACK_URL, None)
    return source, Options.parse(values), None if url is None else check(CALLBACK_URL, url, string)


async def _read(body: RequestBody, query: Mapping[str, str]) -> tuple[AudioSource, dict[str, Any]]:
    """Return the audio source of a body, and the values of all other fields."""
    media_type = body.media_type
    if media_type == JSON:
        content = await body.read_all()
        if len(content) > LARGE_BYTES:
            return await asyncio.to_thread(_parse_json, content, query)
        return _parse_json(content, query)
    if body.form is not None:
        if not body.form.has_file:
            raise InvalidRequest(f"the form must have a part named {FILE_FIELD}, with a file name")
        values = {**options_of_type(body.form.file_type), **query, **join_arrays(body.form.fields)}
        return AudioSource(growing=body.spool), values
    if not media_type or media_type == BINARY or media_type.startswith(("audio/", "video/")):
        return AudioSource(growing=body.spool), {**options_of_type(body.content_type), **query}
    expected = f"{JSON}, {FORM}, audio/*, video/* or {BINARY}"
    raise InvalidRequest(f"content type {media_type[:60]!r}: expected {expected}")


def _parse_json(content: bytes, query: Mapping[str, str]) -> tuple[AudioSource, dict[str, Any]]:
    try:
        fields: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidRequest('the body must be JSON such as {"url": "https://…/audio.mp3"}; it is not JSON') from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"the body must be a JSON object with url; got {type(fields).__name__}")
    url = fields.pop("url", None)
    if not isinstance(url, str):
        raise InvalidRequest("the body must have url, as a string")
    return AudioSource(url=url), {**query, **fields}
