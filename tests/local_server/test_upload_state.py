"""The stages of an upload, walked in random order with real bodies: what work sees, and what it is told at the end."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import Request
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, sampled_from
from starlette.types import Message

from handler.audio.spool import Spool
from handler.errors import AsrError, Cancelled, InvalidRequest
from handler.transcription.admission import Admission
from local_server.uploads.early_start import start_early
from local_server.uploads.request_body import RequestBody
from local_server.uploads.upload_state import NEXT_STAGES, Stage, Superseded, UploadState
from tests.conftest import settings

BOUNDARY = "b"
FILE_HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
FORM_END = f"\r\n--{BOUNDARY}--\r\n".encode()


def field(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


@pytest.mark.parametrize("first", Stage)
@pytest.mark.parametrize("second", Stage)
def test_only_the_transitions_that_are_written_down_are_possible(first: Stage, second: Stage) -> None:
    state = UploadState()
    state.stage = first
    if second in NEXT_STAGES[first]:
        state.move(second)
        assert state.stage is second
    else:
        with pytest.raises(RuntimeError, match=f"{second.name} cannot follow {first.name}"):
            state.move(second)
        assert state.stage is first


async def test_work_that_is_superseded_ends_even_if_it_is_done() -> None:
    state = UploadState()

    async def revise() -> str:
        state.revise()
        return "old"

    with pytest.raises(Superseded):
        await state.run(revise(), state.revision)
    assert await state.run(revise()) == "old"  # it depends on no revision


async def test_work_ends_with_its_client() -> None:
    state = UploadState()
    began = asyncio.Event()
    ended = list[bool]()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = asyncio.create_task(state.run(work()))
    await began.wait()
    state.move(Stage.CLIENT_GONE, Cancelled("gone"))
    with pytest.raises(Cancelled):
        await task
    assert ended == [True]


class Work:
    """Reads the whole file, with the fields that were there when it began. Refuses those whose last field is `bad`.

    A stream returns at once, and leaves something that ends with the request.
    """

    def __init__(self, body: RequestBody, is_stream: bool) -> None:
        self.body = body
        self.is_stream = is_stream
        self.num_starts = 0
        self.num_open = 0  # background tasks that are not ended

    async def start(self, stack: AsyncExitStack) -> list[str]:
        assert self.body.form is not None
        self.num_starts += 1
        fields = [name for name, _ in self.body.form.fields]
        if fields and fields[-1] == "bad":
            raise InvalidRequest("a bad field")
        self.num_open += 1
        stack.callback(self._end)
        if not self.is_stream:
            await self.body.in_time(self.body.state.until_ended())
        return fields

    def _end(self) -> None:
        self.num_open -= 1


class Uploads(RuleBasedStateMachine):
    """One form, whose pieces arrive in any order that a client may send, and whose client may leave at any time."""

    @initialize(is_stream=booleans())
    def begin(self, is_stream: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.sent = list[str]()  # names of fields, and "file"
        self.is_over = False  # whether the client sends no more
        self.has_left = False
        self.is_broken = False  # whether the client has sent what is no form
        self.run(self.open(is_stream))

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    async def open(self, is_stream: bool) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        scope = {
            "type": "http",
            "method": "POST",
            "headers": [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())],
        }
        self.life = AsyncExitStack()
        self.admission = Admission(1)
        place = self.life.enter_context(self.admission.enter())
        self.body = RequestBody(Request(scope, self.messages.get), settings(), place, Spool(10**6), self.life)
        self.body.start()
        self.work = Work(self.body, is_stream)
        self.answer = asyncio.create_task(start_early(self.body, self.work.start))
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def send(self, content: bytes, more: bool = True) -> None:
        self.messages.put_nowait({"type": "http.request", "body": content, "more_body": more})
        await self.settle()

    @precondition(lambda self: not self.is_over and self.sent[-1:] != ["file"])
    @rule(name=sampled_from(["language", "task", "bad"]))
    def send_field(self, name: str) -> None:
        self.sent.append(name)
        self.run(self.send(field(name, "en")))

    @precondition(lambda self: not self.is_over and "file" not in self.sent)
    @rule()
    def send_file(self) -> None:
        self.sent.append("file")
        self.run(self.send(FILE_HEAD + b"sound"))

    @precondition(lambda self: not self.is_over and self.sent[-1:] == ["file"])
    @rule(name=sampled_from(["language", "bad"]))
    def send_field_after_the_file(self, name: str) -> None:
        self.sent.append(name)
        self.run(self.send(b"\r\n" + field(name, "en")))

    @precondition(lambda self: not self.is_over and self.sent[-1:] == ["file"])
    @rule()
    def send_more_of_the_file(self) -> None:
        self.run(self.send(b"more sound"))

    @precondition(lambda self: not self.is_over and self.sent[-1:] == ["file"])
    @rule(together=booleans())
    def end_with_a_field(self, together: bool) -> None:
        """Send a field and the end of the form in one piece, or in two that arrive together."""
        self.sent.append("language")
        self.is_over = True
        parts = [b"\r\n" + field("language", "en"), FORM_END.lstrip()]
        if together:
            parts = [b"".join(parts)]
        for number, part in enumerate(parts, 1):
            more = number < len(parts)
            self.messages.put_nowait({"type": "http.request", "body": part, "more_body": more})
        self.run(self.settle())

    @precondition(lambda self: not self.is_over and self.sent)
    @rule()
    def end(self) -> None:
        self.is_over = True
        end = FORM_END if self.sent[-1] == "file" else FORM_END.lstrip()
        self.run(self.send(end, more=False))

    @precondition(lambda self: not self.is_over)
    @rule()
    def break_off(self) -> None:
        """End the body before the form has ended."""
        self.is_over = self.is_broken = True
        self.run(self.send(b"", more=False))

    @rule()
    def wait(self) -> None:
        """Nothing arrives."""
        self.run(self.settle())

    @precondition(lambda self: not self.has_left)
    @rule()
    def leave(self) -> None:
        was_over = self.is_over
        self.is_over = self.has_left = True
        self.is_broken = self.is_broken and was_over
        self.messages.put_nowait({"type": "http.disconnect"})
        self.run(self.settle())

    @invariant()
    def the_stage_is_what_has_arrived(self) -> None:
        stage = self.body.state.stage
        if self.is_broken:
            assert stage is Stage.FAILED
        elif self.has_left:
            assert stage is Stage.CLIENT_GONE
        elif self.is_over:
            assert stage is Stage.COMPLETE
        else:
            assert stage is (Stage.READY if "file" in self.sent[1:] else Stage.RECEIVING)

    @invariant()
    def work_begins_at_once_and_again_at_the_end_alone(self) -> None:
        assert self.work.num_starts <= 2
        if self.body.state.stage is Stage.READY and not self.body.state.revision:
            assert self.work.num_starts == 1
        if self.body.state.stage is Stage.READY and self.body.state.revision:
            assert self.work.num_open == 0  # what began too early has ended

    @invariant()
    def the_answer_has_all_fields_or_says_why_not(self) -> None:
        if not self.is_over:
            assert not self.answer.done()
            return
        assert self.answer.done()
        error = self.answer.exception()
        if error is None:
            assert self.answer.result() == [name for name in self.sent if name != "file"]
            assert self.work.num_open == 1  # until the request ends
        else:
            assert isinstance(error, AsrError)
            is_bad = [name for name in self.sent if name != "file"][-1:] == ["bad"]
            assert self.has_left or self.is_broken or is_bad

    def teardown(self) -> None:
        if hasattr(self, "body"):
            self.run(self.close())
            self.loop.close()

    async def close(self) -> None:
        self.answer.cancel()
        await asyncio.gather(self.answer, return_exceptions=True)
        await self.life.aclose()
        assert self.work.num_open == 0
        assert not self.admission.places


Uploads.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=12, deadline=None)
TestUploads = Uploads.TestCase
