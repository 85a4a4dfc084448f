"""A transcript as JSON objects, plain text and subtitles. Knows no door."""

from collections.abc import Callable
from typing import Any

from handler.output.subtitles import cues
from handler.schema.options import MULTI, Options
from handler.schema.transcript import Coverage, Segment, Transcript, Word


def to_json(transcript: Transcript) -> dict[str, Any]:
    """The object that every door answers with; built-in types and finite numbers only."""
    return {
        "text": transcript.text,
        "chunks": [chunk(segment, transcript.options) for segment in transcript.segments],
        "language": transcript.language,
        "language_probability": _rounded(transcript.language_probability),
        "task": transcript.options.task,
        "duration": round(transcript.duration, 3),
        "model": transcript.model,
        "timing": transcript.timing | ({"cold_start": transcript.cold_start} if transcript.cold_start else {}),
        "account": transcript.account,
        "coverage": _coverage(transcript.coverage),
        "warnings": list(transcript.warnings),
        **({} if transcript.resume_at is None else {"resume_at": round(transcript.resume_at, 3)}),
    }


def chunk(segment: Segment, options: Options) -> dict[str, Any]:
    """A segment with what was asked for."""
    shown: dict[str, Any] = {"timestamp": [segment.start, segment.end], "text": segment.text.strip()}
    if segment.channel is not None:
        shown["channel"] = segment.channel
    if options.language == MULTI:
        shown["language"] = segment.language
    if options.timestamps == "word":
        shown["words"] = [_word(word) for word in segment.words]
    return shown


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text.strip(), "start": word.start, "end": word.end, "probability": _rounded(word.probability)}


def _coverage(coverage: Coverage) -> dict[str, Any]:
    gaps = [
        {"start": round(g.start, 3), "end": round(g.end, 3)} | ({} if g.channel is None else {"channel": g.channel}) for g in coverage.gaps
    ]
    return {"speech_s": round(coverage.speech_s, 3), "covered_s": round(coverage.covered_s, 3), "gaps": gaps}


def to_verbose_json(transcript: Transcript) -> dict[str, Any]:
    """The same with each segment's evidence, in the names of OpenAI's verbose_json."""
    return {**to_json(transcript), "segments": [verbose(index, s) for index, s in enumerate(transcript.segments)]}


def verbose(index: int, segment: Segment) -> dict[str, Any]:
    """A segment with its evidence, in the names of OpenAI's verbose_json."""
    shown: dict[str, Any] = {"id": index, "start": segment.start, "end": segment.end, "text": segment.text, "tokens": list(segment.tokens)}
    if segment.evidence is not None:
        shown |= {
            "temperature": segment.evidence.temperature,
            "avg_logprob": _rounded(segment.evidence.avg_logprob),
            "compression_ratio": _rounded(segment.evidence.compression_ratio),
            "no_speech_prob": _rounded(segment.evidence.no_speech_prob),
        }
    return shown


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def to_text(transcript: Transcript) -> str:
    """The text alone."""
    return transcript.text + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "".join(f"{line}\n" for line in cue.lines)
        for number, cue in enumerate(cues(transcript.segments, transcript.duration), 1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT: its first line, cues with a point before the milliseconds, markup escaped; channels as voices."""
    shown = []
    for cue in cues(transcript.segments, transcript.duration):
        voice = "" if cue.channel is None else f"<v channel {cue.channel}>"
        lines = "".join(f"{line}\n" for line in cue.lines)
        shown.append(f"\n{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{voice}{_escaped(lines)}")
    return "WEBVTT\n" + "".join(shown)


def to_tsv(transcript: Transcript) -> str:
    """A table of start, end (whole milliseconds) and text."""
    rows = (f"{round(s.start * 1000)}\t{round(s.end * 1000)}\t{_line(s.text)}\n" for s in transcript.segments)
    return "start\tend\ttext\n" + "".join(rows)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _line(text: str) -> str:
    """Text without the line breaks and tabs that would end a cell."""
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


TEXTS: dict[str, tuple[Callable[[Transcript], str], str]] = {
    "text": (to_text, "text/plain"),
    "srt": (to_srt, "application/x-subrip"),
    "vtt": (to_vtt, "text/vtt"),
    "tsv": (to_tsv, "text/tab-separated-values"),
}  # formats that are text, each with its media type


def render(transcript: Transcript, format: str) -> dict[str, Any] | str:
    """The transcript in one of schema.FORMATS: an object, or a text."""
    if format in TEXTS:
        return TEXTS[format][0](transcript)
    return to_verbose_json(transcript) if format == "verbose_json" else to_json(transcript)


def to_object(transcript: Transcript, format: str) -> dict[str, Any]:
    """The transcript as an object in any of schema.FORMATS; one that is text stands under `formatted` beside the object."""
    found = render(transcript, format)
    return {**to_json(transcript), "formatted": found} if isinstance(found, str) else found
