"""Serve Wyoming, the protocol of Home Assistant's voice: speech arrives over TCP, and its text is told while it does.

The protocol has no keys. Source: github.com/OHF-Voice/wyoming, the public `wyoming` package, an optional dependency.
"""

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler, AsyncTcpServer

from handler import __version__, logs
from handler.errors import AsrError, Internal, InvalidRequest
from handler.languages import LANGUAGES
from handler.live.events import Completed, Failed, Hypothesis, LiveEvent
from handler.live.live_session import LiveConfig, LiveSession
from handler.live.sample_stream import PCM16, SampleStream
from handler.schema.options import Options
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from local_server.live.live_sessions import LiveSessions

ATTRIBUTION = Attribution(name="asr-handler", url="https://github.com/asr-handler/asr-handler")


class WyomingServer:
    """Listens on a port until `stop`."""

    def __init__(self, pipeline: Pipeline, sessions: LiveSessions, settings: Settings, port: int) -> None:
        """Serve a pipeline. `sessions` counts what is open, and HOST may be `*` for all addresses."""
        host = settings.host
        self._server = AsyncTcpServer("0.0.0.0" if host == "*" else host, port)  # noqa: S104 - as HOST says
        self._handler = partial(WyomingHandler, pipeline, sessions, settings.session_idle_s)

    async def start(self) -> None:
        """Begin to listen. Raises OSError if the port cannot be used."""
        await self._server.start(self._handler)

    async def stop(self) -> None:
        """End all connections."""
        await self._server.stop()


class WyomingHandler(AsyncEventHandler):
    """One connection, by which one stretch of speech comes after another."""

    def __init__(self, pipeline: Pipeline, sessions: LiveSessions, idle_s: float, *streams: Any) -> None:
        super().__init__(*streams)
        self.id = f"wyoming_{id(self):x}"
        self._pipeline = pipeline
        self._sessions = sessions
        self._idle_s = idle_s
        self._options = Options()
        self._stream: SampleStream | None = None
        self._session: LiveSession | None = None
        self._told: deque[LiveEvent] = deque()
        self._has_begun = False  # to tell text
        self._text = ""
        self._idle: asyncio.Task[None] | None = None  # which waits for the next event of somebody who speaks

    async def run(self) -> None:
        """Receive events until the connection ends, be it in the middle of one."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await super().run()

    async def handle_event(self, event: Event) -> bool:
        """Do what an event asks for. Return whether the connection goes on."""
        self._stop_waiting()
        try:
            await self._handle(event)
        except AsrError as exc:
            return await self._fail(exc)
        except ConnectionError:
            return False
        except Exception as exc:
            logs.error("wyoming_crashed", exc)
            return await self._fail(Internal(f"a fault of this server: {type(exc).__name__}"))
        if self._session is not None:
            self._idle = asyncio.create_task(self._give_up_when_idle())
        return True

    async def disconnect(self) -> None:
        """Stop all work of the connection."""
        self._stop_waiting()
        self._sessions.end(self.id)

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _give_up_when_idle(self) -> None:
        """End the connection of a client that has begun to speak and sends no more: it may be gone."""
        await asyncio.sleep(self._idle_s)
        try:
            with suppress(ConnectionError):
                await self._fail(InvalidRequest(f"expected audio-chunk or audio-stop within {self._idle_s:g} s"))
        finally:
            await self.stop()

    def close(self) -> None:
        """Stop the speech that is being transcribed, if there is any."""
        if self._session is not None:
            self._session.close()
            self._session = None

    async def _handle(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write_event(_info(self._pipeline).event())
        elif Ping.is_type(event.type):
            await self.write_event(Pong(text=Ping.from_event(event).text).event())
        elif Transcribe.is_type(event.type):
            self._options = self._parse(Transcribe.from_event(event))
        elif AudioStart.is_type(event.type):
            self._begin(AudioStart.from_event(event))
        elif AudioChunk.is_type(event.type):
            await self._hear(AudioChunk.from_event(event))
        elif AudioStop.is_type(event.type):
            await self._end()

    def _parse(self, request: Transcribe) -> Options:
        terms = [*(request.transcript_names or ()), *(request.transcript_terms or ())]
        values = {"language": request.language, "hotwords": ", ".join(map(str, terms)) or None, "timestamps": "word"}
        options = Options.parse(values)
        self._pipeline.check_live(options)
        return options

    def _begin(self, start: AudioStart) -> None:
        if (start.width, start.channels) != (2, 1) or not 4_000 <= start.rate <= 192_000:
            received = f"{start.width} bytes, {start.channels} channels at {start.rate} Hz"
            raise InvalidRequest(f"expected samples of 2 bytes in 1 channel at 4000 to 192000 Hz; got {received}")
        self._sessions.end(self.id)
        self._sessions.check_room()
        self._told, self._has_begun, self._text = deque(), False, ""
        self._stream = SampleStream(PCM16, start.rate)
        config = LiveConfig(self._options, detection=None)
        self._session = LiveSession(self._pipeline.resources, config, self._sessions.latency, self._told.append)
        self._sessions.add(self)

    async def _hear(self, chunk: AudioChunk) -> None:
        if self._session is None or self._stream is None:
            raise InvalidRequest("expected audio-start before audio-chunk")
        await self._session.push(self._stream.push(chunk.audio))
        await self._tell()

    async def _end(self) -> None:
        """Tell the text of what has arrived."""
        if self._session is None or self._stream is None:
            raise InvalidRequest("expected audio-start before audio-stop")
        await self._session.push(self._stream.flush())
        await self._session.finish()
        await self._tell()
        self._sessions.end(self.id)
        if not self._has_begun:
            await self.write_event(TranscriptStart(language=self._options.language).event())
        await self.write_event(Transcript(text=self._text, language=self._options.language).event())
        await self.write_event(TranscriptStop().event())

    async def _tell(self) -> None:
        """Tell what is settled. Raises AsrError if the speech cannot be transcribed."""
        while self._told:
            event = self._told.popleft()
            if isinstance(event, Hypothesis) and event.delta:
                if not self._has_begun:
                    await self.write_event(TranscriptStart(language=self._options.language).event())
                self._has_begun = True
                await self.write_event(TranscriptChunk(text=event.delta).event())
            elif isinstance(event, Completed):
                self._text = event.text
            elif isinstance(event, Failed):
                raise event.error

    async def _fail(self, error: AsrError) -> bool:
        """Tell an error, and end the connection: clients wait for its end."""
        self._sessions.end(self.id)
        await self.write_event(Error(text=error.message, code=error.code).event())
        return False


def _info(pipeline: Pipeline) -> Info:
    languages = list(pipeline.capabilities.languages or LANGUAGES)
    common: dict[str, Any] = {"attribution": ATTRIBUTION, "installed": True, "version": __version__}
    model = AsrModel(name=pipeline.model_id, description=pipeline.model_id, languages=languages, **common)
    program = AsrProgram(
        name="asr-handler",
        description="Speech to text",
        models=[model],
        supports_transcript_streaming=True,
        requires_external_vad=True,
        **common,
    )
    return Info(asr=[program])
