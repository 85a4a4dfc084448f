"""Deliver answers to the platform. Knows no engine and no SDK.

An answer is sent as it is, unless it is too large or the job asks for an upload. Such an answer is uploaded, and a
summary with the URL of the upload is sent instead.
"""

import asyncio
import hashlib
from typing import Any
from urllib.parse import quote

from handler.audio.transfer_thread import run_transfer
from handler.errors import TooLarge, UploadFailed
from handler.jobs.job import Job
from handler.jobs.object_store import Bucket, UploadTarget, upload
from handler.output.json_encoding import encode_json, to_jsonable
from handler.settings import Settings

UPLOAD_TIMEOUT_S = 300.0  # for one result
MAX_NAME_CHARS = 500  # of an object in a bucket; a longer one is replaced by its hash
MAX_WARNINGS = 20  # and as many gaps, in a truncated summary
ENVELOPE_BYTES = 1000  # more than the SDK adds around an answer
GROWING_FIELDS = (
    "chunks",
    "segments",
    "word_timestamps",
    "results",
    "formatted",
    "transcription",
    "translation",
)  # fields whose size grows with the audio


async def deliver(
    answer: dict[str, Any], job: Job, settings: Settings, limit_bytes: int | None = None, may_inline: bool = True
) -> dict[str, Any]:
    """Return the answer if it can be sent. Otherwise, upload it and return a summary with the URL of the upload.

    An answer can be sent if it is not longer than the setting MAX_RESULT_BYTES and `limit_bytes`. If `limit_bytes` is
    None, only the setting counts. `may_inline` is False if the answer must not be sent, because parts of it have been
    sent before and leave too little room. Raises AsrError, such as TooLarge if there is no place for an upload.
    """
    max_bytes = min(limit_bytes or settings.max_result_bytes, settings.max_result_bytes) - ENVELOPE_BYTES
    content, body = await asyncio.to_thread(_encode, answer)
    if may_inline and len(body) <= max_bytes and not job.always_upload:
        return content
    target = await asyncio.to_thread(_choose_target, job, settings)
    if target is None:
        raise _without_bucket(job, len(body), max_bytes)
    timeout_s = min(UPLOAD_TIMEOUT_S, job.limit_s)
    try:
        await run_transfer(lambda transfer: upload(body, target, transfer), timeout_s)
    except TimeoutError:
        raise UploadFailed(f"the result was not taken within {timeout_s:g} s") from None
    result = {"url": target.read_url, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    summary = {name: value for name, value in content.items() if name not in GROWING_FIELDS} | {"result": result}
    return await asyncio.to_thread(truncate_to, summary, max_bytes)


def _encode(answer: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    content = to_jsonable(answer)
    return content, encode_json(content)


def _without_bucket(job: Job, result_bytes: int, max_bytes: int) -> TooLarge:
    expected = "upload_url, s3Config or the BUCKET_ variables"
    if job.always_upload:
        return TooLarge(f"the result is to be uploaded, and there is no bucket; expected {expected}")
    size = f"the result has {result_bytes} bytes, and {max_bytes} can be sent"
    return TooLarge(f"{size}; expected a bucket for it: {expected}")


def _choose_target(job: Job, settings: Settings) -> UploadTarget | None:
    """Return a target at the URL or in the bucket that the job names, or else in the bucket of the settings.

    Return None if neither the job nor the settings name a place. Raises InvalidRequest if the bucket cannot be used.
    """
    if job.upload_target is not None:
        return job.upload_target
    key = _object_key(job.id)
    if job.bucket is not None:
        return job.bucket.sign_target(key, is_guarded=True)
    url, name = settings.bucket_endpoint_url, settings.bucket_name
    key_id, secret = settings.bucket_access_key_id, settings.bucket_secret_access_key
    if url is None or name is None or key_id is None or secret is None:  # the settings have either all of them or none
        return None
    return Bucket(url, name, key_id, secret, settings.bucket_region).sign_target(key, is_guarded=False)


def _object_key(job_id: str) -> str:
    """Return the key under which the result of a job is stored. S3 allows 1024 bytes."""
    name = quote(job_id, safe="", errors="backslashreplace") or "job"
    if len(name) > MAX_NAME_CHARS:
        name = hashlib.sha256(name.encode()).hexdigest()
    return f"results/{name}.json"


def truncate_to(summary: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Shorten the text of a summary so that the summary has at most `max_bytes` bytes as JSON.

    If the fields besides the text take more than half of `max_bytes`, also keep only the first MAX_WARNINGS warnings
    and the first MAX_WARNINGS gaps.
    """
    if len(encode_json(summary)) <= max_bytes:
        return summary
    truncated = {**summary, "text": "", "text_truncated": True}
    if len(encode_json(truncated)) > max_bytes // 2:
        coverage = truncated.get("coverage", {})
        truncated["warnings"] = truncated.get("warnings", [])[:MAX_WARNINGS]
        truncated["coverage"] = {**coverage, "gaps": coverage.get("gaps", [])[:MAX_WARNINGS]}
    text = summary.get("text", "")
    text_bytes = max(0, max_bytes - len(encode_json(truncated)))
    while text and (size := len(encode_json(text))) > text_bytes:
        text = text[: min(len(text) - 1, len(text) * text_bytes // size)]
    return {**truncated, "text": text}
