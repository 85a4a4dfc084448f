"""Parse the job object that the platform sends into a Job. Knows no engine and no SDK."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.jobs.faster_whisper_compat import CompatFormat, translate_input
from handler.jobs.object_store import Bucket, UploadTarget, parse_upload_url
from handler.schema.options import Options
from handler.settings import Settings
from handler.validators import check, one_of, short_repr, string

MAX_FILES = 1000  # in one job
MAX_TIMEOUT_MS = 1e12  # exclusive upper limit; a larger value can only be a mistake
UPLOAD_MODES = ("auto", "always")
_BUCKET_FIELDS = {
    "endpointUrl": "endpoint_url",
    "bucketName": "name",
    "accessId": "access_key_id",
    "accessSecret": "secret_access_key",
}  # field of s3Config: field of Bucket
_SOURCE_FIELDS = ("url", "urls", "audio_base64")
_NON_OPTION_FIELDS = (*_SOURCE_FIELDS, "upload", "upload_url")  # fields of a job's input that are not options


@dataclass(frozen=True, slots=True)
class Job:
    """A job's sources, options and time limit, and the destination of its result."""

    id: str
    sources: tuple[AudioSource, ...]
    is_list: bool  # whether the job has a list of files, so that its answer has a list of results
    options: Options
    compat_format: CompatFormat | None  # set if the answer also needs the fields of worker-faster_whisper
    limit_s: float  # seconds that the job may take; the platform enforces this timeout
    always_upload: bool  # whether to upload the result even if it is small enough to be sent
    upload_target: UploadTarget | None  # URL that the job names for a PUT of its result, if any
    bucket: Bucket | None  # the bucket that the job names for its result, if any


def parse_job(event: Mapping[str, Any], settings: Settings) -> Job:
    """Parse the job object that the platform sends. Raises InvalidRequest."""
    payload = event.get("input") if isinstance(event, Mapping) else None
    if not isinstance(payload, Mapping):
        raise InvalidRequest("input must be an object with url, urls or audio_base64")
    fields, compat_format = translate_input(payload, settings.model_id, settings.model_aliases)
    sources, is_list = _parse_sources(fields)
    return Job(
        id=job_id(event),
        sources=sources,
        is_list=is_list,
        options=Options.parse({name: value for name, value in fields.items() if name not in _NON_OPTION_FIELDS}),
        compat_format=compat_format,
        limit_s=_parse_limit(event.get("policy"), settings),
        always_upload=check("upload", fields.get("upload") or "auto", one_of(UPLOAD_MODES)) == "always",
        upload_target=_parse_upload_target(fields.get("upload_url")),
        bucket=_parse_bucket(event.get("s3Config")),
    )


def job_id(event: object) -> str:
    """Return the id of a job object, or "" if it has none. A malformed id is shortened, because it is only logged."""
    value = event.get("id") if isinstance(event, Mapping) else None
    if value is None:
        return ""
    return value if isinstance(value, str) else short_repr(value)


def _parse_sources(fields: Mapping[str, Any]) -> tuple[tuple[AudioSource, ...], bool]:
    """Return the audio sources of a job, and whether they were given as a list. Raises InvalidRequest."""
    values = {name: fields[name] for name in _SOURCE_FIELDS if fields.get(name) is not None}
    if len(values) != 1:
        raise InvalidRequest("input must have one of url, urls and audio_base64")
    ((name, value),) = values.items()
    if name == "urls":
        return tuple(AudioSource(url=url) for url in _parse_urls(value)), True
    text = check(name, value, string)
    source = AudioSource(url=text) if name == "url" else AudioSource(base64=text)
    return (source,), False


def _parse_urls(value: object) -> list[str]:
    is_valid = isinstance(value, list) and 0 < len(value) <= MAX_FILES and all(isinstance(url, str) for url in value)
    if not isinstance(value, list) or not is_valid:
        raise InvalidRequest(f"urls must be a list of 1 to {MAX_FILES} strings; got {_describe_type(value)}", "urls")
    return value


def _describe_type(value: object) -> str:
    """Describe an invalid list of URLs without repeating the URLs, because they may contain credentials."""
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__


def _parse_limit(policy: object, settings: Settings) -> float:
    """Return the time limit of a job in seconds.

    The limit is the `executionTimeout` of the job's policy, or the setting EXECUTION_TIMEOUT_S if the policy has none.
    Raises InvalidRequest. Source: RunPod, docs/serverless/endpoints/job-operations, execution policies.
    """
    timeout_ms = policy.get("executionTimeout") if isinstance(policy, Mapping) else None
    if timeout_ms is None:
        return settings.execution_timeout_s
    is_number = isinstance(timeout_ms, int | float) and not isinstance(timeout_ms, bool)
    if not is_number or not 0 < timeout_ms < MAX_TIMEOUT_MS:
        message = f"policy.executionTimeout must be milliseconds; got {short_repr(timeout_ms)}"
        raise InvalidRequest(message, "policy.executionTimeout")
    return float(timeout_ms / 1000)


def _parse_upload_target(url: object) -> UploadTarget | None:
    return None if url is None else parse_upload_url(check("upload_url", url, string))


def _parse_bucket(config: object) -> Bucket | None:
    if config is None:
        return None
    if not isinstance(config, Mapping) or not all(_is_text(config.get(name)) for name in _BUCKET_FIELDS):
        raise InvalidRequest(f"s3Config must be an object with {', '.join(_BUCKET_FIELDS)}, each a string", "s3Config")
    return Bucket(**{own_name: config[name] for name, own_name in _BUCKET_FIELDS.items()})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)
