"""What a client sends, while it sends it, and whether it is still there. Knows no route, no model and no answer.

Whoever reads a request reads it here: there is one task that receives. A file is transcribed while it arrives.
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
from local_server.uploads.multipart import FILE, Form

JSON_CAP = 1024**2  # bytes of a JSON body: it holds an address and options
ENDING = "the server is shutting down"
T = TypeVar("T")
_JSON, _FORM = "application/json", "multipart/form-data"


class Superseded(Exception):
    """What was begun early was begun without a field that came behind the file."""


class RequestBody:
    """The body of one request, received for the time of a block; what is left then is not."""

    def __init__(self, request: Request, settings: Settings) -> None:
        """Raises InvalidRequest where the content type is that of a form without a boundary."""
        given = request.headers.get("content-type", "")
        declared = request.headers.get("content-length", "")
        self.kind = given.partition(";")[0].strip().lower()
        self.form = Form(given) if self.kind == _FORM else None
        self.spool = Spool(settings.max_bytes)  # the file
        self.scope = request.scope
        self._receive_one = request.receive
        self._held = AsyncExitStack()  # what was begun and still runs
        self._cap = min(JSON_CAP if self.kind == _JSON else settings.max_bytes, settings.max_bytes)
        self._silence_s = settings.upload_silence_s
        self._limit_s = settings.request_timeout_s
        self._began = asyncio.get_running_loop().time()
        self._declared = int(declared) if declared.isascii() and declared.isdigit() else None
        self._count = 0  # bytes received
        self._failure: AsrError | None = None
        self._late = asyncio.Event()  # a field has come that what was begun does not know
        self._known = asyncio.Event()  # enough to begin
        self._over = asyncio.Event()  # all has come, or no more will be taken
        self._left = asyncio.Event()
        self._task = asyncio.create_task(self._receive())

    async def __aenter__(self) -> "RequestBody":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self.spool.stop()  # at once: a server that ends may let nothing behind the first wait happen
        closing = asyncio.ensure_future(asyncio.to_thread(self.spool.close))
        await self._held.aclose()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.shield(closing)

    async def begun(self, begin: Callable[[AsyncExitStack], Coroutine[Any, Any, T]]) -> T:
        """What `begin` makes of the fields and the file. It may leave work running that its stack ends.

        It is called while the file still arrives, where fields came before it, and again where one came behind it, too.
        Raises AsrError; Cancelled once the client has left.
        """
        await self.while_there(self._in_time(self._known))
        try:
            return await self.while_there(self._attempt(begin), self._late)
        except Superseded:
            await self.while_there(self._in_time(self._over))
            self._late.clear()
            return await self.while_there(self._attempt(begin))

    async def whole(self) -> bytes:
        """The body, where it is no form, as soon as all of it is there. Raises AsrError."""
        await self._in_time(self._over)
        self.spool.check()
        return self.spool.read_at(0, self._cap)

    async def while_there(self, work: Awaitable[T], late: asyncio.Event | None = None) -> T:
        """The result of some work. It is cancelled when the client leaves, and Cancelled raised; Overtaken where `late` is set."""
        working = asyncio.ensure_future(work)
        others = [asyncio.create_task(event.wait()) for event in (self._left, late) if event is not None]
        try:
            await asyncio.wait({working, *others}, return_when=asyncio.FIRST_COMPLETED)
            if late is not None and late.is_set():
                raise Superseded
            if not working.done():
                raise Cancelled("the client has left")
            return working.result()
        finally:
            for task in (working, *others):
                task.cancel()
            await asyncio.gather(working, *others, return_exceptions=True)

    async def disconnected(self) -> Message:
        """ASGI's receive for those who only wait for the client to leave."""
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _attempt(self, begin: Callable[[AsyncExitStack], Coroutine[Any, Any, T]]) -> T:
        async with AsyncExitStack() as stack:
            await self._settled(wait=False)
            try:
                made = await begin(stack)
            except (InvalidRequest, ModelNotFound):
                await self._settled()  # its reason may be a field that is still to come
                raise
            await self._settled()
            self._held = stack.pop_all()
            return made

    async def _settled(self, wait: bool = True) -> None:
        """Until nothing can change what was begun. Raises Overtaken, and the AsrError that the body met."""
        if self.form is not None and wait:
            await self._in_time(self._over)
        if self._failure is not None:
            raise self._failure
        if self._late.is_set():
            raise Superseded

    async def _in_time(self, event: asyncio.Event) -> None:
        try:
            async with asyncio.timeout_at(self._began + self._limit_s):
                await event.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"expected an answer within {self._limit_s:g} s (REQUEST_TIMEOUT_S)") from None

    async def _receive(self) -> None:
        """Take what comes, until the client has left or nothing more is wanted."""
        try:
            self._check_size(self._declared or 0)
            if self.form is None:
                self._known.set()
            while (message := await self._next())["type"] == "http.request":
                await self._take(message.get("body", b""))
                if not message.get("more_body"):
                    self._end()
                    while (await self._receive_one())["type"] != "http.disconnect":
                        pass
                    break
            self._left.set()
            self._close(Cancelled("the client has left"))
        except AsrError as exc:
            self._close(exc)
        except Exception as exc:  # such as a full disk
            logs.error("upload_crashed", exc)
            self._close(Internal(f"a fault of this server: {type(exc).__name__}"))

    async def _next(self) -> Message:
        # What comes before a file is short: a client that sends it bit by bit has no more time than one that sends nothing.
        early = self.kind == _JSON or (self.form is not None and not self.form.has_file)
        since = self._began if early else asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(since + self._silence_s):
                return await self._receive_one()
        except TimeoutError:
            raise DeadlineExceeded(f"expected more of the body within {self._silence_s:g} s (UPLOAD_SILENCE_S)") from None

    async def _take(self, piece: bytes) -> None:
        self._count += len(piece)
        self._check_size(self._count)
        if self.form is None:
            await self._write(piece)
            return
        known = len(self.form.fields)
        for part in self.form.feed(piece):
            await self._write(part)
        if not self._known.is_set():
            if self.form.fields_first:
                self._known.set()
        elif len(self.form.fields) > known:
            self._late.set()

    async def _write(self, part: bytes) -> None:
        """Append to the file; in a thread where it may have to wait for the disk."""
        if self.spool.size + len(part) < IN_MEMORY:
            self.spool.write(part)
        else:
            await asyncio.to_thread(self.spool.write, part)

    def _end(self) -> None:
        """All has come. Raises InvalidRequest where that is not all of a form."""
        if self.form is not None:
            self.form.end()
        self._close(None)

    def _close(self, failure: AsrError | None) -> None:
        """No more is taken; the first word counts."""
        if not self._over.is_set():
            self._failure = failure
            self.spool.finish(failure)
            self._known.set()
            self._over.set()

    def _check_size(self, count: int) -> None:
        if count > self._cap:
            raise TooLarge(f"expected a body of at most {self._cap} bytes; got more")


@asynccontextmanager
async def in_work(request: Request, pipeline: Pipeline, settings: Settings) -> AsyncIterator[tuple[RequestBody, AsyncExitStack]]:
    """A request that has its place, as it arrives, and what holds both. Raises Overloaded, and Cancelled where the server ends before."""
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(pipeline.place())
            yield await stack.enter_async_context(RequestBody(request, settings)), stack
    except asyncio.CancelledError:
        raise Cancelled(ENDING) from None


async def asked(incoming: RequestBody, query: Mapping[str, str]) -> tuple[AudioSource, Options]:
    """The source and the options of POST /asr, by its content type alone. Raises AsrError."""
    kind = incoming.kind
    if kind == _JSON:
        return _from_json(await incoming.whole(), query)
    if incoming.form is not None:
        if not incoming.form.has_file:
            raise InvalidRequest(f"the form must have a part named {FILE}, with a file name")
        return AudioSource(growing=incoming.spool), Options.parse({**query, **dict(incoming.form.fields)})
    if not kind or kind == "application/octet-stream" or kind.startswith(("audio/", "video/")):
        return AudioSource(growing=incoming.spool), Options.parse(dict(query))
    raise InvalidRequest(f"content type {kind[:60]!r}: expected {_JSON}, {_FORM}, audio/*, video/* or application/octet-stream")


def _from_json(body: bytes, query: Mapping[str, str]) -> tuple[AudioSource, Options]:
    try:
        given: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequest('the body must be JSON such as {"url": "https://…/audio.mp3"}; it is not JSON') from None
    if not isinstance(given, dict):
        raise InvalidRequest(f"the body must be a JSON object with url; got {type(given).__name__}")
    url = given.pop("url", None)
    if not isinstance(url, str):
        raise InvalidRequest("the body must have url, as a string")
    return AudioSource(url=url), Options.parse({**query, **given})
