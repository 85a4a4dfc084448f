"""Home Assistant's protocol, by the client of its public package."""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from handler.transcription.pipeline import Pipeline
from local_server.live.wyoming_server import WyomingHandler
from tests.conftest import TINY
from tests.support.realtime_client import pcm
from tests.support.serving import Server, free_port, read_metrics, serving, wait_until
from tests.support.speech import FOX, PANGRAM, say
from tests.support.word_errors import word_error_rate

RATE = 16_000


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(pipeline: Pipeline, port: int) -> Iterator[Server]:
    with serving(pipeline, wyoming_port=port, host="127.0.0.1", max_sessions=1) as running_server:
        yield running_server


@pytest.fixture
async def client(server: Server, port: int) -> AsyncIterator[AsyncTcpClient]:
    async with AsyncTcpClient("127.0.0.1", port) as client:
        yield client


async def read(client: AsyncTcpClient) -> Event:
    event = await client.read_event()
    assert event is not None, "the connection ended"
    return event


async def say_to(client: AsyncTcpClient, text: str, rate: int = RATE) -> None:
    await client.write_event(AudioStart(rate=rate, width=2, channels=1).event())
    audio = pcm(say(text), rate)
    for start in range(0, len(audio), 2048):
        await client.write_event(AudioChunk(rate, 2, 1, audio[start : start + 2048]).event())
    await client.write_event(AudioStop().event())


async def heard(client: AsyncTcpClient) -> tuple[str, str]:
    """Return the text of all chunks, and the whole one."""
    assert TranscriptStart.is_type((await read(client)).type)
    chunks = ""
    while TranscriptChunk.is_type((event := await read(client)).type):
        chunks += TranscriptChunk.from_event(event).text
    assert Transcript.is_type(event.type)
    assert TranscriptStop.is_type((await read(client)).type)
    return chunks, Transcript.from_event(event).text


async def test_the_model_is_described(client: AsyncTcpClient) -> None:
    await client.write_event(Describe().event())
    info = Info.from_event(await read(client))
    assert info.asr[0].supports_transcript_streaming
    assert (info.asr[0].models[0].name, info.asr[0].models[0].languages) == (TINY, ["en"])


async def test_one_sentence_after_another(client: AsyncTcpClient, server: Server) -> None:
    await client.write_event(Transcribe(language="en").event())
    for text, rate in ((FOX, RATE), (PANGRAM, 22_050)):
        await say_to(client, text, rate)
        chunks, whole = await heard(client)
        assert word_error_rate(text, whole) == 0
        assert chunks == whole
    assert read_metrics(server)["asr_live_sessions"] == 0


async def test_terms_have_their_effect(client: AsyncTcpClient) -> None:
    await client.write_event(Transcribe(transcript_names=["quick brown Foks"], transcript_terms=["Foks"]).event())
    await say_to(client, FOX)
    assert word_error_rate(FOX, (await heard(client))[1]) <= 0.2


async def test_silence_has_an_empty_text(client: AsyncTcpClient) -> None:
    await client.write_event(AudioStart(rate=RATE, width=2, channels=1).event())
    await client.write_event(AudioStop().event())
    assert await heard(client) == ("", "")


async def test_a_ping_is_answered(client: AsyncTcpClient) -> None:
    await client.write_event(Ping(text="a").event())
    assert Pong.from_event(await read(client)).text == "a"


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (Transcribe(language="klingon").event(), "language"),
        (AudioStart(rate=RATE, width=4, channels=2).event(), "2 bytes in 1 channel"),
        (AudioStop().event(), "audio-start"),
        (AudioChunk(RATE, 2, 1, bytes(2)).event(), "audio-start"),
    ],
)
async def test_what_is_not_done_is_an_error_and_ends_the_connection(
    client: AsyncTcpClient, event: Event, named: str
) -> None:
    await client.write_event(event)
    error = Error.from_event(await read(client))
    assert named in error.text
    assert await client.read_event() is None


async def test_there_is_room_for_so_many(client: AsyncTcpClient, port: int) -> None:
    await client.write_event(AudioStart(rate=RATE, width=2, channels=1).event())
    await client.write_event(Ping().event())
    await read(client)
    async with AsyncTcpClient("127.0.0.1", port) as other:
        await other.write_event(AudioStart(rate=RATE, width=2, channels=1).event())
        assert Error.from_event(await read(other)).code == "overloaded"


IDLE_S = 1.0


@pytest.fixture
async def impatient(pipeline: Pipeline) -> AsyncIterator[AsyncTcpClient]:
    """Yield a client of a server that waits IDLE_S for the next event of somebody who speaks."""
    port = free_port()
    with serving(pipeline, wyoming_port=port, host="127.0.0.1", session_idle_s=IDLE_S) as server:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            yield client
        await asyncio.to_thread(wait_until, lambda: read_metrics(server)["asr_live_sessions"] == 0)


async def test_a_client_that_stops_in_the_middle_keeps_no_place(impatient: AsyncTcpClient) -> None:
    await impatient.write_event(AudioStart(rate=RATE, width=2, channels=1).event())
    assert "within 1 s" in Error.from_event(await read(impatient)).text
    assert await impatient.read_event() is None


async def test_a_client_that_stops_in_the_middle_of_an_event_keeps_no_place(
    impatient: AsyncTcpClient, caplog: pytest.LogCaptureFixture
) -> None:
    await impatient.write_event(AudioStart(rate=RATE, width=2, channels=1).event())
    assert impatient._writer is not None
    impatient._writer.write(b'{"type": "audio-chunk", "payload_length": 2000}\n' + bytes(100))
    await impatient._writer.drain()
    await read(impatient)
    assert await impatient.read_event() is None
    assert not caplog.records


async def test_each_event_of_somebody_who_speaks_begins_the_wait_anew(
    client: AsyncTcpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = list[WyomingHandler]()

    def wait_in_vain(handler: WyomingHandler) -> Coroutine[Any, Any, Any]:
        waiting.append(handler)
        return asyncio.Event().wait()

    monkeypatch.setattr(WyomingHandler, "_give_up_when_idle", wait_in_vain)
    await say_to(client, FOX)
    await heard(client)
    assert len(waiting) == 1 + math.ceil(len(pcm(say(FOX), RATE)) / 2048)
    assert waiting[0]._idle is None  # who does not speak may be silent
