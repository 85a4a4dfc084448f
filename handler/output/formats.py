"""Convert a transcript to JSON objects, plain text, subtitles and tables. Knows no entry point."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from handler.output.line_text import to_cell, to_line, without_markup
from handler.output.paragraphs import Paragraph, paragraphs
from handler.output.subtitles import cues, without_arrows
from handler.schema.options import MULTI, Options
from handler.schema.transcript import Coverage, Gap, Segment, Transcript, Word, text_of

UNKNOWN_SPEAKER = "?"  # of text that is not near to anybody's speech


def to_json(transcript: Transcript) -> dict[str, Any]:
    """Return the transcript as the object of format `json`, with only built-in types and finite numbers."""
    cold_start = {"cold_start": transcript.cold_start} if transcript.cold_start else {}
    resume_at = {} if transcript.resume_at is None else {"resume_at": round(transcript.resume_at, 3)}
    return {
        "text": transcript.text,
        "chunks": [chunk(segment, transcript.options) for segment in transcript.segments],
        "language": transcript.language,
        "language_probability": _rounded(transcript.language_probability),
        "task": transcript.options.task,
        "duration": round(transcript.duration, 3),
        "model": transcript.model,
        "timing": transcript.timing | cold_start,
        "account": transcript.account,
        "coverage": _coverage(transcript.coverage),
        "warnings": list(transcript.warnings),
        **_on_demand(transcript),
        **resume_at,
    }


def _on_demand(transcript: Transcript) -> dict[str, Any]:
    """Return the fields that only some options bring."""
    fields: dict[str, Any] = {}
    if transcript.options.paragraphs:
        fields["paragraphs"] = [_paragraph(paragraph) for paragraph in paragraphs(transcript.segments)]
    if transcript.options.diarize:
        fields["speakers"] = list(transcript.speakers)
    if transcript.options.redact:
        fields["redacted"] = transcript.redacted
    return fields


def chunk(segment: Segment, options: Options, *, knows_speakers: bool = True) -> dict[str, Any]:
    """Return a segment as an object with its times, its text, and the other fields that `options` ask for.

    While a file is being transcribed, nobody knows the speakers yet.
    """
    tells_speakers = options.diarize and knows_speakers
    fields: dict[str, Any] = {"timestamp": [segment.start, segment.end], "text": segment.text.strip()}
    if segment.channel is not None:
        fields["channel"] = segment.channel
    if tells_speakers:
        fields["speaker"] = segment.speaker
        if segment.overlapping:
            fields["overlap"] = list(segment.overlapping)
    if options.language == MULTI:
        fields["language"] = segment.language
    if options.timestamps == "word":
        fields["words"] = [_word(word, tells_speakers=tells_speakers) for word in segment.words]
    return fields


def _paragraph(paragraph: Paragraph) -> dict[str, Any]:
    others = {"speaker": paragraph.speaker, "channel": paragraph.channel}
    told = {name: value for name, value in others.items() if value is not None}
    return {"timestamp": [paragraph.start, paragraph.end], "text": paragraph.text, **told}


def _word(word: Word, *, tells_speakers: bool) -> dict[str, Any]:
    return {
        "word": word.text.strip(),
        "start": word.start,
        "end": word.end,
        "probability": _rounded(word.probability),
        **({"speaker": word.speaker} if tells_speakers else {}),
    }


def _coverage(coverage: Coverage) -> dict[str, Any]:
    return {
        "speech_s": round(coverage.speech_s, 3),
        "covered_s": round(coverage.covered_s, 3),
        "gaps": [_gap(gap) for gap in coverage.gaps],
    }


def _gap(gap: Gap) -> dict[str, Any]:
    channel = {} if gap.channel is None else {"channel": gap.channel}
    return {"start": round(gap.start, 3), "end": round(gap.end, 3)} | channel


def to_verbose_json(transcript: Transcript) -> dict[str, Any]:
    """Return the object of `to_json`, with `segments` in the form of OpenAI's verbose_json added."""
    return {**to_json(transcript), "segments": [verbose(index, s) for index, s in enumerate(transcript.segments)]}


def verbose(index: int, segment: Segment) -> dict[str, Any]:
    """Return a segment as an object with the field names of OpenAI's verbose_json.

    `index` becomes the id. Fields such as `avg_logprob` are left out if the segment has no evidence, that is, no
    statistics of its decoding.
    """
    fields: dict[str, Any] = {
        "id": index,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
    }
    if segment.speaker is not None:
        fields["speaker"] = segment.speaker
    if segment.evidence is not None:
        fields |= {
            "temperature": segment.evidence.temperature,
            "avg_logprob": _rounded(segment.evidence.avg_logprob),
            "compression_ratio": _rounded(segment.evidence.compression_ratio),
            "no_speech_prob": _rounded(segment.evidence.no_speech_prob),
        }
    return fields


def diarized(transcript: Transcript) -> list[dict[str, Any]]:
    """Return the segments of a transcript in the form of OpenAI's diarized_json."""
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{index}",
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
            "speaker": segment.speaker or UNKNOWN_SPEAKER,
        }
        for index, segment in enumerate(transcript.segments)
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def to_text(transcript: Transcript) -> str:
    """Return the text of the transcript as one line, followed by a newline.

    With the option `paragraphs`, there is a blank line between two of them. If speakers are told apart, each turn or
    paragraph begins with the speaker.
    """
    if transcript.options.paragraphs:
        parts = [(paragraph.speaker, paragraph.text) for paragraph in paragraphs(transcript.segments)]
    elif transcript.speakers:
        parts = list(turns(transcript.segments))
    else:
        parts = [(None, transcript.text)]
    names = [f"{speaker or UNKNOWN_SPEAKER}: " if transcript.speakers else "" for speaker, _ in parts]
    return "\n".join(f"{name}{to_line(text)}\n" for name, (_, text) in zip(names, parts, strict=True)) or "\n"


def turns(segments: Sequence[Segment]) -> Iterator[tuple[str | None, str]]:
    """Yield the speaker and the text of each turn."""
    for speaker, group in groupby(segments, key=lambda segment: segment.speaker):
        if text := text_of(list(group)):
            yield speaker, text


def to_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles, in which nothing of the text is read as markup.

    Cues are numbered from 1, and times have a comma before the milliseconds.
    """
    blocks = []
    for number, cue in enumerate(cues(transcript.segments, transcript.duration), 1):
        speaker = "" if cue.speaker is None else f"{cue.speaker}: "
        lines = without_markup(without_arrows(speaker)) + "".join(f"{without_markup(line)}\n" for line in cue.lines)
        blocks.append(f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{lines}")
    return "\n".join(blocks)


def to_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles.

    Times have a point before the milliseconds, and markup in the text is escaped. Each cue names its speaker as the
    voice if speakers are told apart, or else its channel if the channels are split.
    """
    blocks = []
    for cue in cues(transcript.segments, transcript.duration):
        voice = "" if cue.channel is None else f"<v channel {cue.channel}>"
        voice = voice if cue.speaker is None else f"<v {_escape_markup(cue.speaker)}>"
        lines = "".join(f"{line}\n" for line in cue.lines)
        blocks.append(f"\n{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{voice}{_escape_markup(lines)}")
    return "WEBVTT\n" + "".join(blocks)


def to_tsv(transcript: Transcript) -> str:
    """Return a tab-separated table with the start and end of each segment in whole milliseconds, and with its text.

    The columns are those of openai-whisper, and last the speaker if speakers are told apart.
    """
    head, rows = ["start", "end", "text"], []
    for segment in transcript.segments:
        rows.append([str(round(segment.start * 1000)), str(round(segment.end * 1000)), to_cell(segment.text)])
        if transcript.options.diarize:
            rows[-1].append(to_cell(segment.speaker or ""))
    if transcript.options.diarize:
        head.append("speaker")
    return "".join("\t".join(row) + "\n" for row in (head, *rows))


def _clock(seconds: float, decimal_mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


def _escape_markup(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Renderer and media type of each format that is text and not an object.
TEXT_FORMATS: dict[str, tuple[Callable[[Transcript], str], str]] = {
    "text": (to_text, "text/plain"),
    "srt": (to_srt, "application/x-subrip"),
    "vtt": (to_vtt, "text/vtt"),
    "tsv": (to_tsv, "text/tab-separated-values"),
}


def render(transcript: Transcript, format: str) -> dict[str, Any] | str:
    """Return the transcript in a format of options.FORMATS, as an object if that is a JSON format, else as a string."""
    if format in TEXT_FORMATS:
        return TEXT_FORMATS[format][0](transcript)
    return to_verbose_json(transcript) if format == "verbose_json" else to_json(transcript)


def to_object(transcript: Transcript, format: str) -> dict[str, Any]:
    """Return the transcript as an object, whatever the format.

    For a text format, this is the object of `to_json` with the formatted text in the field `formatted`.
    """
    rendered = render(transcript, format)
    return {**to_json(transcript), "formatted": rendered} if isinstance(rendered, str) else rendered
