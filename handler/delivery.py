"""Answers that arrive: measured as they will be sent, and taken to a bucket where they are too large or a job asks for it.

Knows no engine and no SDK.
"""

import asyncio
import hashlib
from typing import Any
from urllib.parse import quote

from handler.errors import TooLarge
from handler.job import Job
from handler.sendable import encoded, sendable
from handler.settings import Settings
from handler.upload import Bucket, Place, place_at, upload

ENVELOPE = 1000  # bytes that stand around an answer
LONG = ("chunks", "segments", "word_timestamps", "results", "formatted", "transcription", "translation")  # fields that grow with the audio


async def deliver(answer: dict[str, Any], job: Job, settings: Settings) -> dict[str, Any]:
    """The answer as it can be sent; where that is too much, its short form with the place of the whole. Raises AsrError."""
    return await asyncio.to_thread(_delivered, answer, job, settings)


def _delivered(answer: dict[str, Any], job: Job, settings: Settings) -> dict[str, Any]:
    plain: dict[str, Any] = sendable(answer)
    body = encoded(plain)
    room = settings.max_result_bytes - ENVELOPE
    if len(body) <= room and not job.upload_always:
        return plain
    place = _place(job, settings)
    if place is None:
        named = "upload_url, s3Config or the BUCKET_ variables"
        if job.upload_always:
            raise TooLarge(f"the result is to be uploaded, and there is no bucket; expected {named}")
        raise TooLarge(f"the result has {len(body)} bytes, and {room} can be sent; expected a bucket for it: {named}")
    upload(body, place)
    result = {"url": place.read_url, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    short = {name: value for name, value in plain.items() if name not in LONG} | {"result": result}
    return _fitting(short, room)


def _place(job: Job, settings: Settings) -> Place | None:
    if job.upload_url is not None:
        return place_at(job.upload_url)
    key = f"results/{quote(job.id, safe='') or 'job'}.json"
    if job.bucket is not None:
        return job.bucket.place(key, guarded=True)
    bucket = settings.bucket_endpoint_url, settings.bucket_name, settings.bucket_access_key_id, settings.bucket_secret_access_key
    return Bucket(*map(str, bucket)).place(key, guarded=False) if None not in bucket else None


def _fitting(short: dict[str, Any], room: int) -> dict[str, Any]:
    """A short form with as much of its text as there is room for."""
    text = short.get("text", "")
    if len(encoded(short)) <= room:
        return short
    cut = {**short, "text": "", "text_truncated": True}
    allowed = max(0, room - len(encoded(cut)))
    while text and (size := len(encoded(text))) > allowed:
        text = text[: min(len(text) - 1, len(text) * allowed // size)]
    return {**cut, "text": text}
