"""Where the body of a request stands, as a state machine. Knows no connection, no bytes and no work.

docs/internals/architecture.md has a drawing of it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TypeVar

from handler.errors import AsrError, Cancelled

CLIENT_LEFT = "the client has left"
T = TypeVar("T")


class Stage(Enum):
    """How far a body has arrived."""

    RECEIVING = auto()  # too little has arrived to begin with the work
    READY = auto()  # the work may begin, while more arrives
    COMPLETE = auto()  # the whole body has arrived
    FAILED = auto()  # no more is accepted, because of an error
    CLIENT_GONE = auto()  # the client has disconnected, before or after the end of the body


NEXT_STAGES = {
    Stage.RECEIVING: {Stage.READY, Stage.COMPLETE, Stage.FAILED, Stage.CLIENT_GONE},
    Stage.READY: {Stage.COMPLETE, Stage.FAILED, Stage.CLIENT_GONE},
    Stage.COMPLETE: {Stage.CLIENT_GONE},
    Stage.FAILED: set[Stage](),
    Stage.CLIENT_GONE: set[Stage](),
}


class Superseded(Exception):
    """Raised when what has arrived changes what the work was begun with, so that the work has to begin again."""


class UploadState:
    """The stage of one body, and the revision of what it asks for. Use it in one event loop."""

    def __init__(self) -> None:
        self.stage = Stage.RECEIVING
        self.failure: AsrError | None = None  # why no more is received, or why nobody waits for the work any more
        self.revision = 0  # grows when something arrives that changes what work begun before it would do
        self._changed = asyncio.Event()  # set at the next change, and replaced then

    @property
    def has_ended(self) -> bool:
        """Whether no more of the body will arrive."""
        return self.stage not in (Stage.RECEIVING, Stage.READY)

    def move(self, stage: Stage, failure: AsrError | None = None) -> None:
        """Go on to a stage. Raises RuntimeError if the stage cannot follow the present one."""
        if stage not in NEXT_STAGES[self.stage]:
            raise RuntimeError(f"{stage.name} cannot follow {self.stage.name}")
        self.stage = stage
        self.failure = failure
        self._tell()

    def revise(self) -> None:
        """Record that something has arrived which changes what work begun before it would do."""
        self.revision += 1
        self._tell()

    def check(self) -> None:
        """Raise the error that ended the receiving, or Cancelled if the client has left since."""
        if self.failure is not None:
            raise self.failure

    async def until_ready(self) -> None:
        """Wait until the work may begin. Raises the AsrError that ended the receiving before."""
        await self._until(lambda: self.stage is not Stage.RECEIVING)
        self.check()

    async def until_ended(self) -> None:
        """Wait until no more of the body will arrive. Raises the AsrError that ended the receiving."""
        await self._until(lambda: self.has_ended)
        self.check()

    async def until_client_gone(self) -> None:
        """Wait until the client disconnects."""
        await self._until(lambda: self.stage is Stage.CLIENT_GONE)

    async def run(self, work: Awaitable[T], revision: int | None = None) -> T:
        """Return the result of an awaitable, which is cancelled if it loses its use before it ends.

        Raises Cancelled if the client disconnects before the awaitable has ended. If the awaitable depends on a
        `revision`, and another one comes, Superseded is raised even if the awaitable has ended. At FAILED it goes on:
        what reads the body learns of the error by reading.
        """

        def is_superseded() -> bool:
            return revision is not None and revision != self.revision

        task = asyncio.ensure_future(work)
        end = asyncio.create_task(self._until(lambda: self.stage is Stage.CLIENT_GONE or is_superseded()))
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            if is_superseded():
                raise Superseded
            if not task.done():
                raise Cancelled(CLIENT_LEFT)
            return task.result()
        finally:
            for future in (task, end):
                future.cancel()
            await asyncio.gather(task, end, return_exceptions=True)

    async def _until(self, is_met: Callable[[], bool]) -> None:
        while not is_met():
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
