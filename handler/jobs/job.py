"""A job of the queue: the platform's object to ours. Knows no engine and no SDK."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.jobs.faster_whisper_compat import CompatFormat, taken
from handler.jobs.object_store import Bucket, UploadTarget, place_at
from handler.schema.options import Options
from handler.settings import Settings
from handler.validators import one_of, short_repr, string

MOST_FILES = 1000  # of one job
UPLOADS = ("auto", "always")
_S3 = {"endpointUrl": "endpoint_url", "bucketName": "name", "accessId": "access_key_id", "accessSecret": "secret_access_key"}
_FIELDS = ("url", "urls", "audio_base64", "upload", "upload_url")  # of a job's input that are no options


@dataclass(frozen=True, slots=True)
class Job:
    """What a job asks for."""

    id: str
    sources: tuple[AudioSource, ...]
    many: bool  # it gave a list, and wants one
    options: Options
    shape: CompatFormat | None  # as which other worker's answer it reads ours
    limit_s: float  # that the platform gives it
    upload_always: bool  # its result goes to a bucket, whatever its size
    upload_to: UploadTarget | None  # takes the result by PUT
    bucket: Bucket | None  # its own


def parse_job(event: Mapping[str, Any], settings: Settings) -> Job:
    """What a job asks for. Raises InvalidRequest."""
    given = event.get("input")
    if not isinstance(given, Mapping):
        raise InvalidRequest("input must be an object with url, urls or audio_base64")
    fields, shape = taken(given, settings.model_id, settings.model_aliases)
    sources, many = _sources(fields)
    upload_url = fields.get("upload_url")
    return Job(
        id=str(event.get("id", "")),
        sources=sources,
        many=many,
        options=Options.parse({name: value for name, value in fields.items() if name not in _FIELDS}),
        shape=shape,
        limit_s=_limit(event.get("policy"), settings),
        upload_always=one_of(UPLOADS)("upload", fields.get("upload") or "auto") == "always",
        upload_to=None if upload_url is None else place_at(string("upload_url", upload_url)),
        bucket=_bucket(event.get("s3Config")),
    )


def _sources(fields: Mapping[str, Any]) -> tuple[tuple[AudioSource, ...], bool]:
    found = {name: fields[name] for name in ("url", "urls", "audio_base64") if fields.get(name) is not None}
    if len(found) != 1:
        raise InvalidRequest("input must have one of url, urls and audio_base64")
    ((name, value),) = found.items()
    if name == "urls":
        if not isinstance(value, list) or not 0 < len(value) <= MOST_FILES or not all(isinstance(url, str) for url in value):
            raise InvalidRequest(f"urls must be a list of 1 to {MOST_FILES} strings; got {_kind(value)}", "urls")
        return tuple(AudioSource(url=url) for url in value), True
    value = string(name, value)
    return (AudioSource(url=value) if name == "url" else AudioSource(base64=value),), False


def _kind(value: object) -> str:
    """What came instead of a list of addresses, without them: they may hold credentials."""
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _limit(policy: object, settings: Settings) -> float:
    """Seconds that a job may take. Source: RunPod, docs/serverless/endpoints/job-operations, execution policies."""
    given = policy.get("executionTimeout") if isinstance(policy, Mapping) else None
    if given is None:
        return settings.execution_timeout_s
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < 1e12:
        raise InvalidRequest(f"policy.executionTimeout must be milliseconds; got {short_repr(given)}", "policy.executionTimeout")
    return given / 1000


def _bucket(given: object) -> Bucket | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or not all(isinstance(given.get(name), str) and given[name] for name in _S3):
        raise InvalidRequest(f"s3Config must be an object with {', '.join(_S3)}, each a string", "s3Config")
    return Bucket(**{own: given[name] for name, own in _S3.items()})
