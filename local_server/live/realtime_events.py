"""Write what happens in a live session as events of OpenAI's realtime API. Knows no connection.

Source: platform.openai.com/docs/api-reference/realtime-server-events; the types of the public `openai` package.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from handler.live.events import (
    Cleared,
    Committed,
    Completed,
    Failed,
    Hypothesis,
    LiveEvent,
    Settled,
    SpeechStarted,
    SpeechStopped,
)
from handler.output.formats import UNKNOWN_SPEAKER
from handler.schema.transcript import Word
from handler.transcription.word_edits import all_words
from local_server.live.realtime_errors import error_of
from local_server.openai_entries import TokenBytes, logprob_entries, usage_of, word_entries

TRANSCRIPTION = "conversation.item.input_audio_transcription"


class RealtimeEvents:
    """Writes the events of one session."""

    def __init__(self, item_prefix: str, token_bytes: TokenBytes) -> None:
        self._item_prefix = item_prefix
        self._token_bytes = token_bytes
        self._last_committed: str | None = None
        self._num_segments = 0  # that were told

    def write(self, event: LiveEvent, *, logprobs: bool) -> Iterator[dict[str, Any]]:
        """Yield the events that tell what has happened, with log-probabilities of tokens if they are wanted."""
        if isinstance(event, Cleared):
            yield {"type": "input_audio_buffer.cleared"}
            return
        item_id = f"{self._item_prefix}_{event.turn}"
        if isinstance(event, SpeechStarted):
            yield {
                "type": "input_audio_buffer.speech_started",
                "audio_start_ms": round(event.at_s * 1000),
                "item_id": item_id,
            }
        elif isinstance(event, SpeechStopped):
            yield {
                "type": "input_audio_buffer.speech_stopped",
                "audio_end_ms": round(event.at_s * 1000),
                "item_id": item_id,
            }
        elif isinstance(event, Committed):
            yield from self._committed(item_id)
        elif isinstance(event, Hypothesis) and event.delta:
            yield self._transcription("delta", item_id, delta=event.delta) | self._logprobs(event.words, logprobs)
        elif isinstance(event, Settled):
            yield from self._segments(event, item_id)
        elif isinstance(event, Completed):
            yield self._completed(event, item_id, logprobs=logprobs)
        elif isinstance(event, Failed):
            yield self._transcription("failed", item_id, error=error_of(event.error))

    def _committed(self, item_id: str) -> Iterator[dict[str, Any]]:
        previous, self._last_committed = self._last_committed, item_id
        yield {"type": "input_audio_buffer.committed", "item_id": item_id, "previous_item_id": previous}
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        for name in ("added", "done"):
            yield {"type": f"conversation.item.{name}", "previous_item_id": previous, "item": item}

    def _segments(self, event: Settled, item_id: str) -> Iterator[dict[str, Any]]:
        """Yield who says what, if that is known."""
        if not event.has_speakers:
            return
        for segment in event.segments:
            self._num_segments += 1
            yield self._transcription(
                "segment",
                item_id,
                id=f"{self._item_prefix}_seg_{self._num_segments}",
                text=segment.text,
                speaker=segment.speaker or UNKNOWN_SPEAKER,
                start=segment.start,
                end=segment.end,
            )

    def _completed(self, event: Completed, item_id: str, *, logprobs: bool) -> dict[str, Any]:
        words = all_words(event.segments)
        content = self._transcription(
            "completed",
            item_id,
            transcript=event.text,
            usage=usage_of(event.end_s - event.start_s),
            languages=[] if event.language is None else [{"code": event.language}],
            words=word_entries(words),
        )
        return content | self._logprobs(words, logprobs)

    def _transcription(self, name: str, item_id: str, **content: Any) -> dict[str, Any]:
        return {"type": f"{TRANSCRIPTION}.{name}", "item_id": item_id, "content_index": 0, **content}

    def _logprobs(self, words: Sequence[Word], is_wanted: bool) -> dict[str, Any]:
        if not is_wanted:
            return {}
        return {"logprobs": logprob_entries(words, self._token_bytes)}
