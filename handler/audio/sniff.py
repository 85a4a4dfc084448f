"""Say what bytes look like that are no audio or video file, so that their sender sees what went wrong.

The descriptions are guesses for error messages; nothing is decoded by them. Knows no library that reads files. Sources:
the formats' specifications; ITU-T G.711 for the two laws of telephone lines.
"""

import re

import numpy as np
from numpy.typing import NDArray

from handler.audio.media_file import MediaFile
from handler.errors import CorruptMedia, MediaError, UnsupportedMedia

DESCRIBED_BYTES = 65_536  # bytes at the start of a file that are enough for `describe_bytes`
MIN_TEXT_BYTES, MIN_SAMPLE_BYTES = 4, 800
_BEGINNINGS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive or an Office document: send the files in it"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "gzip data: decompress it first"),
    (0, b"BZh", "bzip2 data: decompress it first"),
    (0, b"\xfd7zXZ", "xz data: decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard data: decompress it first"),
    (0, b"7z\xbc\xaf", "a 7z archive: send the files in it"),
    (0, b"Rar!", "a rar archive: send the files in it"),
    (257, b"ustar", "a tar archive: send the files in it"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\xd0\xcf\x11\xe0", "an Office document"),
    (0, b"\x89PNG", "a picture (PNG)"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)"),
    (0, b"GIF8", "a picture (GIF)"),
    (8, b"WEBP", "a picture (WebP)"),
    (0, b"BM", "a picture (BMP)"),
    (0, b"II*\x00", "a picture (TIFF)"),
    (0, b"MM\x00*", "a picture (TIFF)"),
    (4, b"ftyphei", "a picture (HEIC)"),
    (4, b"ftypmif", "a picture (HEIC)"),
    (4, b"ftypavif", "a picture (AVIF)"),
    (0, b"MThd", "a MIDI file, which holds notes and no sound"),
    (
        0,
        b"\x1f\x43\xb6\x75",
        "a piece of a WebM or Matroska recording without its beginning: join all pieces",
    ),
    (4, b"moof", "a piece of an MP4 recording without its beginning: join all pieces"),
    (4, b"styp", "a piece of an MP4 recording without its beginning: join all pieces"),
    (4, b"sidx", "a piece of an MP4 recording without its beginning: join all pieces"),
    (4, b"mdat", "an MP4 recording without its index: the recorder was not stopped properly, or the end is missing"),
    (0, b"OpusHead", "Opus packets without an Ogg or WebM container"),
    (0, b"#!rtpplay", "a dump of RTP packets"),
    (0, b"\xd4\xc3\xb2\xa1", "a capture of network packets"),
    (0, b"\xa1\xb2\xc3\xd4", "a capture of network packets"),
    (0, b"\x0a\x0d\x0d\x0a", "a capture of network packets"),
    (0, b"SQLite format 3", "a database (SQLite)"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
)  # position, bytes there, and what they are the beginning of
_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body|title|script|meta)\b", re.IGNORECASE)
_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"#EXTM3U|\[playlist\]", re.IGNORECASE), "a playlist, which only names files: send one of those"),
    (re.compile(r"version https://git-lfs"), "a Git LFS pointer in place of the file: fetch the file first"),
    (_HTML, "a web page (HTML), such as a login or an error page"),
    (re.compile(r"<\?xml[^>]*>\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE), "a web page (HTML)"),
    (re.compile(r"<\?xml|<[A-Za-z]"), "XML, such as a storage service's error"),
    (re.compile(r"[{\[]"), "JSON"),
    (re.compile(r"data:[\w/+.-]*[;,]", re.IGNORECASE), "a data: URL: decode it, or send it as a job's audio_base64"),
    (re.compile(r"WEBVTT|1\r?\n\d\d:\d\d:"), "subtitles"),
    (re.compile(r"(?:https?|s3)://\S+\s*\Z"), "an address: send it as url"),
    (re.compile(r"[0-9A-Fa-f\s]{40,}\Z"), "hexadecimal text: decode it first"),
    (re.compile(r"[A-Za-z0-9+/_=-]{40,}[A-Za-z0-9+/_=\s-]*\Z"), "base64 text: decode it, or send a job's audio_base64"),
)  # pattern of the beginning of a text, and what the text is
# Bytes that fill pauses of telephone lines, in µ-law and in A-law.
_PAUSES = (np.array([0x7E, 0x7F, 0xFE, 0xFF], np.uint8), np.array([0x54, 0x55, 0xD4, 0xD5], np.uint8))
_PAUSE_SHARE = 0.9  # of the bytes
_MIN_CORRELATION = 0.6  # of a sample with the next one; speech at 8 kHz has 0.7 to 0.95, compressed data about 0


def unreadable_file(file: MediaFile, has_media_magic: bool) -> MediaError:
    """Return the error to raise for a file that no library can open, with what its first bytes look like.

    `has_media_magic` is whether they are those of a media format. The error is then CorruptMedia unless the format is
    one of pictures, and UnsupportedMedia otherwise.
    """
    file.seek(0)
    head = file.read_available(DESCRIBED_BYTES)
    description = _describe_beginning(head) if has_media_magic else describe_bytes(head)
    looks = "" if description is None else f"; what came looks like {description}"
    if not has_media_magic or "a picture" in looks:
        return UnsupportedMedia(f"expected an audio or video file that FFmpeg or libsndfile can read{looks}")
    return CorruptMedia(f"expected a whole file{looks or '; what is there of it has no beginning or no index'}")


def describe_bytes(head: bytes) -> str | None:
    """Return what the first bytes of a file look like, such as `a web page (HTML)`, or None if that is not clear.

    `head` holds the first DESCRIBED_BYTES bytes, or all bytes of a shorter file. It is that of a file that could not be
    read as audio or video.
    """
    if not head.strip(b"\0"):
        return "nothing but zeros" if head else None
    if (description := _describe_beginning(head)) is not None:
        return description
    text = _text_of(head)
    if text is not None:
        return next((meaning for pattern, meaning in _TEXTS if pattern.match(text)), "text")
    if _is_samples(head):
        return "samples without a header, such as those of a telephone line: tell their encoding with input_format"
    return None


def _describe_beginning(head: bytes) -> str | None:
    """Return what a file begins like that has the mark of a format at its beginning, or None if there is no mark."""
    for position, mark, description in _BEGINNINGS:
        if head[position : position + len(mark)] == mark:
            return description
    return None


def _text_of(head: bytes) -> str | None:
    """Return the bytes as text without leading space, or None if they are not text. The last character may be cut."""
    if len(head) < MIN_TEXT_BYTES:
        return None
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = head.decode(encoding)
    except UnicodeDecodeError as exc:
        if exc.start < len(head) - 4:
            return None
        text = head[: exc.start].decode(encoding)
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    return text.lstrip()


def _is_samples(head: bytes) -> bool:
    """Return whether bytes are samples without a header, because each sample resembles the next one."""
    if len(head) < MIN_SAMPLE_BYTES:
        return False
    codes = np.frombuffer(head, np.uint8)
    if any(np.isin(codes, pause).mean() >= _PAUSE_SHARE for pause in _PAUSES):
        return True
    words = head[: len(head) // 2 * 2]
    candidates = (_from_mulaw(codes), _from_alaw(codes), np.frombuffer(words, "<i2"), np.frombuffer(words, ">i2"))
    return any(_correlation(samples.astype(np.float64)) >= _MIN_CORRELATION for samples in candidates)


def _correlation(samples: NDArray[np.float64]) -> float:
    """Return the correlation of samples with the samples after them, from −1 to 1. Return 0 for equal samples. [n]"""
    centered = samples - samples.mean()
    energy = float(centered @ centered)
    return float(centered[:-1] @ centered[1:]) / energy if energy else 0.0


def _from_mulaw(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the samples that bytes of µ-law stand for. [n] → [n]"""
    bits = (~codes).astype(np.int64)
    magnitude = (((bits & 0x0F) << 3) + 0x84 << (bits >> 4 & 0x07)) - 0x84
    return np.where(bits & 0x80, -magnitude, magnitude)


def _from_alaw(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the samples that bytes of A-law stand for. [n] → [n]"""
    bits = codes.astype(np.int64) ^ 0x55
    exponent, mantissa = bits >> 4 & 0x07, (bits & 0x0F) << 4
    magnitude = np.where(exponent > 0, mantissa + 0x108 << np.maximum(exponent - 1, 0), mantissa + 8)
    return np.where(bits & 0x80, magnitude, -magnitude)
