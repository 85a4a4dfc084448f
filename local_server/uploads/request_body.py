"""Receive the body of a request, and notice when its client disconnects. Knows no route, no model and no response.

A file is transcribed while it is still arriving. One task per request receives everything that the client sends.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Message

from handler import logs
from handler.audio.source import AudioSource
from handler.audio.spool import IN_MEMORY, Spool
from handler.errors import AsrError, Cancelled, DeadlineExceeded, Internal, InvalidRequest, ModelNotFound, TooLarge
from handler.schema.options import Options
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from local_server.uploads.fields import join_arrays
from local_server.uploads.multipart import FILE_FIELD, Form
from local_server.uploads.pace import UploadPace
from local_server.uploads.raw_samples import options_of_type

MAX_LENGTH_DIGITS = 18  # of Content-Length; Python refuses to convert thousands
MAX_JSON_BYTES = 1024**2  # a JSON body holds a URL and options
SHUTTING_DOWN = "the server is shutting down"
T = TypeVar("T")
_JSON, _FORM, _BINARY = "application/json", "multipart/form-data", "application/octet-stream"


class Superseded(Exception):
    """Raised when a form field arrives after transcribing has started, so that transcribing has to start again."""


class RequestBody:
    """The body of one request, which is received until its `async with` block ends."""

    def __init__(self, request: Request, settings: Settings, spool: Spool) -> None:
        """Start to receive the body into an empty spool. Raises InvalidRequest for a form without a boundary."""
        content_type = request.headers.get("content-type", "")
        content_length = request.headers.get("content-length", "")
        self.content_type = content_type
        self.media_type = content_type.partition(";")[0].strip().lower()
        self.form = Form(content_type) if self.media_type == _FORM else None
        self.spool = spool  # the form's file, or the whole body if it is not a form
        self.scope = request.scope
        self._asgi_receive = request.receive
        self._work = AsyncExitStack()  # ends the tasks that `start_early` has left running
        self._max_bytes = settings.max_bytes
        if self.media_type == _JSON:
            self._max_bytes = min(MAX_JSON_BYTES, settings.max_bytes)
        self._silence_s = settings.upload_silence_s
        self._timeout_s = settings.request_timeout_s
        self._start_time = asyncio.get_running_loop().time()
        self._content_length = _parse_length(content_length)
        self._received_bytes = 0
        self._pace = UploadPace(settings.upload_min_rate, settings.upload_silence_s)
        self._failure: AsrError | None = None
        self._superseded = asyncio.Event()  # a field has arrived after transcribing started
        self._can_start = asyncio.Event()  # enough has arrived to start transcribing
        self._complete = asyncio.Event()  # the body has arrived, or no more of it is accepted
        self._client_gone = asyncio.Event()
        self._task = asyncio.create_task(self._receive())

    async def __aenter__(self) -> "RequestBody":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self.spool.stop()  # before the first await, because a server that shuts down may cancel what follows
        closing = asyncio.ensure_future(asyncio.to_thread(self.spool.close))
        await self._work.aclose()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.shield(closing)

    async def start_early(self, start: Callable[[AsyncExitStack], Coroutine[Any, Any, T]]) -> T:
        """Call `start`, before the whole body has arrived if possible, and return its result.

        `start` may put background tasks on the stack that it gets; closing the stack cancels them. A body that is not a
        form starts at once. A form with a field before its file starts when the file begins to arrive; if another field
        follows the file, it may change the options, so the call and its tasks are cancelled and `start` is called again
        at the end of the form. A form without a field before its file starts at the end of the form.

        Raises AsrError, which is Cancelled if the client disconnects.
        """
        await self.until_client_leaves(self._wait(self._can_start))
        try:
            return await self.until_client_leaves(self._run(start), self._superseded)
        except Superseded:
            await self.until_client_leaves(self._wait(self._complete))
            self._superseded.clear()
            return await self.until_client_leaves(self._run(start))

    async def read_all(self) -> bytes:
        """Wait for the end of a body that is not a form, return the whole body, and free it. Raises AsrError."""
        await self._wait(self._complete)
        self.spool.check()
        body = self.spool.read_at(0, self._max_bytes)
        self.spool.close()  # the request may go on for long
        return body

    async def until_client_leaves(self, work: Awaitable[T], superseded: asyncio.Event | None = None) -> T:
        """Return the result of an awaitable.

        If the client disconnects first, cancel the awaitable and raise Cancelled. If the event `superseded` is set
        first, cancel the awaitable and raise Superseded.
        """
        task = asyncio.ensure_future(work)
        waits = [asyncio.create_task(event.wait()) for event in (self._client_gone, superseded) if event is not None]
        try:
            await asyncio.wait({task, *waits}, return_when=asyncio.FIRST_COMPLETED)
            if superseded is not None and superseded.is_set():
                raise Superseded
            if not task.done():
                raise Cancelled("the client has left")
            return task.result()
        finally:
            for future in (task, *waits):
                future.cancel()
            await asyncio.gather(task, *waits, return_exceptions=True)

    async def receive_disconnect(self) -> Message:
        """Wait until the client disconnects, and return ASGI's message for that.

        This method can be passed on as an ASGI `receive` that provides no body.
        """
        await self._client_gone.wait()
        return {"type": "http.disconnect"}

    async def _run(self, start: Callable[[AsyncExitStack], Coroutine[Any, Any, T]]) -> T:
        async with AsyncExitStack() as stack:
            self._check_state()
            try:
                result = await start(stack)
            except (InvalidRequest, ModelNotFound):
                await self._await_fields()  # a field that has yet to arrive may resolve the error
                raise
            await self._await_fields()
            self._work = stack.pop_all()
            return result

    async def _await_fields(self) -> None:
        """Wait for the end of a form, because fields may also follow its file. Return at once if there is no form.

        Raises the AsrError with which receiving the body failed, or Superseded if a field arrived after transcribing
        started.
        """
        if self.form is not None:
            await self._wait(self._complete)
        self._check_state()

    def _check_state(self) -> None:
        """Raise the AsrError that ended the receiving, or Superseded if a field arrived after transcribing started."""
        if self._failure is not None:
            raise self._failure
        if self._superseded.is_set():
            raise Superseded

    async def _wait(self, event: asyncio.Event) -> None:
        """Wait for an event. Raises DeadlineExceeded if the request takes longer than REQUEST_TIMEOUT_S."""
        try:
            async with asyncio.timeout_at(self._start_time + self._timeout_s):
                await event.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"expected an answer within {self._timeout_s:g} s (REQUEST_TIMEOUT_S)") from None

    async def _receive(self) -> None:
        """Receive the body, then wait until the client disconnects. Stop early if there is an error."""
        try:
            self._check_size(self._content_length or 0)
            if self.form is None:
                self._can_start.set()
            while (message := await self._receive_message())["type"] == "http.request":
                await self._store(message.get("body", b""))
                if not message.get("more_body"):
                    self._end_body()
                    while (await self._asgi_receive())["type"] != "http.disconnect":
                        pass
                    break
            self._client_gone.set()
            self._finish(Cancelled("the client has left"))
        except AsrError as exc:
            self._finish(exc)
        except Exception as exc:  # such as a full disk
            logs.error("upload_crashed", exc)
            self._finish(Internal(f"a fault of this server: {type(exc).__name__}"))

    async def _receive_message(self) -> Message:
        """Return the next ASGI message. Raises DeadlineExceeded if the client sends nothing or too little for long."""
        # A JSON body and the fields before a file are short, so all of it must arrive within the limit for one silence.
        is_short = self.media_type == _JSON or (self.form is not None and not self.form.has_file)
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
        if not self._can_start.is_set():
            if self.form.has_leading_fields:
                self._can_start.set()
        elif len(self.form.fields) > previous_fields:
            self._superseded.set()

    async def _write(self, part: bytes) -> None:
        """Append bytes to the spool, in a thread if the spool may have to wait for the disk."""
        if self.spool.size + len(part) < IN_MEMORY:
            self.spool.write(part)
        else:
            await asyncio.to_thread(self.spool.write, part)

    def _end_body(self) -> None:
        """Finish a body that has arrived. Raises InvalidRequest if a form ends before its last boundary."""
        if self.form is not None:
            self.form.end()
        self._finish(None)

    def _finish(self, failure: AsrError | None) -> None:
        """Accept no more of the body.

        `failure` is the reason, or None if the body is complete. Only the first call has an effect.
        """
        if not self._complete.is_set():
            self._failure = failure
            self.spool.finish(failure)
            self._can_start.set()
            self._complete.set()

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(f"expected a body of at most {self._max_bytes} bytes; got more")


def _parse_length(text: str) -> int | None:
    """Return the value of Content-Length, or None if it is not a number that a body can have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS else None


@asynccontextmanager
async def admitted_body(
    request: Request, pipeline: Pipeline, settings: Settings
) -> AsyncIterator[tuple[RequestBody, AsyncExitStack]]:
    """Admit a request to the pipeline. Yield the request's body and a stack.

    Closing the stack ends the admission and the receiving of the body. The stack is closed when the block ends, unless
    the caller has moved its content to another stack. Raises Overloaded if too many requests are admitted, and
    Cancelled if the server shuts down during the request.
    """
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(pipeline.admit())
            yield await stack.enter_async_context(RequestBody(request, settings, pipeline.new_spool())), stack
    except asyncio.CancelledError:
        raise Cancelled(SHUTTING_DOWN) from None


async def parse_asr_request(body: RequestBody, query: Mapping[str, str]) -> tuple[AudioSource, Options]:
    """Return the audio source and the options of a request to `POST /asr`.

    The request's content type decides how the body is read. An option in a JSON body or a form overrides the same
    option in `query`. Raises AsrError.
    """
    media_type = body.media_type
    if media_type == _JSON:
        return _parse_json(await body.read_all(), query)
    if body.form is not None:
        if not body.form.has_file:
            raise InvalidRequest(f"the form must have a part named {FILE_FIELD}, with a file name")
        values = {**options_of_type(body.form.file_type), **query, **join_arrays(body.form.fields)}
        return AudioSource(growing=body.spool), Options.parse(values)
    if not media_type or media_type == _BINARY or media_type.startswith(("audio/", "video/")):
        return AudioSource(growing=body.spool), Options.parse({**options_of_type(body.content_type), **query})
    expected = f"{_JSON}, {_FORM}, audio/*, video/* or {_BINARY}"
    raise InvalidRequest(f"content type {media_type[:60]!r}: expected {expected}")


def _parse_json(content: bytes, query: Mapping[str, str]) -> tuple[AudioSource, Options]:
    try:
        fields: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidRequest('the body must be JSON such as {"url": "https://…/audio.mp3"}; it is not JSON') from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"the body must be a JSON object with url; got {type(fields).__name__}")
    url = fields.pop("url", None)
    if not isinstance(url, str):
        raise InvalidRequest("the body must have url, as a string")
    return AudioSource(url=url), Options.parse({**query, **fields})
