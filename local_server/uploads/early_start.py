"""Begin with the work of a request before its body has arrived, and begin again if that was too early.

Knows no route and no work.
"""

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from handler.errors import InvalidRequest, ModelNotFound
from local_server.uploads.request_body import RequestBody
from local_server.uploads.upload_state import Superseded

T = TypeVar("T")
Start = Callable[[AsyncExitStack], Coroutine[Any, Any, T]]


async def start_early(body: RequestBody, start: Start[T]) -> T:
    """Call `start`, before the whole body has arrived if possible, and return its result.

    `start` may put background tasks on the stack that it gets, which end with the request. A body that is not a form
    starts at once. A form with a field before its file starts when the file begins to arrive. If another field follows
    the file, it may change the options: the call and its tasks are cancelled, and `start` is called again at the end of
    the form. A form without a field before its file starts at the end of the form.

    Raises AsrError, which is Cancelled if the client disconnects.
    """
    await body.in_time(body.state.until_ready())
    while True:
        try:
            revision = body.state.revision
            return await body.state.run(_attempt(body, start, revision), revision)
        except Superseded:
            await body.in_time(body.state.until_ended())


async def _attempt(body: RequestBody, start: Start[T], revision: int) -> T:
    """Return the result of `start`, and leave its tasks to the request. If a later field supersedes it, end them."""
    async with AsyncExitStack() as stack:
        try:
            result = await start(stack)
        except (InvalidRequest, ModelNotFound):
            await body.until_all_fields()  # one that has yet to arrive may resolve the error
            raise
        await body.until_all_fields()
        if body.state.revision != revision:  # the last field and the end of the form may come together
            raise Superseded
        body.life.push_async_exit(stack.pop_all())
        return result
