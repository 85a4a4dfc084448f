"""A client of OpenAI's realtime API that speaks at the pace of a person, and notes when each word is told."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import connect

from handler.schema.window import SAMPLE_RATE

PIECE_S = 0.1
QUIET_S = 5.0  # without an event at the end


@dataclass
class Heard:
    """What a client was told, and when, in seconds from the beginning of its speech."""

    words: list[tuple[str, float]] = field(default_factory=list)  # of deltas
    turns: list[tuple[str, float]] = field(default_factory=list)  # complete texts
    errors: list[str] = field(default_factory=list)


async def speak(url: str, samples: NDArray[np.float32], *, diarize: bool = False) -> Heard:
    """Send samples at their own pace to the server at a web socket address, and return what was told."""
    transcription: dict[str, Any] = {"model": "whisper-1"}
    if diarize:  # an extension, which other servers may refuse
        transcription["diarize"] = True
    audio = {"input": {"transcription": transcription, "format": {"type": "audio/pcm", "rate": SAMPLE_RATE}}}
    heard = Heard()
    async with connect(f"{url}/v1/realtime?intent=transcription", max_size=None, compression=None) as socket:
        await socket.send(json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": audio}}))
        began = time.perf_counter()

        async def send(piece: bytes) -> None:
            audio = base64.b64encode(piece).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))

        async def send_all() -> None:
            await at_own_pace(samples, began, send)
            await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))

        sender = asyncio.create_task(send_all())
        try:
            while True:
                message = await asyncio.wait_for(socket.recv(), None if not sender.done() else QUIET_S)
                _note(json.loads(message), time.perf_counter() - began, heard)
        except TimeoutError:
            await sender
    return heard


async def at_own_pace(samples: NDArray[np.float32], began: float, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send samples as 16-bit integers, each piece when it would have been recorded since `began`."""
    size = round(PIECE_S * SAMPLE_RATE)
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
    for first in range(0, len(pcm), size):
        piece = pcm[first : first + size]
        await asyncio.sleep(began + (first + len(piece)) / SAMPLE_RATE - time.perf_counter())
        await send(piece.tobytes())


def _note(event: dict[str, Any], at_s: float, heard: Heard) -> None:
    """Note the words of an event."""
    kind = event["type"].removeprefix("conversation.item.input_audio_transcription.")
    if kind == "delta":
        heard.words += [(word, at_s) for word in event["delta"].split()]
    elif kind == "completed":
        heard.turns.append((event["transcript"], at_s))
    elif kind in ("error", "failed") and event["error"]["code"] != "input_audio_buffer_commit_empty":
        heard.errors.append(event["error"]["message"])
