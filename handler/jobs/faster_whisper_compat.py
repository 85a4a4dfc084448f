"""Jobs as RunPod's worker-faster_whisper takes them, and answers as its clients read them. Pure; knows no engine.

Source: runpod-workers/worker-faster_whisper, README.md and src/predict.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidRequest
from handler.output.formats import to_srt, to_verbose_json, to_vtt
from handler.schema.model_names import check_model
from handler.schema.transcript import Transcript
from handler.validators import boolean, one_of, string

OPTIONS = {"initial_prompt": "prompt", "enable_vad": "vad"}  # options that have another name here
FORMATS = ("plain_text", "formatted_text", "srt", "vtt")
TRANSLATES = "translate"
ONLY_THEIRS = frozenset({"audio", "model", "transcription", "translate", "translation", "word_timestamps", *OPTIONS})


@dataclass(frozen=True, slots=True)
class CompatFormat:
    """What such a job wants to read beside our own object."""

    transcription: str  # one of FORMATS
    translation: str | None  # one of FORMATS; None: it wants no translation
    word_timestamps: bool


def taken(given: Mapping[str, Any], model_id: str, aliases: tuple[str, ...]) -> tuple[dict[str, Any], CompatFormat | None]:
    """The fields of a job under our names, and its shape where a field is only theirs. Raises InvalidRequest."""
    ours = {name: value for name, value in given.items() if name not in ONLY_THEIRS}
    theirs = {name: value for name, value in given.items() if name in ONLY_THEIRS and value is not None}
    if not theirs:
        return ours, None
    if "model" in theirs:
        check_model(string("model", theirs["model"]), model_id, aliases, InvalidRequest)
    for name, own in {**OPTIONS, "audio": "url", "word_timestamps": "timestamps"}.items():
        if name in theirs and ours.get(own) is not None:
            raise InvalidRequest(f"{name} and {own} are the same; expected one of them", name)
    ours |= {OPTIONS[name]: value for name, value in theirs.items() if name in OPTIONS}
    if "audio" in theirs:
        ours["url"] = string("audio", theirs["audio"])
    words = boolean("word_timestamps", theirs.get("word_timestamps", False))
    if words:
        ours["timestamps"] = "word"
    formats = {name: one_of(FORMATS)(name, theirs.get(name, FORMATS[0])) for name in ("transcription", "translation")}
    translates = boolean(TRANSLATES, theirs.get(TRANSLATES, False))
    return ours, CompatFormat(formats["transcription"], formats["translation"] if translates else None, words)


def answer(shape: CompatFormat, transcript: Transcript, translated: Transcript | None) -> dict[str, Any]:
    """What the clients of such a job read."""
    fields: dict[str, Any] = {
        "segments": [{"seek": round(one["start"] * 100), **one} for one in to_verbose_json(transcript)["segments"]],
        "detected_language": transcript.language,
        "transcription": _formatted(transcript, shape.transcription),
        "translation": _formatted(translated, shape.translation) if translated and shape.translation else None,
        "device": "cpu" if transcript.account.get("device") == "cpu" else "cuda",
    }
    if translated:
        fields["translation_time"] = translated.timing["total"]
    if shape.word_timestamps:
        words = (word for segment in transcript.segments for word in segment.words)
        fields["word_timestamps"] = [{"word": word.text, "start": word.start, "end": word.end} for word in words]
    return fields


def _formatted(transcript: Transcript, format: str) -> str:
    if format == "srt":
        return to_srt(transcript)
    if format == "vtt":
        return to_vtt(transcript)
    return ("\n" if format == "formatted_text" else " ").join(segment.text.strip() for segment in transcript.segments)
