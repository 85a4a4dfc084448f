"""`asr live` in a process of its own: samples on stdin become lines, events, or text that grows on a terminal."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import ENVIRONMENT, asr
from tests.support.conversations import converse
from tests.support.live import joined, quiet
from tests.support.media_files import encode
from tests.support.realtime_client import pcm
from tests.support.speech import FOX, PANGRAM, say, wav
from tests.support.word_errors import word_error_rate

SPEECH = pcm(joined(say(FOX), quiet(1), say(PANGRAM), quiet(1)), 16_000)


def test_each_turn_is_a_line() -> None:
    code, out, err = asr("live", "-", stdin=SPEECH)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert word_error_rate(FOX, first) == 0
    assert word_error_rate(PANGRAM, second) == 0


def test_events_are_json_lines() -> None:
    code, out, _ = asr("live", "--json", "-", stdin=SPEECH)
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    texts = [event for event in events if event["type"] == "text"]
    assert len(texts) == 2
    for number, text in enumerate(texts):
        deltas = [event["text"] for event in events if event["type"] == "delta" and event["turn"] == number]
        assert "".join(deltas) == text["text"]
        assert text["start"] < text["words"][0]["start"] < text["words"][-1]["end"] <= text["end"]


def test_samples_of_another_kind() -> None:
    code, out, _ = asr(
        "live", "-", "--encoding", "pcm_mulaw", "--rate", "8000", stdin=wav(say(FOX), 8_000, "ULAW", "RAW")
    )
    assert code == 0
    assert word_error_rate(FOX, out) <= 0.12


def test_lines_begin_with_their_speakers(tmp_path: Path) -> None:
    talk = pcm(converse(("reader", "story"), 2, pause_s=0.9).samples, 16_000)
    variables = {"DIARIZE_MODEL": "pkg:moonshine_voice", "CACHE_DIR": str(tmp_path)}
    code, out, _ = asr("live", "-", "--diarize", "true", stdin=talk, **variables)
    assert code == 0
    assert [line[:3] for line in out.splitlines()] == ["A: ", "B: "]
    code, out, _ = asr("live", "--json", "-", "--diarize", "true", "--speakers", "1", stdin=talk, **variables)
    words = [word for line in out.splitlines() for word in json.loads(line).get("words", ())]
    assert {word["speaker"] for word in words} == {"A"}


def test_a_longer_silence_can_be_asked_for() -> None:
    code, out, _ = asr("live", "-", "--silence-ms", "2500", stdin=SPEECH)
    assert code == 0
    assert len(out.splitlines()) == 1


def test_hotwords_act() -> None:
    _, out, _ = asr("live", "-", "--hotwords", "Foks", "--prompt", "The quick brown Foks.", stdin=SPEECH)
    assert "Foks" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("-", "--rate", "1"), "rate"),
        (("-", "--silence-ms", "a"), "silence_ms"),
        (("-", "--encoding", "mp3"), "encoding"),
        (("-", "--language", "klingon"), "language"),
        (("file.wav",), "argument -"),
    ],
)
def test_a_wrong_argument_is_named(arguments: tuple[str, ...], named: str) -> None:
    code, _, err = asr("live", *arguments)
    assert code == 2
    assert named in err


@pytest.mark.parametrize("file", [wav(say(FOX)), wav(say(FOX), format="FLAC"), encode("mp4", "aac")])
def test_a_file_in_the_place_of_samples_is_refused(file: bytes) -> None:
    code, out, err = asr("live", "-", stdin=file)
    assert (code, out) == (2, "")
    assert "got a media file" in err


def test_without_a_microphone_the_other_way_is_named() -> None:
    code, _, err = asr("live")
    assert code == 2
    assert "- for samples on stdin" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_completes_the_text(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "handler.cli", "live", "--json", "-"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pcm(say(PANGRAM), 16_000))
        process.stdin.flush()
        lines = [process.stdout.readline()]  # a delta: it is listening
        process.send_signal(number)
        lines += process.stdout.readlines()
        assert process.wait() == 0
    assert json.loads(lines[-1])["type"] == "text"


def test_on_a_terminal_the_line_grows() -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "handler.cli", "live", "-"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=end) as process:
        os.close(end)
        assert process.stdin is not None
        process.stdin.write(SPEECH)
        process.stdin.close()
        shown = b""
        while True:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the process has ended
                break
        assert process.wait() == 0
    os.close(terminal)
    lines = [line.rpartition("\x1b[K")[2].strip() for line in shown.decode().split("\r\n")]
    assert word_error_rate(f"{FOX} {PANGRAM}", " ".join(lines)) == 0
    assert shown.count(b"\x1b[K") > 2
