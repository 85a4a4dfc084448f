"""A live session of Deepgram's API: what its client sends, and what it is told. Knows no connection.

Source: developers.deepgram.com/docs/live-streaming-audio; the types of the public `deepgram-sdk` package.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from starlette.types import Message

from handler.errors import AsrError, InvalidRequest
from handler.live.events import Completed, Failed, Hypothesis, LiveEvent, Settled, SpeechStarted
from handler.live.latency import LiveLatency
from handler.live.live_session import LiveConfig, LiveSession
from handler.live.sample_stream import SampleStream
from handler.schema.transcript import Word
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import all_words
from handler.validators import short_repr
from local_server.live.connection import End
from local_server.live.deepgram_options import ListenRequest
from local_server.live.deepgram_results import alternative, metadata, model_info, model_uuid
from local_server.live.outbox import Outbox

CHANNELS = [0, 1]  # the first of one
MAX_TEXT_CHARS = 65_536
MESSAGES = ("KeepAlive", "Finalize", "CloseStream")


class DeepgramSession:
    """One session. `receive` takes the client's messages, and `outbox` has those for the client."""

    def __init__(self, pipeline: Pipeline, settings: Settings, request: ListenRequest, latency: LiveLatency) -> None:
        """Begin a session. The request has an encoding and a rate."""
        assert request.encoding is not None
        assert request.rate is not None
        self.id = str(uuid.uuid4())
        self.outbox = Outbox()
        self.expires_at = time.time() + settings.session_limit_s
        self.is_finished = False
        self.is_resumable = False
        self._request = request
        self._model_id = pipeline.model_id
        self._stream = SampleStream(request.encoding, request.rate)
        config = LiveConfig(request.options, request.detection)
        self._live = LiveSession(pipeline.resources, config, latency, self._write)
        self._window_start_s = 0.0  # where the results of the open window begin
        self._told: list[Word] = []  # of the open window
        self._speakers: list[str] = []  # in the order in which they were told, which numbers them
        self._finalized: set[int] = set()  # the turns that the client has ended
        self._has_ended_turn = True  # whether the end of the last turn was told
        self._last_word_end_s = 0.0
        self._utterance_end_s = 0.0  # the end of the word that the last UtteranceEnd named

    async def receive(self, message: Message) -> None:
        """Do what one message of the client asks for."""
        if (data := message.get("bytes")) is not None:
            if data:
                await self._hear(data)
            else:  # as old clients end a stream
                self.is_finished = True
            return
        text = message.get("text") or ""
        try:
            content = json.loads(text) if len(text) <= MAX_TEXT_CHARS else None
        except (ValueError, RecursionError):
            content = None
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "Finalize":
            await self._finalize()
        elif kind == "CloseStream":
            self.is_finished = True
        elif kind != "KeepAlive":
            expected = f"expected JSON with a type, which is one of {', '.join(MESSAGES)}; got {short_repr(text)}"
            self._tell({"type": "Error", "variant": "SchemaError", "description": expected, "message": text[:100]})

    async def finish(self) -> None:
        """Complete the text of what has arrived."""
        await self._live.push(self._stream.flush())
        await self._live.finish()

    def tell_error(self, error: AsrError) -> None:
        """Tell the client of an error that no message of its own has caused."""
        self._tell({"type": "Error", "variant": error.code, "description": error.message, "message": error.message})

    def tell_end(self, end: End) -> None:
        """Tell the client that its session ends."""
        content = metadata(self._request, self.id, self._model_id, self._live.received_s)
        self._tell({"type": "Metadata", **content})

    def close(self) -> None:
        """Stop all work."""
        self._live.close()

    async def _hear(self, data: bytes) -> None:
        for piece in self._stream.slices(data):
            await self._live.push(self._stream.push(piece))
            self._tell_utterance_end()

    def _tell_utterance_end(self) -> None:
        """Tell that nothing was said for some time, once all that was said is told."""
        limit_s, last_s = self._request.utterance_end_s, self._last_word_end_s
        if limit_s is None or last_s <= self._utterance_end_s or self._live.received_s - last_s < limit_s:
            return
        if self._has_ended_turn or self._request.detection is None:
            self._tell({"type": "UtteranceEnd", "channel": CHANNELS, "last_word_end": last_s})
            self._utterance_end_s = last_s

    async def _finalize(self) -> None:
        """Complete the text of what has arrived, and go on."""
        await self._live.push(self._stream.flush())
        with suppress(InvalidRequest):  # there is nothing to end
            self._finalized.add(self._live.commit())
            return
        if self._live.last_unfinished is not None:  # its end is the answer
            self._finalized.add(self._live.last_unfinished)
        else:
            self._tell_final(-1, (), self._live.received_s, is_end=True, is_finalized=True)

    def _write(self, event: LiveEvent) -> None:
        if isinstance(event, SpeechStarted):
            self._has_ended_turn = False
            if self._request.vad_events:
                self._tell({"type": "SpeechStarted", "channel": CHANNELS, "timestamp": round(event.at_s, 3)})
        elif isinstance(event, Hypothesis):
            self._guess(event)
        elif isinstance(event, Settled):
            words = all_words(event.segments)
            self._note(words)
            self._tell_final(event.turn, words, event.end_s, is_end=event.is_last)
        elif isinstance(event, Completed):
            if not self._has_ended_turn or event.turn in self._finalized:
                self._tell_final(event.turn, (), event.end_s, is_end=True)
        elif isinstance(event, Failed):
            self.tell_error(event.error)
            self._tell_final(event.turn, (), self._live.received_s, is_end=True)

    def _guess(self, event: Hypothesis) -> None:
        self._has_ended_turn = False
        self._told += event.words
        words = [*self._told, *event.guess]
        self._note(words)
        if self._request.interim_results and words:
            self._tell_results(words, words[-1].end, is_final=False, is_end=False, from_finalize=False)

    def _tell_final(
        self, turn: int, words: Sequence[Word], end_s: float, *, is_end: bool, is_finalized: bool = False
    ) -> None:
        is_finalized = is_finalized or (is_end and turn in self._finalized)
        self._tell_results(words, end_s, is_final=True, is_end=is_end, from_finalize=is_finalized)
        self._told = []
        self._window_start_s = end_s
        if is_end:
            self._has_ended_turn = True
            self._finalized.discard(turn)

    def _note(self, words: Sequence[Word]) -> None:
        if words:
            self._last_word_end_s = words[-1].end

    def _tell_results(
        self, words: Sequence[Word], end_s: float, *, is_final: bool, is_end: bool, from_finalize: bool
    ) -> None:
        model = {"model_info": model_info(self._model_id), "model_uuid": model_uuid(self._model_id)}
        new = dict.fromkeys(word.speaker for word in words if word.speaker is not None)
        self._speakers += [name for name in new if name not in self._speakers]
        content = alternative(words, self._speakers, is_punctuated=self._request.is_punctuated)
        self._tell(
            {
                "type": "Results",
                "channel_index": CHANNELS,
                "start": round(self._window_start_s, 3),
                "duration": round(max(0.0, end_s - self._window_start_s), 3),
                "is_final": is_final,
                "speech_final": is_end,
                "from_finalize": from_finalize,
                "channel": {"alternatives": [content]},
                "metadata": {"request_id": self.id, **model},
            }
        )

    def _tell(self, content: Mapping[str, Any]) -> None:
        self.outbox.add(json.dumps(content))
