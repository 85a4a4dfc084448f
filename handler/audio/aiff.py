"""Read the headers of AIFF and AIFF-C files. Decodes no sample."""

import struct
from typing import NamedTuple

from handler.audio.media_file import MediaFile
from handler.audio.riff import BIG_ENDIAN_CHUNKS, Chunk, walk_chunks
from handler.audio.sample_format import check_sample_format
from handler.audio.sound_header import (
    FLOAT_WIDTHS,
    PCM_WIDTHS,
    Codec,
    SoundHeader,
    pcm_codec,
    read_at,
    unpack_at,
    without_placeholder,
)

_BIG_ENDIAN_PCM = (b"NONE", b"twos", b"in24", b"in32")
_LITTLE_ENDIAN_PCM = (b"sowt", b"42n1", b"42ni", b"23ni")
_ONE_BYTE = {b"ulaw": "ULAW", b"ULAW": "ULAW", b"alaw": "ALAW", b"ALAW": "ALAW", b"raw ": "PCM_U8"}
_FLOAT_WIDTHS = {b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8}
_GSM = Codec("GSM610", 33, 160)
_IMA_BYTES, _IMA_FRAMES = 34, 64  # of one channel
_PREFIX_BYTES = 8  # of the samples' chunk: an offset and the size of a block
_EXPONENT_OF_ONE, _MANTISSA_BITS = 16383, 63  # of an 80-bit float


class _Description(NamedTuple):
    """The content of a COMM chunk."""

    channels: int
    frames: int
    bits: int
    sample_rate: int
    compression: bytes


def is_aiff(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of AIFF or AIFF-C."""
    return head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC")


def read_aiff_header(file: MediaFile) -> SoundHeader | None:
    """Wait for the header of a file, and return what it states, or None if libsndfile cannot decode the samples.

    Raises CorruptMedia if the file ends before its first sample, and UnsupportedMedia.
    """
    description: _Description | None = None
    samples: Chunk | None = None
    for chunk in walk_chunks(file, BIG_ENDIAN_CHUNKS, 12):
        if chunk.id == b"COMM":
            description = _read_description(file, chunk)
        elif chunk.id == b"SSND":
            samples = chunk
        if description is not None and samples is not None:
            return _to_header(file, description, samples)
    return None


def _read_description(file: MediaFile, chunk: Chunk) -> _Description:
    channels, frames, bits, exponent, mantissa = unpack_at(file, chunk.start, ">HIHHQ")
    compression = read_at(file, chunk.start + 18, 4) if chunk.size >= 22 else b"NONE"
    shift = _MANTISSA_BITS + _EXPONENT_OF_ONE - exponent
    rate = mantissa >> shift if 0 <= shift <= 64 else 0  # a fraction of a Hz is left out
    return _Description(channels, frames, bits, rate, compression)


def _to_header(file: MediaFile, description: _Description, samples: Chunk) -> SoundHeader | None:
    check_sample_format(description.sample_rate, description.channels)
    offset, _ = unpack_at(file, samples.start, ">II")
    codec = _find_codec(description)
    if codec is None:
        return None
    stated_size = without_placeholder(samples.size)
    size = None if not stated_size else max(0, stated_size - _PREFIX_BYTES - offset)
    frames = without_placeholder(description.frames)
    if size is None and frames and codec.block_frames == 1:
        size = without_placeholder(frames * codec.block_bytes)
    return SoundHeader(
        description.sample_rate,
        description.channels,
        codec,
        samples.start + _PREFIX_BYTES + offset,
        size,
        is_big_endian=description.compression not in _LITTLE_ENDIAN_PCM,
        preamble=_preamble(description) if description.compression == b"ima4" else b"",
        layout=BIG_ENDIAN_CHUNKS,
    )


def _find_codec(description: _Description) -> Codec | None:
    """Return the codec of samples, or None if libsndfile does not know it."""
    channels, compression = description.channels, description.compression
    width = (description.bits + 7) // 8
    if compression in _ONE_BYTE:
        return pcm_codec(_ONE_BYTE[compression], 1, channels)
    if compression in _FLOAT_WIDTHS:
        width = _FLOAT_WIDTHS[compression]
        return pcm_codec(FLOAT_WIDTHS[width], width, channels)
    if compression in _BIG_ENDIAN_PCM + _LITTLE_ENDIAN_PCM:
        subtype = {1: "PCM_S8", **PCM_WIDTHS}.get(width)
        return None if subtype is None else pcm_codec(subtype, width, channels)
    if compression == b"ima4":
        return Codec("IMA_ADPCM", _IMA_BYTES * channels, _IMA_FRAMES)
    return _GSM if compression == b"GSM " and channels == 1 else None


def _preamble(description: _Description) -> bytes:
    """Return a header of an AIFF-C file in IMA ADPCM, of which libsndfile takes all bytes that follow for samples."""
    size = 2**31 - 1
    exponent = _EXPONENT_OF_ONE + description.sample_rate.bit_length() - 1
    mantissa = description.sample_rate << (_MANTISSA_BITS + 1 - description.sample_rate.bit_length())
    content = struct.pack(">HIHHQ4sH", description.channels, size, 16, exponent, mantissa, b"ima4", 0)
    head = struct.pack(">4sI4s4sI", b"FORM", size, b"AIFC", b"COMM", len(content)) + content
    return head + struct.pack(">4sIII", b"SSND", size, 0, 0)
