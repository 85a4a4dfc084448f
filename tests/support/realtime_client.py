"""A client of the realtime API with the public `websockets` package, which waits for events instead of seconds."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import soxr
from websockets.asyncio.client import ClientConnection, connect

from handler.schema.window import SAMPLE_RATE
from tests.support.serving import TIMEOUT_S, Server
from tests.support.speech import Samples

TRANSCRIPTION = "conversation.item.input_audio_transcription"
PIECE_S = 0.1


def pcm(samples: Samples, rate: int = 24_000) -> bytes:
    """Return samples as 16-bit integers at another rate."""
    resampled = soxr.resample(samples, SAMPLE_RATE, rate)
    return bytes((np.clip(resampled, -1, 1) * 32767).astype("<i2").tobytes())


class RealtimeClient:
    """One connection, and the events that have come by it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    async def send(self, kind: str, **content: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **content}))

    async def append(self, data: bytes, rate: int = 24_000) -> None:
        """Send audio in pieces."""
        size = round(PIECE_S * rate) * 2
        for start in range(0, len(data), size):
            audio = base64.b64encode(data[start : start + size]).decode()
            await self.send("input_audio_buffer.append", audio=audio)

    async def update(self, *, include: list[str] | None = None, **audio_input: Any) -> dict[str, Any]:
        """Change the session, and return the answer."""
        session: dict[str, Any] = {"type": "transcription", "audio": {"input": audio_input}}
        if include is not None:
            session["include"] = include
        await self.send("session.update", session=session)
        return await self.until("session.updated", "error")

    async def until(self, *kinds: str) -> dict[str, Any]:
        """Return the next event of one of some kinds."""
        while True:
            event: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), TIMEOUT_S))
            self.events.append(event)
            if event["type"] in kinds or event["type"].removeprefix(f"{TRANSCRIPTION}.") in kinds:
                return event

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind that have come."""
        return [event for event in self.events if event["type"] in (kind, f"{TRANSCRIPTION}.{kind}")]

    def told(self) -> str:
        """Return the text of all deltas."""
        return "".join(event["delta"] for event in self.of("delta"))

    def cut(self) -> None:
        """Lose the connection, as a network does."""
        self.socket.transport.abort()


@asynccontextmanager
async def connected(
    server: Server, query: str = "intent=transcription", **options: Any
) -> AsyncIterator[RealtimeClient]:
    """Open a session, and yield its client once the session is there."""
    url = f"{server.url.replace('http', 'ws', 1)}/v1/realtime?{query}"
    async with connect(url, max_size=None, compression=None, **options) as socket:
        client = RealtimeClient(socket)
        await client.until("session.created")
        yield client
