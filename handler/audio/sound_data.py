"""The samples of a sound file as libsndfile reads them: behind a header of ours, and without a stated end.

libsndfile reads on for as long as a header says, and misreads blocks that it gets in pieces. So it gets neither the
file's own header nor its length: reads wait until they can be filled, and end where the bytes end. Decodes no sample.
"""

import io
import struct

from handler.audio.media_file import MediaFile
from handler.audio.sound_header import ChunkLayout, SoundHeader, read_at

_MAX_FRAMES = 2**40  # more than any file has
MAX_BLOCK_CODEC_SAMPLES = 2**31 - 1  # of all channels, that libsndfile can count in a codec with blocks
MAX_TRAILER_BYTES = 64  # fewer bytes after the samples are no audio, and fewer samples are not missed
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
_KNOWN_CHUNKS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"JUNK", b"junk", b"PAD ", b"cue ", b"smpl", b"fact", b"iXML")
_FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd", b"riff\x2e\x91\xcf\x11")
_MAX_CHUNK_BYTES = 2**26  # of an unknown kind after the samples
_PROBE_BYTES = 4096  # after the samples, from which to find out what they are


class SoundData(io.RawIOBase):
    """A seekable file for libsndfile: `header.preamble`, followed by the samples of `file`.

    `num_bytes` counts the bytes of samples read so far, and `has_ended` is true once a read met their end.
    `is_longer` is true if the file holds more samples than its header states, and `has_second_file` if another sound
    file follows the samples.
    """

    def __init__(self, file: MediaFile, header: SoundHeader) -> None:
        super().__init__()
        self.num_bytes = 0
        self.has_ended = False
        self.is_longer = False
        self.has_second_file = False
        self._file = file
        self._header = header
        self._size = header.data_size  # None: up to the end of the file
        codec = header.codec
        max_frames = _MAX_FRAMES if codec.block_frames == 1 else MAX_BLOCK_CODEC_SAMPLES // header.channels
        self._max_bytes = max_frames // codec.block_frames * codec.block_bytes  # of samples that libsndfile expects
        self._position = 0

    @property
    def is_cut(self) -> bool:
        """Return whether the file ended before the samples that its header states."""
        return self.has_ended and self._size is not None and self.num_bytes + MAX_TRAILER_BYTES < self._size

    @property
    def expected_size(self) -> int | None:
        """Return the number of bytes of samples, or None if neither the header nor the file's end tells it yet."""
        if not self._file.is_complete:
            return self._size or None
        rest = max(0, self._file.available - self._header.data_start)
        return min(self._size or rest, rest)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte to read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, and return that position. The end is farther away than that of any file."""
        end = len(self._header.preamble) + self._max_bytes
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence])
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Wait until the buffer can be filled, and return the number of bytes, which is smaller only at the end."""
        count = len(buffer)
        part = self._header.preamble[self._position : self._position + count]
        if len(part) < count:
            part += self._read_samples(max(0, self._position - len(self._header.preamble)), count - len(part))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _read_samples(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes, `offset` bytes after the first sample."""
        if offset >= self._max_bytes or (self.has_ended and offset >= self.num_bytes):
            return b""
        if self._size is not None and offset + count > self._size and self._has_more_samples(self._size):
            self.is_longer = self._size > 0
            self._size = None
        if self._size is not None and offset + count > self._size:
            part = read_at(self._file, self._header.data_start + offset, max(0, self._size - offset))
        else:
            part = read_at(self._file, self._header.data_start + offset, count)
        self.has_ended = self.has_ended or len(part) < count
        self.num_bytes = max(self.num_bytes, offset + len(part) if part else 0)
        return part

    def _has_more_samples(self, size: int) -> bool:
        """Return whether what follows the stated samples is neither metadata nor padding, but samples again."""
        head = read_at(self._file, self._header.data_start + size, _PROBE_BYTES)
        if len(head) <= MAX_TRAILER_BYTES or not any(head):
            return False
        layout = self._header.layout
        padding = -size % layout.alignment if layout else 0
        heads = (head, head[padding:])
        self.has_second_file = any(trailer.startswith(_FILES) for trailer in heads)
        if self.has_second_file or any(map(_is_metadata, heads)):
            return False
        return layout is None or not any(_is_chunk(trailer, layout) for trailer in heads)


def _is_metadata(head: bytes) -> bool:
    """Return whether bytes begin like metadata that programs append to sound files."""
    return head.startswith(_TAGS + _KNOWN_CHUNKS)


def _is_chunk(head: bytes, layout: ChunkLayout) -> bool:
    """Return whether bytes begin like a chunk of plausible size."""
    (size,) = struct.unpack_from(layout.size_format, head, layout.id_bytes)
    return all(0x20 <= byte < 0x7F for byte in head[:4]) and size <= _MAX_CHUNK_BYTES
