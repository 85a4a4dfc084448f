"""Read the headers of AU and NIST SPHERE files, which are followed by samples alone. Decodes no sample."""

import struct

from handler.audio.media_file import MediaFile
from handler.audio.sample_format import check_sample_format
from handler.audio.sound_header import (
    Codec,
    SoundHeader,
    g72x_codec,
    pcm_codec,
    read_at,
    unpack_at,
    without_placeholder,
)
from handler.errors import CorruptMedia

_AU_HEADER_BYTES = 24
_AU_SUBTYPES = {
    1: ("ULAW", 1),
    2: ("PCM_S8", 1),
    3: ("PCM_16", 2),
    4: ("PCM_24", 3),
    5: ("PCM_32", 4),
    6: ("FLOAT", 4),
    7: ("DOUBLE", 8),
    27: ("ALAW", 1),
}
_AU_G72X = {23: "G721_32", 25: "G723_24", 26: "G723_40"}
_SPHERE_CODINGS = {"ulaw": "ULAW", "mu-law": "ULAW", "alaw": "ALAW", "a-law": "ALAW"}
_SPHERE_PCM = {1: "PCM_S8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
_MAX_SPHERE_HEADER = 64 * 1024  # bytes


def is_au(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of AU, of either byte order."""
    return head.startswith((b".snd", b"dns."))


def read_au_header(file: MediaFile, head: bytes) -> SoundHeader | None:
    """Wait for the header of a file, and return what it states, or None if libsndfile cannot decode the samples.

    Raises CorruptMedia if the file ends within its header, and UnsupportedMedia.
    """
    is_big_endian = head.startswith(b".snd")
    start, size, encoding, rate, channels = unpack_at(file, 4, ">5I" if is_big_endian else "<5I")
    check_sample_format(rate, channels)
    codec: Codec | None = None
    preamble = b""
    if encoding in _AU_SUBTYPES:
        subtype, width = _AU_SUBTYPES[encoding]
        codec = pcm_codec(subtype, width, channels)
    elif encoding in _AU_G72X and channels == 1:
        codec = g72x_codec(_AU_G72X[encoding])
        preamble = struct.pack(">4s5I", b".snd", _AU_HEADER_BYTES, 2**32 - 1, encoding, rate, channels)
    if codec is None:
        return None
    start = max(_AU_HEADER_BYTES, start)
    return SoundHeader(rate, channels, codec, start, without_placeholder(size), is_big_endian, preamble)


def is_sphere(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of NIST SPHERE."""
    return head.startswith(b"NIST_1A\n")


def read_sphere_header(file: MediaFile) -> SoundHeader | None:
    """Wait for the header of a file, and return what it states, or None if libsndfile cannot decode the samples.

    Raises CorruptMedia if the file ends within its header, or states no sample rate, and UnsupportedMedia.
    """
    fields, start = _read_sphere_fields(file)
    try:
        rate, channels = int(fields["sample_rate"]), int(fields.get("channel_count", "1"))
        frames = int(fields["sample_count"]) if "sample_count" in fields else None
        width = int(fields.get("sample_n_bytes", "2"))
    except (KeyError, ValueError) as exc:
        raise CorruptMedia("expected a header that states the sample rate and the channels as numbers") from exc
    check_sample_format(rate, channels)
    coding = fields.get("sample_coding", "pcm")
    subtype = _SPHERE_PCM.get(width) if coding == "pcm" else _SPHERE_CODINGS.get(coding)
    if subtype is None:
        return None
    codec = pcm_codec(subtype, width if coding == "pcm" else 1, channels)
    size = None if frames is None or frames < 0 else without_placeholder(frames * codec.block_bytes, bits=64)
    is_big_endian = fields.get("sample_byte_format", "01").startswith(("10", "3210"))
    return SoundHeader(rate, channels, codec, start, size, is_big_endian)


def _read_sphere_fields(file: MediaFile) -> tuple[dict[str, str], int]:
    """Return the fields of a header, and the position of the first sample. Raises CorruptMedia."""
    try:
        size = int(read_at(file, 8, 8))
    except ValueError as exc:
        raise CorruptMedia("expected a header that states its size") from exc
    text = read_at(file, 0, min(max(size, 0), _MAX_SPHERE_HEADER))
    if len(text) < size or b"end_head" not in text:
        raise CorruptMedia("expected a whole sound file; it ends before its first sample")
    fields = {}
    for line in text[: text.index(b"end_head")].decode("latin-1").splitlines()[2:]:
        name, _, value = line.partition(" ")
        fields[name] = value.partition(" ")[2].strip()
    return fields, size
