"""A session of OpenAI's realtime API: what its client sends, and what it is told. Knows no connection."""

import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Message

from handler.audio.base64_text import decode_base64, decoded_size
from handler.errors import AsrError, InvalidRequest
from handler.live.events import LiveEvent
from handler.live.latency import LiveLatency
from handler.live.live_session import LiveSession
from handler.live.sample_stream import SampleStream
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from handler.validators import short_repr
from local_server.live.connection import End
from local_server.live.outbox import KEPT, Outbox
from local_server.live.realtime_config import FORMATS, RealtimeConfig
from local_server.live.realtime_errors import RefusedEvent, error_of
from local_server.live.realtime_events import RealtimeEvents

EVENT_PREFIX = "event_"
_NUMBER = re.compile(r"[0-9]{1,15}")
MAX_EVENT_ID_CHARS = 512
# A large event is audio, which is one text. Other JSON of that size would take long to parse.
LARGE_CHARS, MAX_PARTS = 2**16, 100
MAX_AUDIO_BYTES = 15 * 1024**2  # of one event
EVENTS = ("session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear")


class RealtimeSession:
    """One session. `receive` takes the client's events, and `outbox` has those for the client."""

    def __init__(self, pipeline: Pipeline, settings: Settings, config: RealtimeConfig, latency: LiveLatency) -> None:
        """Begin a session."""
        self.id = f"sess_{secrets.token_hex(16)}"
        self.outbox = Outbox()
        self.is_finished = False  # the protocol has no event that ends a session
        self.is_resumable = True
        self.expires_at = time.time() + settings.session_limit_s
        self._pipeline = pipeline
        self._settings = settings
        self._config = config
        self._live = LiveSession(pipeline.resources, config.live(), latency, self._write)
        self._events = RealtimeEvents(f"item_{self.id[5:21]}", pipeline.token_bytes)
        self._stream = _stream_of(config)
        self._num_bytes = 0  # of audio that have arrived in all

    def tell_created(self) -> None:
        """Tell the client of the session, which is new or has a connection again."""
        self._tell({"type": "session.created", "session": self._as_dict()})

    async def receive(self, message: Message) -> None:
        """Do what one event of the client asks for."""
        event: Mapping[str, Any] = {}
        try:
            event = _parse(message.get("text"))
            await self._do(event)
        except (RefusedEvent, AsrError) as exc:
            event_id = event.get("event_id")
            event_id = event_id[:MAX_EVENT_ID_CHARS] if isinstance(event_id, str) else None
            error = error_of(exc) | {"event_id": event_id}
            self._tell({"type": "error", "error": error})

    def tell_error(self, error: AsrError) -> None:
        """Tell the client of an error that no event of its own has caused."""
        self._tell({"type": "error", "error": error_of(error) | {"event_id": None}})

    def tell_end(self, end: End) -> None:
        """Tell the client why its session ends."""
        error = error_of(RefusedEvent("session_expired", f"the session is over: {end.meaning}"))
        self._tell({"type": "error", "error": error | {"event_id": None}})

    def resume(self, last_event_id: str | None) -> str:
        """Let a client that has a connection again have what it missed, and return the first event for it.

        Events behind `last_event_id` are sent again. Without, those are sent that were not sent before the cut. Raises
        InvalidRequest.
        """
        if last_event_id is not None:
            number = last_event_id.removeprefix(EVENT_PREFIX)
            if not _NUMBER.fullmatch(number) or not self.outbox.rewind(int(number)):
                raise InvalidRequest(
                    f"last_event_id must be that of one of the last {KEPT} events; got {short_repr(last_event_id)}",
                    "last_event_id",
                )
        created = {"type": "session.created", "session": self._as_dict()}
        return json.dumps({**created, "event_id": f"{EVENT_PREFIX}{self.outbox.last_taken}"})

    async def finish(self) -> None:
        """Complete the text of what has arrived."""
        await self._live.push(self._stream.flush())
        await self._live.finish()

    def close(self) -> None:
        """Stop all work."""
        self._live.close()

    def _tell(self, content: Mapping[str, Any]) -> None:
        """Send an event to the client."""
        self.outbox.add(json.dumps({**content, "event_id": f"{EVENT_PREFIX}{self.outbox.next_number}"}))

    async def _do(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "session.update":
            self._update(event)
        elif kind == "input_audio_buffer.append":
            await self._append(event)
        elif kind == "input_audio_buffer.commit":
            _check_fields(event, ())
            await self._live.push(self._stream.flush())
            try:
                self._live.commit()
            except InvalidRequest as exc:
                raise RefusedEvent("input_audio_buffer_commit_empty", exc.message) from None
        elif kind == "input_audio_buffer.clear":
            _check_fields(event, ())
            self._stream = _stream_of(self._config)
            self._live.clear()
        else:
            expected = f"type must be one of {', '.join(EVENTS)}; got {short_repr(kind)}"
            raise RefusedEvent("invalid_value", expected, "type")

    def _update(self, event: Mapping[str, Any]) -> None:
        _check_fields(event, ("session",))
        pipeline = self._pipeline
        config = self._config.updated(event.get("session"), self._settings, pipeline)
        self._live.config = config.live()
        if (config.format, config.rate) != (self._config.format, self._config.rate):
            self._stream = _stream_of(config)
        self._config = config
        self._tell({"type": "session.updated", "session": self._as_dict()})

    async def _append(self, event: Mapping[str, Any]) -> None:
        _check_fields(event, ("audio",))
        audio = event.get("audio")
        if not isinstance(audio, str):
            raise RefusedEvent("invalid_value", f"audio must be base64 text; got {short_repr(audio)}", "audio")
        if decoded_size(audio) > MAX_AUDIO_BYTES:
            raise RefusedEvent("invalid_value", f"audio must be at most {MAX_AUDIO_BYTES} bytes in base64", "audio")
        data = decode_base64(audio, "audio")
        for piece in self._stream.slices(data):
            self._num_bytes += len(piece)  # and from here on, it is in the session even if the wait is cancelled
            await self._live.push(self._stream.push(piece))

    def _write(self, event: LiveEvent) -> None:
        for content in self._events.write(event, logprobs=self._config.logprobs):
            self._tell(content)

    def _as_dict(self) -> dict[str, Any]:
        return {
            **self._config.as_dict(self._pipeline.model_id),
            "id": self.id,
            "expires_at": round(self.expires_at),
            "received_bytes": self._num_bytes,
        }


def _stream_of(config: RealtimeConfig) -> SampleStream:
    return SampleStream(FORMATS[config.format], config.rate)


def _parse(text: str | None) -> Mapping[str, Any]:
    if text is None:
        raise RefusedEvent("invalid_event", "expected a text message with JSON; got a binary one")
    if len(text) > LARGE_CHARS and sum(map(text.count, "[{,")) > MAX_PARTS:
        raise RefusedEvent("invalid_json", "expected a flat JSON object with audio; got another event of that size")
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedEvent("invalid_json", "expected a JSON object; this is not JSON") from None
    if not isinstance(event, dict):
        raise RefusedEvent("invalid_json", f"expected a JSON object; got {short_repr(event)}")
    return event


def _check_fields(event: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise RefusedEvent if an event has a field that is not known."""
    for name in event:
        if name not in ("type", "event_id", *names):
            expected = ", ".join(("type", "event_id", *names))
            raise RefusedEvent(
                "unknown_parameter", f"{str(name)[:60]} is not known here; expected {expected}", str(name)[:60]
            )
