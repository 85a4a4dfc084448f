"""Sound files of every kind that libsndfile writes, headers of any content, and files that arrive in two pieces."""

import io
import struct
from functools import cache

import numpy as np
import soundfile
from numpy.typing import NDArray

from handler.audio.libsndfile_reader import SNIFF, read_sound_file
from handler.audio.media_file import MediaFile
from handler.audio.media_report import DecodeOptions, MediaReport

RATE = 8_000
SECONDS = 0.75
WAVE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(SECONDS * RATE)) / RATE)).astype(np.float32)
PCM = (WAVE * 32767).astype("<i2").tobytes()
BIG_ENDIAN_PCM = (WAVE * 32767).astype(">i2").tobytes()
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "PAF", "PVF", "AVR", "WVE", "HTK", "MPC2K")
UNREADABLE = ("DWVW_12", "DWVW_16", "DWVW_24", "MPEG_LAYER_III")  # by libsndfile from a file object, or not writable
Kind = tuple[str, str, str, int]  # format, subtype, byte order, channels
Samples = NDArray[np.float32]


class TwoPieces:
    """The bytes of a file, of which the first `first` are there, and the others arrive when one of them is asked for.

    `num_reads` counts the reads.
    """

    def __init__(self, data: bytes, first: int | None = None) -> None:
        self._data = data
        self.size = len(data) if first is None else min(first, len(data))
        self.num_reads = 0

    @property
    def has_ended(self) -> bool:
        return self.size == len(self._data)

    def is_ready(self, position: int) -> bool:
        return self.size > position or self.has_ended

    def read_at(self, position: int, count: int) -> bytes:
        self.num_reads += 1
        if position >= self.size:
            self.size = len(self._data)
        return self._data[position : min(self.size, position + count)]

    def await_bytes(self, count: int) -> bool:
        if count > self.size:
            self.size = len(self._data)
        return self.has_ended

    def length(self) -> int:
        self.size = len(self._data)
        return self.size


def read_blocks(
    data: bytes, first: int | None = None, options: DecodeOptions | None = None
) -> tuple[list[Samples], MediaReport]:
    """Return the blocks that the reader under test yields, and its report."""
    file, report = MediaFile(TwoPieces(data, first)), MediaReport()
    blocks = read_sound_file(file, data[:SNIFF], options or DecodeOptions(), report)
    assert blocks is not None, "the file is left to FFmpeg"
    return [planes for planes, _ in blocks], report


def read(data: bytes, first: int | None = None, options: DecodeOptions | None = None) -> tuple[Samples, MediaReport]:
    """Return the samples that the reader under test yields, [n, channels], and its report."""
    blocks, report = read_blocks(data, first, options)
    return np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32), report


@cache
def files_by_libsndfile() -> dict[Kind, bytes]:
    """Return a file of each format, codec, byte order and number of channels that libsndfile can write."""
    files: dict[Kind, bytes] = {}
    for format in FORMATS:
        for subtype in set(soundfile.available_subtypes(format)) - set(UNREADABLE):
            for order in ("FILE", "LITTLE", "BIG"):
                if soundfile.check_format(format, subtype, order):
                    files |= _write_channels(format, subtype, order)
    return dict(sorted(files.items()))


def _write_channels(format: str, subtype: str, order: str) -> dict[Kind, bytes]:
    files: dict[Kind, bytes] = {}
    for channels in (1, 2):
        file = io.BytesIO()
        try:
            planes = np.repeat(WAVE[:, None], channels, 1)
            soundfile.write(file, planes, RATE, subtype=subtype, endian=order, format=format)
        except soundfile.LibsndfileError:  # a codec of one channel
            continue
        files[format, subtype, order, channels] = file.getvalue()
    return files


def read_by_libsndfile(data: bytes) -> Samples:
    """Return the samples of a whole file as libsndfile reads them by itself. [n, channels]"""
    samples: Samples = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
    return samples


def chunk(name: bytes, content: bytes, size: int | None = None, order: str = "<", padding: bytes = b"\0") -> bytes:
    """Return a chunk of RIFF or AIFF; `size` is what its header states."""
    size = len(content) if size is None else size
    return name + struct.pack(order + "I", size) + content + padding[: len(content) % 2]


def format_chunk(
    tag: int = 1,
    channels: int = 1,
    rate: int = RATE,
    block_bytes: int = 2,
    bits: int = 16,
    extra: bytes = b"",
    order: str = "<",
    byte_rate: int = 16_000,
) -> bytes:
    """Return the chunk of a WAV file that describes its samples."""
    content = struct.pack(order + "HHIIHH", tag, channels, rate, byte_rate, block_bytes, bits) + extra
    return chunk(b"fmt ", content, order=order)


def wav(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None) -> bytes:
    """Return a WAV file; `size` is what its header states."""
    content = b"WAVE" + b"".join(chunks)
    order = ">" if magic == b"RIFX" else "<"
    return magic + struct.pack(order + "I", len(content) if size is None else size) + content


def w64(data: bytes, size: int, *chunks_after: bytes) -> bytes:
    """Return a W64 file of 16-bit samples; `size` is what the header of the samples states."""
    tail = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    description = struct.pack("<HHIIHH", 1, 1, RATE, 16_000, 2, 16)
    parts = b"wave" + tail + b"fmt " + tail + struct.pack("<Q", 40) + description
    parts += b"data" + tail + struct.pack("<Q", size) + data + b"".join(chunks_after)
    return bytes.fromhex("726966662e91cf11a5d628db04c10000") + struct.pack("<Q", len(parts) + 24) + parts


def description_chunk(
    channels: int = 1, frames: int = 0, bits: int = 16, rate: int = RATE, codec: bytes = b""
) -> bytes:
    """Return the chunk of an AIFF file that describes its samples."""
    bit_length = rate.bit_length()
    mantissa = rate << (64 - bit_length)
    fields = struct.pack(">HIHHQ", channels, frames, bits, 16383 + bit_length - 1 if rate else 0, mantissa)
    return chunk(b"COMM", fields + (codec + b"\0\0" if codec else b""), order=">")


def aiff(*chunks: bytes, kind: bytes = b"AIFF", size: int | None = None) -> bytes:
    """Return an AIFF file; `size` is what its header states."""
    content = kind + b"".join(chunks)
    return b"FORM" + struct.pack(">I", len(content) if size is None else size) + content


def sample_chunk(data: bytes, size: int | None = None) -> bytes:
    """Return the chunk of an AIFF file that holds its samples."""
    return chunk(b"SSND", bytes(8) + data, size, order=">")


def au(data: bytes, size: int, encoding: int = 3, rate: int = RATE, channels: int = 1, start: int = 24) -> bytes:
    """Return an AU file; `size` is what its header states."""
    return b".snd" + struct.pack(">5I", start, size, encoding, rate, channels) + bytes(start - 24) + data


def sphere(data: bytes, **fields: str | int) -> bytes:
    """Return a NIST SPHERE file."""
    lines = [f"{name} -{'i' if isinstance(value, int) else f's{len(value)}'} {value}" for name, value in fields.items()]
    text = "\n".join(["NIST_1A", "   1024", *lines, "end_head", ""])
    return text.encode().ljust(1024) + data
