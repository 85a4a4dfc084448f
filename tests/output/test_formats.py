"""Every format of a transcript made by hand, as its reader gets it."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
import srt
import webvtt

from handler.output.formats import TEXT_FORMATS, chunk, render, to_json, to_object, to_verbose_json, verbose
from handler.schema.options import FORMATS, Options
from handler.schema.transcript import Coverage, Evidence, Gap, Segment, Transcript, Word
from tests.support.segments import make_segment

WORDS = (Word(1.0, 1.5, " Grüß", 0.912345), Word(1.5, 2.0, " Gott.", 0.5))
GREETING = Segment(1.0, 2.0, " Grüß Gott.", (7, 8), None, WORDS, "de")
REPLY = Segment(4.0, 5.25, " Hello.", (9,), Evidence(-0.123456, 0.000049, 1.00006, 0.2, 3, looped=False), (), "en")


def transcript(*segments: Segment, **changes: Any) -> Transcript:
    whole = Transcript(
        text="Grüß Gott. Hello.",
        segments=segments,
        language="de",
        language_probability=0.876549,
        duration=6.00049,
        model="tiny",
        options=Options(),
        timing={"total": 0.5},
        coverage=Coverage(2.25049, 1.9996),
        account={"audio_s": 6.0, "cold": False},
    )
    return replace(whole, **changes)


TALK = transcript(GREETING, REPLY)
SILENCE = transcript(text="", language=None, language_probability=None)


def text_in(format: str, *segments: Segment, **changes: Any) -> str:
    rendered = render(transcript(*segments, **changes), format)
    assert isinstance(rendered, str)
    return rendered


def test_json_has_these_fields_and_no_others() -> None:
    assert to_json(TALK) == {
        "text": "Grüß Gott. Hello.",
        "chunks": [
            {"timestamp": [1.0, 2.0], "text": "Grüß Gott."},
            {"timestamp": [4.0, 5.25], "text": "Hello."},
        ],
        "language": "de",
        "language_probability": 0.8765,
        "task": "transcribe",
        "duration": 6.0,
        "model": "tiny",
        "timing": {"total": 0.5},
        "account": {"audio_s": 6.0, "cold": False},
        "coverage": {"speech_s": 2.25, "covered_s": 2.0, "gaps": []},
        "warnings": [],
    }


@pytest.mark.parametrize("format", FORMATS)
def test_an_object_survives_json_whatever_its_format(format: str) -> None:
    answer = to_object(TALK, format)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


def test_silence_is_an_answer_in_every_format() -> None:
    answer = to_json(SILENCE)
    assert (answer["text"], answer["chunks"]) == ("", [])
    assert (answer["language"], answer["language_probability"]) == (None, None)
    assert to_verbose_json(SILENCE)["segments"] == []
    texts = {format: render(SILENCE, format) for format in TEXT_FORMATS}
    assert texts == {"text": "\n", "srt": "", "vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n"}


@pytest.mark.parametrize(
    ("segment", "options", "fields"),
    [
        (GREETING, Options(), {}),
        (replace(GREETING, channel=0), Options(), {"channel": 0}),
        (GREETING, Options(language="multi"), {"language": "de"}),
        (GREETING, Options(language="de"), {}),
        (REPLY, Options(timestamps="word"), {"words": []}),
        (replace(REPLY, channel=1), Options(language="multi", timestamps="word"), {"channel", "language", "words"}),
    ],
)
def test_a_chunk_has_the_fields_that_were_asked_for(
    segment: Segment, options: Options, fields: dict[str, Any] | set[str]
) -> None:
    extra = {name: value for name, value in chunk(segment, options).items() if name not in ("timestamp", "text")}
    assert (extra if isinstance(fields, dict) else extra.keys()) == fields


def test_words_have_their_times_and_a_rounded_probability_and_no_spaces() -> None:
    assert chunk(GREETING, Options(timestamps="word"))["words"] == [
        {"word": "Grüß", "start": 1.0, "end": 1.5, "probability": 0.9123},
        {"word": "Gott.", "start": 1.5, "end": 2.0, "probability": 0.5},
    ]


def test_gaps_are_listed_with_their_channel_if_the_channels_are_split() -> None:
    gaps = (Gap(1.00049, 2.5), Gap(3.0, 4.9996, 0))
    coverage = to_json(replace(TALK, coverage=Coverage(9.0, 5.5, gaps)))["coverage"]
    assert coverage["gaps"] == [{"start": 1.0, "end": 2.5}, {"start": 3.0, "end": 5.0, "channel": 0}]


@pytest.mark.parametrize(
    ("resume_at", "fields"), [(None, {}), (0.0, {"resume_at": 0.0}), (8.12345, {"resume_at": 8.123})]
)
def test_an_answer_says_where_to_resume_only_if_text_is_missing(
    resume_at: float | None, fields: dict[str, float]
) -> None:
    assert to_json(replace(TALK, resume_at=resume_at)) == to_json(TALK) | fields


def test_the_first_answer_of_a_process_says_where_its_start_went_and_leaves_the_transcript_alone() -> None:
    first = replace(TALK, cold_start={"import_torch": 1.5})
    assert to_json(first)["timing"] == {"total": 0.5, "cold_start": {"import_torch": 1.5}}
    assert first.timing == {"total": 0.5}


def test_verbose_json_is_json_with_numbered_segments_and_text_as_decoded() -> None:
    answer = to_verbose_json(TALK)
    segments = answer.pop("segments")
    assert answer == to_json(TALK)
    assert segments == [verbose(0, GREETING), verbose(1, REPLY)]
    assert [segment["id"] for segment in segments] == [0, 1]
    assert "".join(segment["text"] for segment in segments).strip() == TALK.text


def test_a_segment_without_evidence_claims_none_and_one_with_it_rounds_it() -> None:
    assert verbose(5, GREETING) == {"id": 5, "start": 1.0, "end": 2.0, "text": " Grüß Gott.", "tokens": [7, 8]}
    statistics = {"temperature": 0.2, "avg_logprob": -0.1235, "compression_ratio": 1.0001, "no_speech_prob": 0.0}
    assert verbose(0, REPLY) == {"id": 0, "start": 4.0, "end": 5.25, "text": " Hello.", "tokens": [9]} | statistics


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (0.0, "00:00:00,000"),
        (1.001, "00:00:01,001"),
        (2.9996, "00:00:03,000"),
        (59.9996, "00:01:00,000"),
        (3599.9996, "01:00:00,000"),
        (86_399.999, "23:59:59,999"),
        (360_000.0, "100:00:00,000"),
    ],
)
def test_clocks_round_to_milliseconds_and_carry_over(seconds: float, clock: str) -> None:
    segment = Segment(seconds, seconds + 2, " Here.")
    subtitle = text_in("srt", segment, duration=400_000.0)
    assert subtitle.startswith(f"1\n{clock} --> ")
    captions = text_in("vtt", segment, duration=400_000.0)
    assert captions.startswith(f"WEBVTT\n\n{clock.replace(',', '.')} --> ")


def test_srt_and_vtt_show_the_same_lines_at_the_same_times() -> None:
    segments = [make_segment(f"Sentence number {number} is said here.", start=4.2 * number) for number in range(40)]
    subtitles = list(srt.parse(text_in("srt", *segments, duration=200.0)))
    captions = list(webvtt.from_string(text_in("vtt", *segments, duration=200.0)))
    assert [subtitle.index for subtitle in subtitles] == list(range(1, len(captions) + 1))
    assert [subtitle.content for subtitle in subtitles] == [caption.text for caption in captions]
    starts = [subtitle.start.total_seconds() for subtitle in subtitles]
    assert starts == pytest.approx([caption.start_in_seconds for caption in captions], abs=1)
    assert starts == pytest.approx([segment.start for segment in segments], abs=0.001)


def test_a_voice_is_named_once_for_both_lines_of_a_cue_and_not_at_all_in_srt() -> None:
    segment = replace(make_segment("This sentence is so long, that it takes two lines.", word_s=0.3), channel=1)
    vtt, subtitles = text_in("vtt", segment), text_in("srt", segment)
    lines = "This sentence is so long,\nthat it takes two lines.\n"
    assert vtt == f"WEBVTT\n\n00:00:00.000 --> 00:00:03.000\n<v channel 1>{lines}"
    assert subtitles == f"1\n00:00:00,000 --> 00:00:03,000\n{lines}"


def test_a_table_is_read_back_with_one_row_for_each_segment() -> None:
    texts = [' He said "yes"\tand\nleft.', "  ", " Ende, aus; 'Schluss'.", " 日本\u2028語"]
    segments = [Segment(1.0006 * number, number + 0.5, text) for number, text in enumerate(texts)]
    table = text_in("tsv", *segments)
    rows = list(csv.reader(io.StringIO(table, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows == [
        ["start", "end", "text"],
        ["0", "500", 'He said "yes" and left.'],
        ["1001", "1500", ""],
        ["2001", "2500", "Ende, aus; 'Schluss'."],
        ["3002", "3500", "日本 語"],
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_a_text_format_comes_as_an_object_with_the_text_added(format: str) -> None:
    rendered = render(TALK, format)
    if format in TEXT_FORMATS:
        assert to_object(TALK, format) == {**to_json(TALK), "formatted": rendered}
    else:
        assert to_object(TALK, format) == rendered
    assert isinstance(rendered, str) == (format in TEXT_FORMATS)


def test_text_is_the_text_of_the_transcript_and_a_newline() -> None:
    assert render(TALK, "text") == "Grüß Gott. Hello.\n"
