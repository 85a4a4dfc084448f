"""Write transcripts as Deepgram does. Knows no connection. Source: the types of the public `deepgram-sdk` package."""

import math
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from handler import __version__
from handler.output.paragraphs import paragraphs
from handler.schema.transcript import Segment, Transcript, Word
from handler.transcription.coverage import plausible_span
from handler.transcription.word_edits import all_words
from local_server.live.deepgram_options import ListenRequest


def model_uuid(model_id: str) -> str:
    """Return an id that stands for a model."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, model_id))


def model_info(model_id: str) -> dict[str, str]:
    """Return what is told of a model."""
    return {"name": model_id, "version": __version__, "arch": "asr-handler"}


def alternative(words: Sequence[Word], speakers: Sequence[str], *, is_punctuated: bool) -> dict[str, Any]:
    """Return words as the one alternative that there is. `speakers` are those who have a number."""
    entries = [_word(word, speakers, is_punctuated=is_punctuated) for word in words]
    texts = [word.text.strip() if is_punctuated else _plain(word) for word in words]
    confidence = sum(word.probability for word in words) / len(words) if words else 0.0
    return {
        "transcript": " ".join(text for text in texts if text),
        "confidence": round(confidence, 4),
        "words": [entry for entry in entries if entry["word"]],
    }


def _plain(word: Word) -> str:
    """Return a word in lower case and without the punctuation around it."""
    text = word.text.strip().lower()
    return text.strip("".join(character for character in text if not character.isalnum()))


def _word(word: Word, speakers: Sequence[str], *, is_punctuated: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "word": _plain(word),
        "start": word.start,
        "end": word.end,
        "confidence": round(word.probability, 4),
    }
    if is_punctuated:
        entry["punctuated_word"] = word.text.strip()
    if word.speaker in speakers:
        entry["speaker"] = speakers.index(word.speaker)
    return entry


def metadata(request: ListenRequest, request_id: str, model_id: str, duration_s: float) -> dict[str, Any]:
    """Return what is told of a request."""
    model = model_uuid(model_id)
    content: dict[str, Any] = {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": "incomplete",  # which stands for a hash that nobody has computed
        "created": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "duration": round(duration_s, 3),
        "channels": 1,
        "models": [model],
        "model_info": {model: model_info(model_id)},
    }
    if request.tags:
        content["tags"] = list(request.tags)
    if request.extra:
        content["extra"] = dict(request.extra)
    return content


def file_response(transcript: Transcript, request: ListenRequest, request_id: str) -> dict[str, Any]:
    """Return the answer to a request for a file."""
    channels: dict[int, list[Segment]] = {0: []}
    for segment in transcript.segments:
        channels.setdefault(segment.channel or 0, []).append(segment)
    count = max(channels) + 1
    content = metadata(request, request_id, transcript.model, transcript.duration)
    results: dict[str, Any] = {
        "channels": [_channel(channels.get(number, []), transcript, request) for number in range(count)]
    }
    if request.utterance_gap_s is not None:
        results["utterances"] = [
            utterance for segments in channels.values() for utterance in _utterances(segments, transcript, request)
        ]
        results["utterances"].sort(key=lambda utterance: utterance["start"])
    return {"metadata": {**content, "channels": count}, "results": results}


def _channel(segments: Sequence[Segment], transcript: Transcript, request: ListenRequest) -> dict[str, Any]:
    words = all_words(segments)
    content = alternative(words, transcript.speakers, is_punctuated=request.is_punctuated)
    if request.paragraphs:
        parts = list(paragraphs(segments))
        content["paragraphs"] = {
            "transcript": "\n" + "\n\n".join(part.text for part in parts),
            "paragraphs": [
                {
                    "sentences": [{"text": part.text, "start": part.start, "end": part.end}],
                    "start": part.start,
                    "end": part.end,
                    "num_words": len(part.text.split()),
                }
                for part in parts
            ],
        }
    channel: dict[str, Any] = {"alternatives": [content]}
    if request.detects_language:
        channel["detected_language"] = transcript.language
        channel["language_confidence"] = transcript.language_probability
    return channel


def _utterances(
    segments: Sequence[Segment], transcript: Transcript, request: ListenRequest
) -> Iterator[dict[str, Any]]:
    """Yield stretches of words between pauses, each of one speaker."""
    assert request.utterance_gap_s is not None
    group: list[Word] = []
    words = [(word, segment.channel) for segment in segments for word in segment.words]
    for index, (word, channel) in enumerate(words):
        group.append(word)
        following = words[index + 1][0] if index + 1 < len(words) else None
        gap_s = math.inf if following is None else following.start - plausible_span(word)[1]
        if gap_s >= request.utterance_gap_s or (following is not None and following.speaker != word.speaker):
            content = alternative(group, transcript.speakers, is_punctuated=request.is_punctuated)
            utterance = {"start": group[0].start, "end": word.end, "channel": channel or 0, **content}
            utterance["id"] = str(uuid.uuid4())
            if word.speaker in transcript.speakers:
                utterance["speaker"] = transcript.speakers.index(word.speaker)
            yield utterance
            group = []
