"""Base64 text: both alphabets, as clients write it, and refusals that name the first wrong character."""

import base64
import random

import pytest

from handler.audio.base64_text import decode_base64, decoded_size
from handler.errors import InvalidRequest

DATA = bytes(range(256))  # has every digit of both alphabets
STANDARD, URL_SAFE = base64.b64encode(DATA).decode(), base64.urlsafe_b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        URL_SAFE,
        URL_SAFE.rstrip("="),
        base64.encodebytes(DATA).decode(),
        f" {STANDARD}\r\n\t",
        f"data:audio/wav;base64,{STANDARD}",
        f"data:;base64,{URL_SAFE}",
        STANDARD[:100] + URL_SAFE[100:],
    ],
)
def test_base64_is_read_as_clients_write_it(text: str) -> None:
    assert decode_base64(text, "audio") == DATA


@pytest.mark.parametrize("length", range(9))
def test_padding_may_be_missing_or_there_at_every_length(length: int) -> None:
    data = random.Random(length).randbytes(length)
    padded = base64.b64encode(data).decode()
    assert decode_base64(padded, "audio") == decode_base64(padded.rstrip("="), "audio") == data


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("b'UklGRg=='", """character 2 is "'\""""),
        ("UklG%2BRg", "character 5 is '%'"),
        ("UklG.Rg=", "character 5 is '.'"),
        ("Ukl=GRg=", "character 4 is '='"),
        ("UklG=\nRg", "character 5 is '='"),
        ("UklGRgé=", r"character 7 is '\xe9'"),
        ("Ukl\ud800", r"character 4 is '\ud800'"),
        ("data:audio/wav;base64,Ukl!", "character 26 is '!'"),
        ("UklGR", "cut off"),
        ("UklGR===", "cut off"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(text: str, fault: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        decode_base64(text, "audio")
    assert refusal.value.field == "audio"
    assert refusal.value.message.startswith("audio must be a file's bytes in base64; ")
    assert fault in refusal.value.message


def test_only_the_bytes_count_towards_the_limit_and_not_line_breaks() -> None:
    data = bytes(range(256)) * 40
    for text in (base64.encodebytes(data).decode(), f"data:audio/wav;base64,{base64.b64encode(data).decode()}\r\n"):
        assert decoded_size(text) == len(data)


@pytest.mark.parametrize("length", range(7))
def test_no_bytes_are_missed_in_the_count(length: int) -> None:
    assert decoded_size(base64.b64encode(bytes(length)).decode()) == length
