"""What the header of a sound file states: how samples are encoded, and where they are. Knows no file format."""

import struct
from dataclasses import dataclass

from handler.audio.media_file import MediaFile
from handler.audio.media_report import DecodeOptions
from handler.audio.sample_format import check_sample_format
from handler.errors import CorruptMedia, UnsupportedMedia

_PLACEHOLDER_32 = 0x7EFF_0000  # sizes from here on are those of recorders that could not know the size
_PLACEHOLDER_64 = 2**45
_LIMIT_MARGIN = 64  # bytes by which a placeholder may be less than the largest number of 32 bits
_RAW_SUBTYPES = {"pcm_mulaw": "ULAW", "pcm_alaw": "ALAW", "pcm_s16le": "PCM_16", "pcm_s16be": "PCM_16"}
PCM_WIDTHS = {2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}  # bytes of a sample
FLOAT_WIDTHS = {4: "FLOAT", 8: "DOUBLE"}
G72X_TAILS = {"G721_32": (1, 2), "G723_24": (3, 8), "G723_40": (5, 8)}  # bytes, and frames that they hold
_G72X_FRAMES = 120  # in each block that libsndfile reads


@dataclass(frozen=True, slots=True)
class Codec:
    """How samples are encoded.

    A block can be decoded by itself. The last block of a file may be shorter: `lead_bytes` hold `lead_frames`, and each
    `unit_bytes` after them hold `unit_frames`.
    """

    subtype: str  # libsndfile's name
    block_bytes: int
    block_frames: int = 1
    lead_bytes: int = 0
    lead_frames: int = 0
    unit_bytes: int = 2**31
    unit_frames: int = 0

    def count_frames(self, size: int) -> int:
        """Return the number of frames in `size` bytes."""
        blocks, rest = divmod(size, self.block_bytes)
        frames = blocks * self.block_frames
        if rest > self.lead_bytes:
            frames += self.lead_frames + (rest - self.lead_bytes) // self.unit_bytes * self.unit_frames
        return frames


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How the chunks of a file are laid out: an identifier, a size, and content with padding."""

    id_bytes: int
    size_format: str  # of `struct`
    alignment: int  # bytes
    is_header_counted: bool = False  # in the size of a chunk

    @property
    def header_bytes(self) -> int:
        """Return the number of bytes of an identifier and a size."""
        return self.id_bytes + struct.calcsize(self.size_format)


@dataclass(frozen=True, slots=True)
class SoundHeader:
    """What the header of a sound file states."""

    sample_rate: int  # Hz
    channels: int
    codec: Codec
    data_start: int  # position of the first sample in the file
    data_size: int | None  # bytes of all samples; None: the recorder did not know it
    is_big_endian: bool = False
    preamble: bytes = b""  # a header for libsndfile to read before the samples; empty: libsndfile needs none
    layout: ChunkLayout | None = None  # of chunks that may follow the samples


def read_at(file: MediaFile, position: int, size: int) -> bytes:
    """Wait for `size` bytes at a position, and return them. Fewer are returned only at the end of the file."""
    file.seek(position)
    return file.read(size)


def unpack_at(file: MediaFile, position: int, layout: str) -> tuple[int, ...]:
    """Return the numbers at a position, in the format `layout` of `struct`. Raises CorruptMedia at the file's end."""
    data = read_at(file, position, struct.calcsize(layout))
    if len(data) < struct.calcsize(layout):
        raise CorruptMedia("expected a whole sound file; it ends before its first sample")
    return struct.unpack(layout, data)


def without_placeholder(size: int, bits: int = 32) -> int | None:
    """Return a size that a header states, or None if it is what recorders write that do not know the size."""
    if bits == 64:
        is_32_bit_limit = 0 < 2**31 - size <= _LIMIT_MARGIN or 0 < 2**32 - size <= _LIMIT_MARGIN
        return None if size >= _PLACEHOLDER_64 or is_32_bit_limit else size
    return None if size >= _PLACEHOLDER_32 else size


def pcm_codec(subtype: str, width: int, channels: int) -> Codec:
    """Return the codec of samples of `width` bytes each."""
    return Codec(subtype, width * channels)


def g72x_codec(subtype: str) -> Codec:
    """Return one of the codecs of G.721 and G.723, with one channel."""
    unit_bytes, unit_frames = G72X_TAILS[subtype]
    block_bytes = _G72X_FRAMES * unit_bytes // unit_frames
    return Codec(subtype, block_bytes, _G72X_FRAMES, unit_bytes=unit_bytes, unit_frames=unit_frames)


def header_of_raw_samples(options: DecodeOptions) -> SoundHeader:
    """Return what a header would state of samples without one. Raises UnsupportedMedia."""
    subtype = _RAW_SUBTYPES.get(options.encoding or "")
    if subtype is None or options.sample_rate is None:
        names = ", ".join(_RAW_SUBTYPES)
        raise UnsupportedMedia(f"expected samples without a header in one of {names}, and their sample rate")
    check_sample_format(options.sample_rate, options.channels)
    codec = pcm_codec(subtype, 2 if subtype == "PCM_16" else 1, options.channels)
    is_big_endian = options.encoding == "pcm_s16be"
    return SoundHeader(options.sample_rate, options.channels, codec, 0, None, is_big_endian)
