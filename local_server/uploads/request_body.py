"""Receive the body of a request, and notice when its client disconnects. Knows no route, no model and no response.

A file is transcribed while it is still arriving. One task per request receives everything that the client sends.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from fastapi import Request
from starlette.types import Message

from handler import logs
from handler.audio.spool import IN_MEMORY, Spool
from handler.errors import AsrError, Cancelled, DeadlineExceeded, Internal, TooLarge
from handler.settings import Settings
from handler.transcription.admission import Place
from handler.transcription.pipeline import Pipeline
from local_server.uploads.multipart import Form
from local_server.uploads.pace import UploadPace
from local_server.uploads.upload_state import CLIENT_LEFT, Stage, UploadState

MAX_LENGTH_DIGITS = 18  # of Content-Length; Python refuses to convert thousands
MAX_JSON_BYTES = 8 * 1024**2  # a JSON body holds a URL and options, also samples of speakers
SHUTTING_DOWN = "the server is shutting down"
JSON, FORM, BINARY = "application/json", "multipart/form-data", "application/octet-stream"
T = TypeVar("T")


def media_type_of(request: Request) -> str:
    """Return the media type of a request's body, without its parameters, or an empty text."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class RequestBody:
    """The body of one request, which is received from `start` on until `life` is closed."""

    def __init__(
        self, request: Request, settings: Settings, place: Place | None, spool: Spool, life: AsyncExitStack
    ) -> None:
        """Prepare to receive the body into an empty spool. Raises InvalidRequest for a form without a boundary.

        `life` owns all that belongs to the request. Closing it ends the work, then the receiving, then the place.
        """
        content_type = request.headers.get("content-type", "")
        self.content_type = content_type
        self.media_type = media_type_of(request)
        self.form = Form(content_type) if self.media_type == FORM else None
        self.place = place  # None if the request is not admitted yet
        self.spool = spool  # the form's file, or the whole body if it is not a form
        self.life = life
        self.scope = request.scope
        self.state = UploadState()
        self._asgi_receive = request.receive
        self._max_bytes = settings.max_bytes
        if self.media_type == JSON:
            self._max_bytes = min(MAX_JSON_BYTES, settings.max_bytes)
        self._silence_s = settings.upload_silence_s
        self._timeout_s = settings.request_timeout_s
        self._start_time = asyncio.get_running_loop().time()
        self._content_length = _parse_length(request.headers.get("content-length", ""))
        self._received_bytes = 0
        self._pace = UploadPace(settings.upload_min_rate, settings.upload_silence_s)

    def start(self) -> None:
        """Start to receive the body."""
        task = asyncio.create_task(self._receive())
        self.life.push_async_callback(self._end, task)

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self.spool.stop()  # before any await, because a server that shuts down may cancel what follows
        closing = asyncio.ensure_future(asyncio.to_thread(self.spool.close))
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.shield(closing)

    async def read_all(self) -> bytes:
        """Wait for the end of a body that is not a form, return the whole body, and free it. Raises AsrError."""
        await self.in_time(self.state.until_ended())
        body = b""
        while len(body) < self.spool.size:  # which may lie in several parts
            body += self.spool.read_at(len(body), self._max_bytes)
        self.spool.close()  # the request may go on for long
        return body

    async def until_all_fields(self) -> None:
        """Wait for the end of a form, because fields may also follow its file. Return at once if there is no form.

        Raises the AsrError that ended the receiving, if there is one.
        """
        if self.form is not None:
            await self.in_time(self.state.until_ended())
        self.state.check()

    async def in_time(self, awaitable: Awaitable[T]) -> T:
        """Return the result of an awaitable. Raises DeadlineExceeded REQUEST_TIMEOUT_S after the body began.

        This limits how long a body is waited for. The work has the same limit, from its own beginning.
        """
        try:
            async with asyncio.timeout_at(self._start_time + self._timeout_s):
                return await awaitable
        except TimeoutError:
            raise DeadlineExceeded(f"expected an answer within {self._timeout_s:g} s (REQUEST_TIMEOUT_S)") from None

    async def _receive(self) -> None:
        """Receive the body, then wait until the client disconnects. Stop early if there is an error."""
        try:
            self._check_size(self._content_length or 0)
            if self.form is None:
                self.state.move(Stage.READY)
            await self._receive_all()
            self._finish(Stage.COMPLETE)
            while (await self._asgi_receive())["type"] != "http.disconnect":
                pass
            self.state.move(Stage.CLIENT_GONE, Cancelled(CLIENT_LEFT))
        except AsrError as exc:
            self._finish(Stage.CLIENT_GONE if isinstance(exc, Cancelled) else Stage.FAILED, exc)
        except Exception as exc:  # such as a full disk
            logs.error("upload_crashed", exc)
            self._finish(Stage.FAILED, Internal(f"a fault of this server: {type(exc).__name__}"))

    def _finish(self, stage: Stage, failure: AsrError | None = None) -> None:
        """Accept no more of the body. Only the first call has an effect."""
        if self.state.has_ended:
            return
        self.spool.finish(failure)
        self.state.move(stage, failure)

    async def _receive_all(self) -> None:
        """Receive the whole body. Raises AsrError, which is Cancelled if the client disconnects."""
        has_more = True
        while has_more:
            message = await self._receive_message()
            if message["type"] != "http.request":
                raise Cancelled(CLIENT_LEFT)
            await self._store(message.get("body", b""))
            has_more = message.get("more_body", False)
        if self.form is not None:
            self.form.end()

    async def _receive_message(self) -> Message:
        """Return the next ASGI message. Raises DeadlineExceeded if the client sends nothing or too little for long."""
        # A JSON body and the fields before a file must arrive within the limit for one silence.
        is_short = self.media_type == JSON or (self.form is not None and not self.form.has_file)
        now = asyncio.get_running_loop().time()
        silence_end = (self._start_time if is_short else now) + self._silence_s
        pace_end = now + self._pace.credit_s
        try:
            async with asyncio.timeout_at(min(silence_end, pace_end)):
                message = await self._asgi_receive()
        except TimeoutError:
            if pace_end < silence_end:
                raise self._pace.error() from None
            limit = f"{self._silence_s:g} s (UPLOAD_SILENCE_S)"
            raise DeadlineExceeded(f"expected more of the body within {limit}") from None
        # Only the time in which this server waits for the client counts, not the time in which it is busy itself.
        waited_s = asyncio.get_running_loop().time() - now
        self._pace.count(len(message.get("body", b"")), waited_s)
        return message

    async def _store(self, piece: bytes) -> None:
        """Parse a piece of the body, and append the file's bytes in this piece to the spool. Raises AsrError."""
        self._received_bytes += len(piece)
        self._check_size(self._received_bytes)
        if self.form is None:
            await self._write(piece)
            return
        previous_fields = len(self.form.fields)
        for part in self.form.feed(piece):
            await self._write(part)
        if self.state.stage is Stage.RECEIVING:
            if self.form.has_leading_fields:
                self.state.move(Stage.READY)
        elif len(self.form.fields) > previous_fields:
            self.state.revise()

    async def _write(self, part: bytes) -> None:
        """Append bytes to the spool, in a thread if the spool may have to wait for the disk."""
        if self.spool.size + len(part) < IN_MEMORY:
            self.spool.write(part)
        else:
            await asyncio.to_thread(self.spool.write, part)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(f"expected a body of at most {self._max_bytes} bytes; got more")


def _parse_length(text: str) -> int | None:
    """Return the value of Content-Length, or None if it is not a number that a body can have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS else None


@asynccontextmanager
async def receive_body(
    request: Request, pipeline: Pipeline, settings: Settings, *, is_admitted: bool = True
) -> AsyncIterator[RequestBody]:
    """Admit a request to the pipeline unless its work comes later, and receive its body while the block runs.

    What belongs to the request ends when the block ends, unless the caller has moved it to another stack by
    `life.pop_all`. Raises Overloaded if too many requests are admitted, and Cancelled if the server shuts down during
    the request.
    """
    try:
        async with AsyncExitStack() as life:
            place = life.enter_context(pipeline.admit()) if is_admitted else None
            body = RequestBody(request, settings, place, pipeline.new_spool(), life)
            body.start()
            yield body
    except asyncio.CancelledError:
        raise Cancelled(SHUTTING_DOWN) from None
