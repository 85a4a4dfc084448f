"""Send a signed message to a webhook, and again if it is not taken. Knows no job and no transcript.

Messages are signed as Standard Webhooks has it, whose libraries for many languages check them; so do OpenAI's packages.
Source: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from handler.audio.address_guard import resolve
from handler.audio.http_upload import JSON_TYPE, send_body
from handler.audio.transfer import Transfer
from handler.audio.transfer_thread import run_apart, run_transfer
from handler.audio.urls import public_url, split_http_url
from handler.errors import AsrError, DownloadFailed, InvalidRequest, UploadFailed

LOOKUP_S, ATTEMPT_TIMEOUT_S, RESPONSE_TIMEOUT_S = 10.0, 60.0, 15.0
TAKEN = range(200, 300)  # statuses
MAX_AT_ONCE, MAX_PER_HOST = 64, 4  # messages that are being sent
RETRY_DELAYS_S: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0, 600.0)  # between one attempt and the next


def sign(message_id: str, timestamp: int, body: bytes, secrets: Iterable[bytes]) -> str:
    """Return the signature of a message by each secret, separated by spaces."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digests = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


async def check_webhook(url: str) -> None:
    """Raise InvalidRequest or DownloadBlocked unless a URL leads to a host that messages may be sent to."""
    if split_http_url(url) is None:
        raise InvalidRequest("callback_url must be an http:// or https:// address", "callback_url")
    with suppress(DownloadFailed, TimeoutError):  # the name may be known later
        await run_apart(lambda: resolve(url, public_url(url)), LOOKUP_S)


class WebhookSender:
    """Sends messages, a few at a time to each host. Use it in one event loop."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Take the secrets that sign each message."""
        self._secrets = secrets
        self._is_closing = asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_AT_ONCE)
        self._turns_of_host: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Let each message that waits for another attempt have it now, as the last one."""
        self._is_closing.set()

    async def send(self, url: str, message_id: str, body: Callable[[], bytes]) -> int:
        """POST a JSON body until it is taken, and return how many attempts that took.

        `body` returns it, and is called in a thread before each attempt. Raises the error of the last attempt, once
        there is no other or another one cannot succeed.
        """
        host, _ = split_http_url(url) or ("", 0)
        turns_of_host = self._turns_of_host.setdefault(host, asyncio.Semaphore(MAX_PER_HOST))
        for attempt, delay_s in enumerate([*RETRY_DELAYS_S, None], 1):
            try:
                async with turns_of_host, self._turns:
                    await self._attempt(url, message_id, body)
                return attempt
            except AsrError as exc:
                if delay_s is None or not exc.retryable or self._is_closing.is_set():
                    raise
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._is_closing.wait()
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, url: str, message_id: str, body: Callable[[], bytes]) -> None:
        def post(transfer: Transfer) -> None:
            timestamp, content = int(time.time()), body()
            headers = {
                **JSON_TYPE,
                "webhook-id": message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": sign(message_id, timestamp, content, self._secrets),
            }
            send_body(transfer, "POST", url, content, headers, TAKEN, RESPONSE_TIMEOUT_S, is_guarded=True)

        try:
            await run_transfer(post, ATTEMPT_TIMEOUT_S)
        except TimeoutError:
            raise UploadFailed(f"{public_url(url)} took no message within {ATTEMPT_TIMEOUT_S:g} s") from None
