"""Accept the job fields of RunPod's worker-faster_whisper, and build the answer fields that its clients read.

All functions are pure. Knows no engine. Source: runpod-workers/worker-faster_whisper, README.md and src/predict.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidRequest
from handler.output.formats import to_srt, to_verbose_json, to_vtt
from handler.output.line_text import to_line
from handler.schema.model_names import check_model
from handler.schema.transcript import Transcript, Word
from handler.validators import boolean, check, one_of, string

OPTION_NAMES = {"initial_prompt": "prompt", "enable_vad": "vad"}  # name in worker-faster_whisper: name here
SYNONYMS = {**OPTION_NAMES, "audio": "url", "word_timestamps": "timestamps"}  # all names that differ here
COMPAT_FORMATS = ("plain_text", "formatted_text", "srt", "vtt")
COMPAT_FIELDS = frozenset(
    {"audio", "model", "transcription", "translate", "translation", "word_timestamps", *OPTION_NAMES}
)  # fields of a job that only worker-faster_whisper has


@dataclass(frozen=True, slots=True)
class CompatFormat:
    """The answer fields of worker-faster_whisper that are added to this worker's answer, and their formats."""

    transcription: str  # format of the transcript, one of COMPAT_FORMATS
    translation: str | None  # format of the translation, one of COMPAT_FORMATS; None if none is wanted
    word_timestamps: bool  # whether the answer lists every word with its times


def translate_input(
    payload: Mapping[str, Any], model_id: str, aliases: tuple[str, ...]
) -> tuple[dict[str, Any], CompatFormat | None]:
    """Translate the input fields of a job from worker-faster_whisper's names into this worker's.

    Return the translated fields and a CompatFormat. The CompatFormat is None if the job sets none of COMPAT_FIELDS. A
    field that is null counts as not set. The job's field `model`, if set, must be `model_id` or one of
    `aliases`. Raises InvalidRequest.
    """
    fields = {name: value for name, value in payload.items() if name not in COMPAT_FIELDS}
    compat_fields = {name: value for name, value in payload.items() if name in COMPAT_FIELDS and value is not None}
    if not compat_fields:
        return fields, None
    if "model" in compat_fields:
        check_model(check("model", compat_fields["model"], string), model_id, aliases, InvalidRequest)
    _check_synonyms(fields, compat_fields)
    fields |= {OPTION_NAMES[name]: value for name, value in compat_fields.items() if name in OPTION_NAMES}
    if "audio" in compat_fields:
        fields["url"] = check("audio", compat_fields["audio"], string)
    word_timestamps = check("word_timestamps", compat_fields.get("word_timestamps", False), boolean)
    if word_timestamps:
        fields["timestamps"] = "word"
    transcription = _parse_format("transcription", compat_fields)
    translation = _parse_format("translation", compat_fields)
    if not check("translate", compat_fields.get("translate", False), boolean):
        return fields, CompatFormat(transcription, None, word_timestamps)
    return fields, CompatFormat(transcription, translation, word_timestamps)


def _check_synonyms(fields: Mapping[str, Any], compat_fields: Mapping[str, Any]) -> None:
    """Raise InvalidRequest if a job sets a field twice, under worker-faster_whisper's name and under this worker's."""
    for name, own_name in SYNONYMS.items():
        if name in compat_fields and fields.get(own_name) is not None:
            raise InvalidRequest(f"{name} and {own_name} are the same; expected one of them", name)


def _parse_format(name: str, compat_fields: Mapping[str, Any]) -> str:
    return check(name, compat_fields.get(name, COMPAT_FORMATS[0]), one_of(COMPAT_FORMATS))


def to_compat_fields(
    compat_format: CompatFormat, transcript: Transcript, translation: Transcript | None
) -> dict[str, Any]:
    """Return the answer fields that clients of worker-faster_whisper read.

    `translation` is the transcript of a second pass with the task `translate`, or None if no translation was wanted.
    """
    segments = to_verbose_json(transcript)["segments"]
    fields: dict[str, Any] = {
        "segments": [{"seek": round(segment["start"] * 100), **segment} for segment in segments],
        "detected_language": transcript.language,
        "transcription": _format_text(transcript, compat_format.transcription),
        "translation": None,
        "device": "cpu" if transcript.account.get("device") == "cpu" else "cuda",
    }
    if translation and compat_format.translation:
        fields["translation"] = _format_text(translation, compat_format.translation)
    if translation:
        fields["translation_time"] = translation.timing["total"]
    if compat_format.word_timestamps:
        fields["word_timestamps"] = [
            {"word": word.text, "start": word.start, "end": word.end} for word in _words(transcript)
        ]
    return fields


def _words(transcript: Transcript) -> Iterator[Word]:
    for segment in transcript.segments:
        yield from segment.words


def _format_text(transcript: Transcript, format: str) -> str:
    if format == "srt":
        return to_srt(transcript)
    if format == "vtt":
        return to_vtt(transcript)
    separator = "\n" if format == "formatted_text" else " "
    return separator.join(to_line(segment.text) for segment in transcript.segments)
