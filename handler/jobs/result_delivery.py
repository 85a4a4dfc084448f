"""Answers that arrive: measured as they will be sent, and taken to a bucket where they are too large or a job asks for it.

Knows no engine and no SDK.
"""

import asyncio
import hashlib
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from handler.errors import TooLarge, UploadFailed
from handler.jobs.job import Job
from handler.jobs.object_store import Bucket, UploadTarget, upload
from handler.output.json_encoding import encode_json, to_jsonable
from handler.settings import Settings

UPLOAD_S = 300.0  # longest that a result may take on its way to a bucket
MOST_WARNINGS = 20  # that are told beside the address of a result
ENVELOPE = 1000  # bytes that stand around an answer
LONG = ("chunks", "segments", "word_timestamps", "results", "formatted", "transcription", "translation")  # fields that grow with the audio


async def deliver(answer: dict[str, Any], job: Job, settings: Settings, room: int | None = None, whole: bool = True) -> dict[str, Any]:
    """The answer as it can be sent; where that is too much, its short form with the place of the whole. Raises AsrError.

    `room`: bytes that can be sent, where that is less than the settings say; `whole` is false where too much was sent before.
    """
    room = min(room or settings.max_result_bytes, settings.max_result_bytes) - ENVELOPE
    plain, body = await asyncio.to_thread(_encoded, answer)
    if whole and len(body) <= room and not job.upload_always:
        return plain
    place = await asyncio.to_thread(_place, job, settings)
    if place is None:
        named = "upload_url, s3Config or the BUCKET_ variables"
        if job.upload_always:
            raise TooLarge(f"the result is to be uploaded, and there is no bucket; expected {named}")
        raise TooLarge(f"the result has {len(body)} bytes, and {room} can be sent; expected a bucket for it: {named}")
    await _uploaded(body, place, min(UPLOAD_S, job.limit_s))
    result = {"url": place.read_url, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    short = {name: value for name, value in plain.items() if name not in LONG} | {"result": result}
    return await asyncio.to_thread(truncate_to, short, room)


def _encoded(answer: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    plain = to_jsonable(answer)
    return plain, encode_json(plain)


async def _uploaded(body: bytes, place: UploadTarget, seconds: float) -> None:
    """Upload in a thread that nobody waits for longer than so many seconds, the end of the process included."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def work() -> None:
        error: Exception | None = None
        try:
            upload(body, place)
        except Exception as exc:
            error = exc
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=work, name="upload", daemon=True).start()
    try:
        await asyncio.wait_for(done, seconds)
    except TimeoutError:
        raise UploadFailed(f"the result was not taken within {seconds:g} s") from None


def _place(job: Job, settings: Settings) -> UploadTarget | None:
    if job.upload_to is not None:
        return job.upload_to
    key = f"results/{quote(job.id, safe='') or 'job'}.json"
    if job.bucket is not None:
        return job.bucket.place(key, guarded=True)
    url, name = settings.bucket_endpoint_url, settings.bucket_name
    key_id, secret = settings.bucket_access_key_id, settings.bucket_secret_access_key
    if url is None or name is None or key_id is None or secret is None:  # all or none, as the settings see to
        return None
    return Bucket(url, name, key_id, secret, settings.bucket_region).place(key, guarded=False)


def truncate_to(short: dict[str, Any], room: int) -> dict[str, Any]:
    """A short form with as much of its text as there is room for; of a very long file also the places that lack text give way."""
    if len(encode_json(short)) <= room:
        return short
    cut = {**short, "text": "", "text_truncated": True}
    if len(encode_json(cut)) > room // 2:
        cut["warnings"] = cut.get("warnings", [])[:MOST_WARNINGS]
        cut["coverage"] = {**cut.get("coverage", {}), "gaps": cut.get("coverage", {}).get("gaps", [])[:MOST_WARNINGS]}
    text = short.get("text", "")
    allowed = max(0, room - len(encode_json(cut)))
    while text and (size := len(encode_json(text))) > allowed:
        text = text[: min(len(text) - 1, len(text) * allowed // size)]
    return {**cut, "text": text}
