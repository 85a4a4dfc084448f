"""Read the headers of WAV files and of their relatives: RIFX, RF64, BW64, W64. Decodes no sample."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from handler.audio.media_file import MediaFile
from handler.audio.sample_format import check_sample_format
from handler.audio.sound_header import (
    FLOAT_WIDTHS,
    PCM_WIDTHS,
    ChunkLayout,
    Codec,
    SoundHeader,
    g72x_codec,
    pcm_codec,
    read_at,
    unpack_at,
    without_placeholder,
)
from handler.errors import CorruptMedia

LITTLE_ENDIAN_CHUNKS = ChunkLayout(4, "<I", 2)
BIG_ENDIAN_CHUNKS = ChunkLayout(4, ">I", 2)
_WIDE_CHUNKS = ChunkLayout(16, "<Q", 8, is_header_counted=True)  # of W64
_WIDE_HEAD = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"
_WIDE_START = 40  # position of the first chunk of a W64 file
_MAX_CHUNKS = 4096  # before the samples
_MAX_FORMAT_BYTES = 64
_MAX_BLOCK_FRAMES = 2**16 - 1  # that a header can state
_PROBE_BYTES = 4096  # of samples
_MIN_FLOAT_EXPONENT, _MAX_FLOAT_EXPONENT = 127 - 40, 127 + 24  # of audible samples
_PCM, _MS_ADPCM, _FLOAT, _ALAW, _MULAW, _IMA_ADPCM = 1, 2, 3, 6, 7, 0x11  # format tags
_GSM, _NMS_ADPCM, _G721, _EXTENSIBLE = 0x31, 0x38, 0x40, 0xFFFE
_GSM_BYTES, _GSM_FRAMES = 65, 320
_NMS_BYTES = {"NMS_ADPCM_16": 42, "NMS_ADPCM_24": 62, "NMS_ADPCM_32": 82}
_NMS_FRAMES = 160
_MS_COEFFICIENTS = (256, 0, 512, -256, 0, 0, 192, 64, 240, 0, 460, -208, 392, -232)  # of Microsoft's ADPCM


class Chunk(NamedTuple):
    """A part of a file: the first four bytes of its identifier, and the position and the size of its content."""

    id: bytes
    start: int
    size: int


class _Format(NamedTuple):
    """The content of a `fmt ` chunk."""

    tag: int
    channels: int
    sample_rate: int
    block_bytes: int
    bits: int


def is_wave(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of WAV or a relative."""
    return head.startswith(_WIDE_HEAD) or (head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE")


def read_wave_header(file: MediaFile, head: bytes) -> SoundHeader | None:
    """Wait for the header of a file, and return what it states, or None if libsndfile cannot decode the samples.

    Raises CorruptMedia if the file ends before its first sample, and UnsupportedMedia.
    """
    layout, position = (BIG_ENDIAN_CHUNKS if head.startswith(b"RIFX") else LITTLE_ENDIAN_CHUNKS), 12
    if head.startswith(_WIDE_HEAD):
        layout, position = _WIDE_CHUNKS, _WIDE_START
    format: _Format | None = None
    wide_size = None  # of the samples, in RF64
    for chunk in walk_chunks(file, layout, position):
        if chunk.id == b"fmt ":
            format = _read_format(file, chunk, layout.size_format[0])
        elif chunk.id == b"ds64":
            wide_size = unpack_at(file, chunk.start + 8, "<Q")[0] or None
        elif chunk.id == b"data" and format is not None:
            size = without_placeholder(chunk.size, bits=64 if layout is _WIDE_CHUNKS else 32)
            if size is None and wide_size is not None:
                size = without_placeholder(wide_size, bits=64)
            return _to_header(file, format, chunk.start, size, layout)
    return None


def walk_chunks(file: MediaFile, layout: ChunkLayout, position: int) -> Iterator[Chunk]:
    """Yield each chunk from a position on as soon as its header has arrived. Raises CorruptMedia at the file's end."""
    padding = 0
    for _ in range(_MAX_CHUNKS):
        if padding and read_at(file, position, 4) in (b"fmt ", b"data", b"fact", b"LIST", b"COMM", b"SSND"):
            padding = 0  # some programs leave it out
        head = read_at(file, position + padding, layout.header_bytes)
        if len(head) < layout.header_bytes:
            raise CorruptMedia("expected a whole sound file; it ends before its first sample")
        size = struct.unpack_from(layout.size_format, head, layout.id_bytes)[0]
        if layout.is_header_counted:
            size = max(0, size - layout.header_bytes)
        start = position + padding + layout.header_bytes
        yield Chunk(head[:4], start, size)
        position, padding = start + size, -size % layout.alignment
    raise CorruptMedia("expected a sound file with samples; its header has no end")


def _read_format(file: MediaFile, chunk: Chunk, order: str) -> _Format:
    content = read_at(file, chunk.start, min(chunk.size, _MAX_FORMAT_BYTES))
    if len(content) < 14:
        raise CorruptMedia(f"expected at least 14 bytes that describe the samples; the file has {len(content)}")
    tag, channels, rate, _, block_bytes = struct.unpack_from(order + "HHIIH", content)
    bits = struct.unpack_from(order + "H", content, 14)[0] if len(content) >= 16 else 8
    if tag == _EXTENSIBLE and len(content) >= 26:
        tag = struct.unpack_from(order + "H", content, 24)[0]
        bits = block_bytes * 8 // channels if channels and block_bytes % channels == 0 else bits  # of the container
    return _Format(tag, channels, rate, block_bytes, bits)


def _to_header(
    file: MediaFile, format: _Format, start: int, size: int | None, layout: ChunkLayout
) -> SoundHeader | None:
    check_sample_format(format.sample_rate, format.channels)
    is_big_endian = layout is BIG_ENDIAN_CHUNKS
    if format.tag == _PCM and format.bits == 24 and format.block_bytes == 4 * format.channels:
        tag, shift = _recognise_wide_samples(read_at(file, start, _PROBE_BYTES), ">" if is_big_endian else "<")
        format, start = format._replace(tag=tag, bits=32), start + shift
        size = None if size is None else max(0, size - shift)
    codec = _find_codec(format)
    if codec is None:
        return None
    has_blocks = format.tag in (_MS_ADPCM, _IMA_ADPCM, _GSM, _NMS_ADPCM, _G721)
    preamble = _preamble(format, codec) if has_blocks else b""
    return SoundHeader(
        format.sample_rate, format.channels, codec, start, size, is_big_endian, preamble=preamble, layout=layout
    )


def _recognise_wide_samples(probe: bytes, order: str) -> tuple[int, int]:
    """Return the format tag of samples of 24 bits in four bytes, and by how many bytes to move their start.

    ALSA writes them as the lower three bytes, CoolEdit as floats, others as the upper three bytes. Read from one byte
    farther on, or before, the lower three bytes are the upper ones.
    """
    words = np.frombuffer(probe[: len(probe) // 4 * 4], order + "i4").astype(np.int32)
    words = words[words != 0]
    if len(words) and np.array_equal(words >> 24, (words << 8) >> 31):
        return _PCM, 1 if order == ">" else -1
    exponents = (words >> 23) & 0xFF
    is_float = np.all((exponents > _MIN_FLOAT_EXPONENT) & (exponents < _MAX_FLOAT_EXPONENT))
    return _FLOAT if is_float else _PCM, 0


def _find_codec(format: _Format) -> Codec | None:
    """Return the codec of samples, or None if libsndfile does not know it."""
    channels, block_bytes = format.channels, format.block_bytes
    if format.tag in (_PCM, _FLOAT, _ALAW, _MULAW):
        return _find_sample_codec(format)
    if format.tag == _IMA_ADPCM and block_bytes > 4 * channels:
        block_frames = min(_MAX_BLOCK_FRAMES, 1 + 2 * (block_bytes - 4 * channels) // channels)
        return Codec("IMA_ADPCM", block_bytes, block_frames, 4 * channels, 1, 4 * channels, 8)
    if format.tag == _MS_ADPCM and block_bytes > 7 * channels:
        block_frames = min(_MAX_BLOCK_FRAMES, 2 + 2 * (block_bytes - 7 * channels) // channels)
        return Codec("MS_ADPCM", block_bytes, block_frames, 7 * channels, 2, channels, 2)
    if format.tag == _GSM and channels == 1:
        return Codec("GSM610", _GSM_BYTES, _GSM_FRAMES)
    if format.tag == _G721 and channels == 1:
        return g72x_codec("G721_32")
    subtype = f"NMS_ADPCM_{8 * format.bits}"
    if format.tag == _NMS_ADPCM and channels == 1 and subtype in _NMS_BYTES:
        return Codec(subtype, _NMS_BYTES[subtype], _NMS_FRAMES)
    return None


def _find_sample_codec(format: _Format) -> Codec | None:
    """Return the codec of samples that each have a size of their own, or None if libsndfile does not know it."""
    if format.tag in (_ALAW, _MULAW):
        return pcm_codec("ALAW" if format.tag == _ALAW else "ULAW", 1, format.channels)
    width = (format.bits + 7) // 8
    subtypes = FLOAT_WIDTHS if format.tag == _FLOAT else {1: "PCM_U8", **PCM_WIDTHS}
    subtype = subtypes.get(width)
    return None if subtype is None else pcm_codec(subtype, width, format.channels)


def _preamble(format: _Format, codec: Codec) -> bytes:
    """Return a WAV header of which libsndfile takes all bytes that follow for samples."""
    extra = struct.pack("<H", codec.block_frames)
    if format.tag == _MS_ADPCM:
        extra += struct.pack("<H14h", len(_MS_COEFFICIENTS) // 2, *_MS_COEFFICIENTS)
    content = struct.pack(
        "<HHIIHHH",
        format.tag,
        format.channels,
        format.sample_rate,
        format.sample_rate * codec.block_bytes // codec.block_frames,  # bytes per second
        codec.block_bytes,
        {_IMA_ADPCM: 4, _MS_ADPCM: 4, _G721: 4, _GSM: 0}.get(format.tag, format.bits),
        len(extra),
    )
    # The sizes 8 and 0 stand for a file that was never closed.
    head = struct.pack("<4sI4s", b"RIFF", 8, b"WAVE")
    description = struct.pack("<4sI", b"fmt ", len(content) + len(extra)) + content + extra
    return head + description + struct.pack("<4sI", b"data", 0)
