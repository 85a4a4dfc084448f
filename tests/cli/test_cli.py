"""The command line in a process of its own, and the text of every output format."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handler.cli import main
from handler.cli.transcribe import _format_output
from handler.output.formats import TEXT_FORMATS, render
from handler.schema.options import FORMATS, Options
from handler.schema.transcript import Coverage, Evidence, Gap, Segment, Transcript
from tests.conftest import ROOT, TINY
from tests.support.speech import FOX, PANGRAM, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

ENVIRONMENT = {
    **os.environ,
    "MODEL_ID": TINY,
    "DTYPE": "float32",
    "PYTHONPATH": str(ROOT),
    "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "true",
}


def asr(*arguments: str, stdin: bytes = b"", **variables: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "handler.cli", *arguments]
    environment = {**ENVIRONMENT, **variables}
    process = subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=120)
    return process.returncode, process.stdout.decode(), process.stderr.decode()


@pytest.fixture
def fox(tmp_path: Path) -> str:
    path = tmp_path / "fox.flac"
    path.write_bytes(wav(say(FOX), format="FLAC"))
    return str(path)


def test_one_file_is_printed_as_json_with_a_progress_bar_on_stderr(fox: str) -> None:
    code, out, err = asr("transcribe", fox)
    assert code == 0
    assert word_error_rate(FOX, json.loads(out)["text"]) == 0
    assert "100%" in err


def test_files_addresses_and_stdin_come_in_order_and_a_bad_one_fails_alone(fox: str, web: Web) -> None:
    url = web.put("/a.wav", wav(say(PANGRAM)))
    code, out, err = asr("transcribe", fox, "/no/such/file", url, "-", stdin=wav(say(FOX)))
    assert code == 1
    assert "/no/such/file" in err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["source"] for line in lines] == [fox, url, "-"]
    for expected, line in zip((FOX, PANGRAM, FOX), lines, strict=True):
        assert word_error_rate(expected, line["text"]) < 0.1


@pytest.mark.parametrize("format", TEXT_FORMATS)
def test_a_text_format_is_printed_unchanged(fox: str, format: str) -> None:
    code, out, _ = asr("transcribe", fox, "--format", format)
    assert code == 0
    assert FOX.removesuffix(".") in " ".join(out.split())
    assert not out.startswith("{")


@pytest.mark.parametrize("stdin", [b"", b"no sound " * 100])
def test_input_without_audio_is_an_error_with_its_code(stdin: bytes) -> None:
    code, out, err = asr("transcribe", "-", stdin=stdin)
    assert (code, out) == (1, "")
    assert "unsupported_media" in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("transcribe",), 2),
        (("transcribe", "a", "--colour", "red"), 2),
        (("transcribe", "a", "--format", "pdf"), 2),
        (("transcribe", "a", "--language", "klingon"), 2),
        ((), 2),
        (("--version",), 0),
        (("transcribe", "--help"), 0),
    ],
)
def test_bad_usage_is_reported_before_anything_is_loaded(arguments: tuple[str, ...], code: int) -> None:
    assert asr(*arguments)[0] == code


def test_the_doctor_prints_facts_problems_and_the_time_of_each_stage_of_a_start() -> None:
    code, out, _ = asr("doctor", CACHE_DIR="/proc/no/such/folder", FLASH_ATTENTION_2="1")
    assert code == 0
    facts = {line[:24].strip(): line[24:] for line in out.splitlines() if not line.startswith(" ")}
    assert {
        "version",
        "device",
        "dtype",
        "attention",
        "model",
        "weights",
        "free memory",
        "cache",
        "temporary folder",
        "batch",
        "start: import_torch",
    } <= facts.keys()
    assert facts["dtype"] == "float32"
    assert "model.bin" in facts["weights"]
    assert "! FLASH_ATTENTION_2=1 cannot be had here" in out or facts["device"] != "cpu"
    assert "! the folder does not exist" in out


def test_the_doctor_says_why_a_start_would_fail(tmp_path: Path) -> None:
    code, out, _ = asr("doctor", MODEL_ID=str(tmp_path))
    assert code == 3
    assert "! the folder has no weights" in out
    assert "! model_unavailable: " in out


def test_fetch_converts_a_model_into_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert asr("fetch", CACHE_DIR=str(cache))[0] == 0
    assert [path.parent.name for path in cache.glob("converted/*/*/sums.json")] == ["float32"]


EVIDENCE = Evidence(-0.25, 0.01, 1.5, 0.0, 12, False)
TRANSCRIPT = Transcript(
    text="One & two <b>. Three --> four.",
    segments=(
        Segment(0.9996, 3.9994, " One & two <b>.", (1, 2), EVIDENCE),
        Segment(3661.001, 3662.5, " Three\n--> four.", (3,), EVIDENCE),
    ),
    language="en",
    language_probability=0.98765432,
    duration=4000.0,
    model="m",
    options=Options(),
    timing={"total": 1.0},
    coverage=Coverage(10.0, 9.0, (Gap(1.0, 2.0),)),
)


def test_srt_is_numbered_and_rounds_milliseconds() -> None:
    assert render(TRANSCRIPT, "srt") == (
        "1\n00:00:01,000 --> 00:00:03,999\nOne & two ‹b›.\n\n2\n01:01:01,001 --> 01:01:02,500\nThree -> four.\n"
    )


def test_vtt_has_its_first_line_and_escapes_markup() -> None:
    assert render(TRANSCRIPT, "vtt") == (
        "WEBVTT\n\n"
        "00:00:01.000 --> 00:00:03.999\nOne &amp; two &lt;b&gt;.\n\n"
        "01:01:01.001 --> 01:01:02.500\nThree -&gt; four.\n"
    )


def test_tsv_is_a_table_of_milliseconds() -> None:
    assert (
        render(TRANSCRIPT, "tsv") == "start\tend\ttext\n1000\t3999\tOne & two <b>.\n3661001\t3662500\tThree --> four.\n"
    )


def test_verbose_json_carries_the_evidence() -> None:
    rendered = render(TRANSCRIPT, "verbose_json")
    assert isinstance(rendered, dict)
    assert rendered["segments"][0] == {
        "id": 0,
        "start": 0.9996,
        "end": 3.9994,
        "text": " One & two <b>.",
        "tokens": [1, 2],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.01,
    }


def test_a_file_whose_name_is_no_utf_8_has_a_line_that_can_be_printed() -> None:
    line = _format_output(TRANSCRIPT, "\udcff.wav", Options(), is_only_source=False)
    assert json.loads(line.encode())["source"] == "\\udcff.wav"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_can_be_sent(format: str) -> None:
    json.dumps(render(TRANSCRIPT, format), allow_nan=False)


@pytest.mark.parametrize("command", [("live", "-"), ("transcribe", "a.wav"), ("doctor",), ("fetch",)])
def test_ctrl_c_at_the_start_ends_a_command_without_a_traceback(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(level: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("handler.logs.configure", interrupt)
    assert main(command) == 130
