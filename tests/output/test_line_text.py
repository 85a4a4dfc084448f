"""Text that terminals, players and spreadsheets would act on, in each format that has no escape for it."""

import csv
import io
import unicodedata
from typing import Any

import pytest
import srt
import webvtt

from handler.jobs.faster_whisper_compat import CompatFormat, to_compat_fields
from handler.output.formats import TEXT_FORMATS, render, to_json
from handler.output.line_text import to_cell, to_line, without_markup
from handler.schema.options import Options
from handler.schema.transcript import Coverage, Segment, Transcript, Word

HOSTILE = " \x1b[31mred\x9b0m\x07 \u202eover\u202c \u2066alone\u2069\nnext\x85line\u2028and\u2029\tend\x00."


def transcript(*segments: Segment) -> Transcript:
    text = "".join(segment.text for segment in segments).strip()
    account: dict[str, Any] = {"device": "cpu"}
    return Transcript(text, segments, "en", None, 9.0, "m", Options(), {"total": 1.0}, Coverage(0, 0), account)


def with_words(text: str) -> Segment:
    parts = [f" {part}" for part in text.split(" ") if part]
    return Segment(0, 5, text, words=tuple(Word(0.1 * i, 0.1 * i + 0.1, part, 0.9) for i, part in enumerate(parts)))


@pytest.mark.parametrize("segment", [Segment(0, 5, HOSTILE), with_words(HOSTILE)], ids=["segment", "words"])
@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_no_text_format_passes_on_what_controls_a_terminal_or_turns_text_round(format: str, segment: Segment) -> None:
    text = render(transcript(segment), format)
    assert isinstance(text, str)
    kinds = {unicodedata.category(character) for character in text if character not in "\n\t"}
    assert not kinds & {"Cc", "Cf", "Zl", "Zp"}
    assert "red0m over alone next line and end." in " ".join(text.split())


def test_a_line_break_in_a_segment_starts_no_line() -> None:
    segments = (Segment(0, 1, " One\n\n2\r\n00:00:00,000 --> 00:00:09,000\r\nTwo."), Segment(1, 2, " Three."))
    assert render(transcript(*segments), "text") == "One 2 00:00:00,000 --> 00:00:09,000 Two. Three.\n"
    subtitles = render(transcript(*segments), "srt")
    assert isinstance(subtitles, str)
    assert "00:00:00,000 -> 00:00:09,000" in " ".join(cue.content.replace("\n", " ") for cue in srt.parse(subtitles))
    fields = to_compat_fields(CompatFormat("formatted_text", None, word_timestamps=False), transcript(*segments), None)
    assert len(fields["transcription"].splitlines()) == 2


def test_json_keeps_the_text_as_it_was_decoded() -> None:
    answer = to_json(transcript(Segment(0, 5, HOSTILE)))
    assert answer["text"] == answer["chunks"][0]["text"] == HOSTILE.strip()


@pytest.mark.parametrize(
    "text", ["Straße, déjà vu – “yes”?", "日本語、です。", "א\u200fב (ג)", "👩\u200d💻 x", "I <3 it & 3 < 4 > 2", ""]
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert to_line(text) == without_markup(text) == to_cell(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>Bold</b>", "‹b›Bold‹/b›"),
        ("<font color=red>x", "‹font color=red›x"),
        ("<img src=x onerror=alert(1)", "‹img src=x onerror=alert(1)"),
        ("<!-- x -->", "‹!-- x -›"),
        ("<ж>", "‹ж›"),
        ("{\\an8}up", "(\\an8}up"),
        ("{as it is}", "{as it is}"),
        ("<<i>>", "<‹i›>"),
    ],
)
def test_a_player_of_subrip_shows_markup_as_text(text: str, shown: str) -> None:
    subtitle = render(transcript(Segment(0, 5, text)), "srt")
    assert isinstance(subtitle, str)
    (cue,) = srt.parse(subtitle)
    assert cue.content == shown


def test_markup_is_shown_as_text_in_webvtt_without_a_loss() -> None:
    captions = render(transcript(Segment(0, 5, "<b>Bold</b> {\\an8} & 1 < 2")), "vtt")
    assert isinstance(captions, str)
    (caption,) = webvtt.from_string(captions)
    assert caption.raw_text == "&lt;b&gt;Bold&lt;/b&gt; {\\an8} &amp; 1 &lt; 2"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1 555", "-2+3", "@SUM(A1)", " =1", "\t=1", "\x00=1", '"=1+1"', '" =1', "＝1", "- Hello."]
)
def test_a_cell_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text: str) -> None:
    table = render(transcript(Segment(0, 1, text), Segment(1, 2, " Next.")), "tsv")
    assert isinstance(table, str)
    rows = list(csv.reader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[1] == ["0", "1000", "'" + text.strip(" \t\x00")]
    assert rows[2] == ["1000", "2000", "Next."]


@pytest.mark.parametrize("text", ['"Yes," he said.', "1 = 1", "a-b", "'tis", "– Yes.", "e@mail"])
def test_a_cell_with_ordinary_text_is_that_of_openai_whisper(text: str) -> None:
    assert to_cell(text) == text
