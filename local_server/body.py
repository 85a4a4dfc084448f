"""What a client sends, while it sends it, and whether it is still there. Knows no route, no model and no answer.

Whoever reads a request reads it here: there is one task that receives. A file is transcribed while it arrives.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request

from handler import logs
from handler.audio.spool import IN_MEMORY, Spool
from handler.errors import AsrError, Cancelled, DeadlineExceeded, Internal, InvalidRequest, TooLarge
from handler.schema import AudioSource, Options
from handler.settings import Settings
from local_server.form import FILE, Form
from local_server.front import Message

JSON_CAP = 1024**2  # bytes of a JSON body: it holds an address and options
T = TypeVar("T")
_JSON, _FORM = "application/json", "multipart/form-data"


class Overtaken(Exception):
    """What was begun early was begun without a field that came behind the file."""


class Incoming:
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
        self._declared = int(declared) if declared.isascii() and declared.isdigit() else None
        self._count = 0  # bytes received
        self._size: int | None = None  # what the file's size was told to be
        self._failure: AsrError | None = None
        self._late = False
        self._known = asyncio.Event()  # enough to begin
        self._over = asyncio.Event()  # all has come, or no more will be taken
        self._left = asyncio.Event()
        self._task = asyncio.create_task(self._receive())

    async def __aenter__(self) -> "Incoming":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._held.aclose()
        await self.stop()
        await asyncio.shield(asyncio.to_thread(self.spool.close))

    async def stop(self) -> None:
        """Receive no more."""
        self._task.cancel()
        self.spool.stop()
        await asyncio.gather(self._task, return_exceptions=True)

    async def begun(self, begin: Callable[[AsyncExitStack], Coroutine[Any, Any, T]]) -> T:
        """What `begin` makes of the fields and the file. It may leave work running that its stack ends.

        It is called while the file still arrives, where fields came before it, and again where one came behind it, too.
        Raises AsrError; Cancelled once the client has left or the server ends.
        """
        try:
            await self.while_there(self._known.wait())
            try:
                return await self.while_there(self._attempt(begin))
            except Overtaken:
                self._late = False
                return await self.while_there(self._attempt(begin))
        except asyncio.CancelledError:  # the time for what is in work is over
            raise Cancelled("the server is shutting down") from None

    async def _settled(self) -> None:
        """Until nothing can change what was begun. Raises Overtaken, and the AsrError that the body met."""
        if self.form is not None:
            await self._over.wait()
        if self._failure is not None:
            raise self._failure
        if self._late:
            raise Overtaken

    async def whole(self) -> bytes:
        """The body, where it is no form, as soon as all of it is there. Raises AsrError."""
        await self._over.wait()
        self.spool.check()
        return self.spool.read_at(0, self._cap)

    async def while_there(self, work: Awaitable[T]) -> T:
        """The result of some work, which is cancelled when the client leaves. Raises Cancelled then."""
        working, leaving = asyncio.ensure_future(work), asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Cancelled("the client has left")
            return working.result()
        finally:
            working.cancel()
            leaving.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def disconnected(self) -> Message:
        """ASGI's receive for those who only wait for the client to leave."""
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _attempt(self, begin: Callable[[AsyncExitStack], Coroutine[Any, Any, T]]) -> T:
        if self._failure is not None:
            raise self._failure
        async with AsyncExitStack() as stack:
            try:
                made = await begin(stack)
            except AsrError:
                await self._settled()  # its reason may be a field that is still to come
                raise
            await self._settled()
            self._held = stack.pop_all()
            return made

    async def _receive(self) -> None:
        """Take what comes, until the client has left or nothing more is wanted."""
        try:
            self._check_size(self._declared or 0)
            if self.form is None:
                self._begin(self._declared)
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
        try:
            async with asyncio.timeout(self._silence_s):
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
        if self._known.is_set():
            self._late = self._late or len(self.form.fields) > known
        elif self.form.file_at is not None and self.form.fields:
            self._begin(None if self._declared is None else self.form.file_size(self._declared))

    async def _write(self, part: bytes) -> None:
        """Append to the file; in a thread where it may have to wait for the disk."""
        if self.spool.size + len(part) < IN_MEMORY:
            self.spool.write(part)
        else:
            await asyncio.to_thread(self.spool.write, part)

    def _begin(self, size: int | None) -> None:
        """Enough is known to begin; the file will have so many bytes, where that is known."""
        self._size = size
        if size is not None:
            self.spool.expect(size)
        self._known.set()

    def _end(self) -> None:
        """All has come. Raises InvalidRequest where that is not all of a form."""
        if self.form is not None:
            self.form.end()
        self._late = self._late or (self._size is not None and self._size != self.spool.size)
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


async def asked(incoming: Incoming, query: Mapping[str, str]) -> tuple[AudioSource, Options]:
    """The source and the options of POST /asr, by its content type alone. Raises AsrError."""
    kind = incoming.kind
    if kind == _JSON:
        return _from_json(await incoming.whole(), query)
    if incoming.form is not None:
        if incoming.form.file_at is None:
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
