"""What bytes look like that are no media file: guesses for the sender of a request, and none where nothing is clear."""

import base64
import gzip
import io
import json
import random
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile
import soxr

from handler.audio.decode import AudioDecoder
from handler.audio.sniff import DESCRIBED_BYTES, describe_bytes
from handler.errors import MediaError, UnsupportedMedia
from tests.support.asking import growing_file
from tests.support.speech import FOX, container, say, silence, wav


def zip_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", wav(silence(0.1)))
    return file.getvalue()


def tar_archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.wav"))
    return file.getvalue()


def raw_samples(subtype: str, endian: str = "LITTLE", rate: int = 8000) -> bytes:
    file = io.BytesIO()
    samples = soxr.resample(say(FOX), 16_000, rate)
    soundfile.write(file, samples, rate, format="RAW", subtype=subtype, endian=endian)
    return file.getvalue()


WEB_PAGE = b"\n<!DOCTYPE html><html><body>Please sign in</body></html>"
UNREADABLE = {
    "a web page": (WEB_PAGE, "a web page"),
    "a web page without its type": (b"<HTML><HEAD><TITLE>403</TITLE>", "a web page"),
    "xhtml": (b'<?xml version="1.0"?><!DOCTYPE html><html>', "a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "json": (json.dumps({"error": "no such file"}).encode(), "JSON"),
    "json with a byte order mark": ('\ufeff[{"a": 1}]'.encode(), "JSON"),
    "base64": (base64.b64encode(wav(silence(0.1))), "base64 text"),
    "base64 in lines": (base64.encodebytes(wav(silence(0.1))), "base64 text"),
    "url-safe base64": (base64.urlsafe_b64encode(random.Random(0).randbytes(500)), "base64 text"),
    "a data url": (b"data:audio/wav;base64," + base64.b64encode(bytes(100)), "a data: URL"),
    "hexadecimal": (wav(silence(0.1)).hex().encode(), "hexadecimal"),
    "an address": (b"https://example.com/audio.mp3\n", "an address"),
    "a playlist": (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:9,\na.ts\n", "a playlist"),
    "another playlist": (b"[playlist]\nFile1=http://a/b\n", "a playlist"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS"),
    "subtitles": (b"WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n", "subtitles"),
    "text": ("Grüße aus Köln".encode() * 9, "text"),
    "text in UTF-16": ("Hello there, all of you".encode("utf-16"), "text"),
    "text cut within a character": (("é" * 50).encode()[:-1], "text"),
    "a zip archive": (zip_archive(), "a zip archive"),
    "a tar archive": (tar_archive(), "a tar archive"),
    "gzip": (gzip.compress(wav(silence(0.1))), "gzip"),
    "a PDF document": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a picture"),
    "a JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(50), "a picture"),
    "a WebP": (b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(50), "a picture"),
    "a MIDI file": (b"MThd\x00\x00\x00\x06\x00\x01\x00\x02\x00\x60MTrk" + bytes(50), "MIDI"),
    "a later piece of WebM": (b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff\xe7\x81\x00" + bytes(90), "WebM"),
    "a capture": (b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00" + bytes(90), "network packets"),
    "zeros": (bytes(5000), "nothing but zeros"),
    "µ-law": (raw_samples("ULAW"), "input_format"),
    "A-law": (raw_samples("ALAW"), "input_format"),
    "16-bit samples": (raw_samples("PCM_16"), "input_format"),
    "big-endian samples": (raw_samples("PCM_16", "BIG", 44_100), "input_format"),
    "a pause on a µ-law line": (b"\xff\x7f\xfe\xff" * 1000, "input_format"),
    "a pause on an A-law line": (b"\xd5\x55\xd4\xd5" * 1000, "input_format"),
}  # bytes, and what their description has in it


@pytest.mark.parametrize("name", UNREADABLE)
def test_bytes_are_described_by_what_they_look_like(name: str) -> None:
    data, expected = UNREADABLE[name]
    description = describe_bytes(data[:DESCRIBED_BYTES])
    assert description is not None
    assert expected in description


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ab",
        random.Random(1).randbytes(5000),
        wav(say(FOX), format="FLAC")[50:],
        container(say(FOX), "mp3", "libmp3lame")[500:],
        container(say(FOX), "ogg", "libopus", 48_000)[700:],
        np.random.default_rng(2).standard_normal(2000).astype(np.float32).tobytes(),
    ],
    ids=["nothing", "two bytes", "noise", "flac", "mp3", "opus", "floats"],
)
def test_bytes_that_could_be_anything_are_not_described(data: bytes) -> None:
    assert describe_bytes(data) is None


def error_of(data: bytes) -> MediaError:
    with pytest.raises(MediaError) as caught:
        list(AudioDecoder(growing_file(data).reader()).blocks())
    return caught.value


@pytest.mark.parametrize("name", ["a web page", "json", "base64", "a zip archive", "text", "a JPEG", "a WebP"])
def test_a_file_that_cannot_be_read_is_refused_with_its_description(name: str) -> None:
    data, expected = UNREADABLE[name]
    error = error_of(data)
    assert isinstance(error, UnsupportedMedia)
    assert error.message.startswith("expected an audio or video file")
    assert f"looks like {expected}" in error.message


def test_a_later_piece_of_a_recording_is_refused_as_such() -> None:
    whole = container(say(FOX), "webm", "libopus", 48_000)
    assert "a piece of a WebM or Matroska recording" in error_of(whole[whole.index(b"\x1f\x43\xb6\x75") :]).message
    head = container(say(FOX), "mp4", "aac", 44_100)
    assert (
        "an MP4 recording without its index"
        in error_of(head[head.index(b"mdat") - 4 : head.index(b"moov") - 4]).message
    )
