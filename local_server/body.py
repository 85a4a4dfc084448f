"""The three bodies of POST /asr, chosen by content type alone, to a source and options. Knows no model and no answer."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, TypeVar, cast

from fastapi import Request
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from handler.audio.spool import Spool
from handler.errors import AsrError, Cancelled, InvalidRequest, TooLarge
from handler.schema import AudioSource, Options

JSON_CAP = 1024**2  # bytes of a JSON body: it holds an address and options
T = TypeVar("T")
_JSON, _FORM = "application/json", "multipart/form-data"


@asynccontextmanager
async def parsed(request: Request, cap: int) -> AsyncIterator[tuple[AudioSource, Options]]:
    """The source and the options of a request; its file lives until the end of the block. Raises AsrError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _JSON:
        yield _from_json(await _whole(request, min(cap, JSON_CAP)), request.query_params)
    elif kind == _FORM:
        async with uploaded(request, cap) as (file, fields):
            if file is None:
                raise InvalidRequest("the form must have a part named file, with a file name")
            yield AudioSource(file=file), Options.parse({**request.query_params, **dict(fields)})
    elif not kind or kind == "application/octet-stream" or kind.startswith(("audio/", "video/")):
        options = Options.parse(dict(request.query_params))
        spool = Spool(cap)
        try:
            async for chunk in _capped(request, cap):
                spool.write(chunk)
            spool.finish()
            yield AudioSource(file=cast(BinaryIO, spool.reader())), options
        finally:
            spool.stop()
            await asyncio.shield(asyncio.to_thread(spool.close))
    else:
        raise InvalidRequest(f"content type {kind[:60]!r}: expected {_JSON}, {_FORM}, audio/*, video/* or application/octet-stream")


async def _capped(request: Request, cap: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises TooLarge as soon as it is."""
    declared = request.headers.get("content-length", "")
    count = int(declared) if declared.isdigit() else 0
    if count <= cap:
        count = 0
        async for chunk in request.stream():
            count += len(chunk)
            if count > cap:
                break
            yield chunk
    if count > cap:
        raise TooLarge(f"expected a body of at most {cap} bytes; got more")


async def _whole(request: Request, cap: int) -> bytes:
    return b"".join([chunk async for chunk in _capped(request, cap)])


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


@asynccontextmanager
async def uploaded(request: Request, cap: int) -> AsyncIterator[tuple[BinaryIO | None, list[tuple[str, str]]]]:
    """The file of a form, where it has one, and its other fields; the file lives until the end of the block. Raises AsrError."""
    failure: AsrError | None = None

    async def chunks() -> AsyncGenerator[bytes, None]:
        nonlocal failure
        try:
            async for chunk in _capped(request, cap):
                yield chunk
        except TooLarge as exc:
            failure = exc
            raise MultiPartException("too large") from exc

    try:
        form = await MultiPartParser(request.headers, chunks(), max_files=1).parse()
    except (MultiPartException, KeyError) as exc:
        raise failure or InvalidRequest(f"the body must be multipart/form-data with one part named file: {exc}") from None
    try:
        file: BinaryIO | None = None
        fields: list[tuple[str, str]] = []
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields.append((name, value))
            elif name == "file":
                file = value.file
            else:
                raise InvalidRequest(f"the form's only file must be named file; got {name[:60]!r}")
        yield file, fields
    finally:
        await asyncio.shield(asyncio.create_task(form.close()))  # also where the client has left


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled when the client leaves. Raises Cancelled then."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client has left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def drain(request: Request, cap: int) -> None:
    """Read what is left of a body that is refused: a client that still sends would not read the answer. Gives up beyond the cap."""
    try:
        async for _ in _capped(request, cap):
            pass
    except (TooLarge, ClientDisconnect, RuntimeError):  # RuntimeError: all of it has been read
        pass
