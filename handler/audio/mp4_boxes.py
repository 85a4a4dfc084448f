"""Check the boxes of an MP4 file before FFmpeg reads them.

FFmpeg builds an index with an entry for each sample that the boxes count, whether the file has bytes for it or not.
The boxes are walked as FFmpeg walks them, without the samples themselves. Knows no library that reads files.

Source: ISO/IEC 14496-12 (boxes) and Apple's QuickTime File Format (compressed movie boxes).
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from handler.audio.media_file import MediaFile
from handler.errors import CorruptMedia, UnsupportedMedia

MAX_TRACKS = 64
# Samples of all tracks together, of 35 bytes each in FFmpeg's index: 24 hours of AAC and of 60 pictures a second.
MAX_INDEX_ENTRIES = 12_000_000
_MAX_BOXES = 8_000_000  # of 24 hours in fragments of 0.1 seconds, with seven boxes each
_MAX_MOVIE_BYTES = 16 * 1024**2  # of a compressed movie box
_MAX_DEPTH = 10  # as in FFmpeg
_HARMLESS = 2**16  # a smaller count costs little, even if it is wrong
_MAX_ENTRIES_PER_BYTE = 16  # of the file: it may be cut off, but not to almost nothing
_SLACK = 16  # bytes by which writers of files miscount
_PCM_FRAMES = 1024  # samples of one entry, where a sample is one frame of PCM
_CONTAINERS = frozenset(
    b"moov hoov trak mdia minf stbl edts dinf mvex moof traf udta tref wave wide iprp ipco meta cmov".split()
)
# Width in bytes of one entry of a table, and where its count stands in the body of the box.
_TABLES = {b"stts": (8, 4), b"ctts": (8, 4), b"stsc": (12, 4), b"stco": (4, 4), b"co64": (8, 4), b"stss": (4, 4)}
_NOT_IN_DESCRIPTIONS = re.compile(rb"stsz|stz2|trun|elst|sbgp|trak|moov|cmov")
_ReadAt = Callable[[int, int], bytes]  # position, count


@dataclass(slots=True)
class _Track:
    num_samples: int = 0
    has_fixed_size: bool = False
    is_sound: bool = False
    is_counted_in_frames: bool = False  # each sample lasts one unit of the clock, as in PCM
    num_edits: int = 0

    def count_entries(self) -> int:
        """Return the number of entries in FFmpeg's index."""
        if self.is_sound and self.has_fixed_size and self.is_counted_in_frames:
            return self.num_samples // _PCM_FRAMES
        return self.num_samples


class Mp4Boxes:
    """Checks the boxes of one file from the first to the last, as far as it is asked to.

    `applies_edits` becomes false if the edit lists are so long that FFmpeg should ignore them.
    """

    def __init__(self, file: MediaFile) -> None:
        self.applies_edits = True
        self.has_movie = False
        self._file = file
        self._position = 0  # of the first box of the file that is not checked
        self._last_type = b""
        self._num_boxes = self._num_tracks = 0
        self._num_entries = self._num_edited = self._num_fragmented = 0
        self._track = _Track()

    def check_movie(self) -> None:
        """Check all boxes up to the one that describes the tracks, and wait for it. Raises MediaError."""
        while not self.has_movie and self._check_next():
            pass

    def check_until(self, position: int) -> None:
        """Check all boxes that begin before a position, and wait for them. Raises MediaError."""
        while self._position < position and self._check_next():
            pass

    def is_cut(self) -> bool | None:
        """Return whether a complete file ends inside of a box, or None if the last box does not state its length."""
        self.check_until(self._file.available)
        if self._last_type not in (b"mdat", b"moof", b"moov"):
            return False
        return None if self._position < 0 else self._position > self._file.available + _SLACK

    def _check_next(self) -> bool:
        """Check one box of the file, and return whether others may follow."""
        if self._position < 0:
            return False
        start = self._file.tell()
        try:
            end = self._check_box(self._read_at, self._position, None, 0)
        finally:
            self._file.seek(start)
        self._position = -1 if end is None else end
        return end is not None and not (end >= self._file.available and self._file.is_complete)

    def _read_at(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(count)

    def _check_box(self, read_at: _ReadAt, start: int, limit: int | None, depth: int) -> int | None:
        """Check the box at `start`, which ends at `limit` at the latest.

        Return the position after it. Return None if it reaches to the limit or the end of the file, or if there is
        none.
        """
        header = read_at(start, 16)
        size, body, kind = int.from_bytes(header[:4], "big"), start + 8, header[4:8]
        if size == 1:
            size, body = int.from_bytes(header[8:16], "big"), start + 16
        self._num_boxes += 1
        if self._num_boxes > _MAX_BOXES:
            raise UnsupportedMedia(f"expected at most {_MAX_BOXES} boxes in an MP4 file; there are more")
        if len(header) < body - start or (size and size < body - start):
            return None
        end = start + size if size else limit
        if end is not None and limit is not None and end >= limit:
            end = limit
        if depth == 0:
            self._last_type = kind
        self._check_body(read_at, kind, body, end, depth)
        return end if size and end != limit else None

    def _check_body(self, read_at: _ReadAt, kind: bytes, body: int, end: int | None, depth: int) -> None:
        if kind == b"free" and read_at(body, 8)[4:8] in (b"mvhd", b"cmov"):
            kind = b"hoov"  # FFmpeg looks there for a movie that was overwritten
        if kind == b"moov":
            self.has_movie = True
        if kind == b"trak":
            self._begin_track()
        if kind in _CONTAINERS and depth < _MAX_DEPTH:
            self._check_children(read_at, kind, body, end, depth + 1)
        elif kind == b"cmvd":
            self._check_compressed(read_at, body, end, depth)
        elif kind == b"stsd":
            if _NOT_IN_DESCRIPTIONS.search(read_at(body, _size_of(body, end, _HARMLESS))):
                _refuse("a description of samples holds boxes that belong elsewhere")
        elif check := _CHECKS.get(kind):
            check(self, read_at, body, end)
        elif kind in _TABLES:
            self._check_table(read_at, kind, body, end)
        if kind == b"trak":
            self._end_track()

    def _check_children(self, read_at: _ReadAt, kind: bytes, body: int, end: int | None, depth: int) -> None:
        if kind == b"meta" and read_at(body, 4) == bytes(4):
            body += 4  # in MP4, but not in QuickTime, this box has a version
        position: int | None = body
        while position is not None and (end is None or position + 8 <= end):
            position = self._check_box(read_at, position, end, depth)

    def _check_compressed(self, read_at: _ReadAt, body: int, end: int | None, depth: int) -> None:
        stated_size = int.from_bytes(read_at(body, 4), "big")
        if stated_size > _MAX_MOVIE_BYTES:
            raise UnsupportedMedia(f"expected a compressed movie box of at most {_MAX_MOVIE_BYTES} bytes; got more")
        try:
            compressed = read_at(body + 4, _size_of(body + 4, end, _MAX_MOVIE_BYTES))
            movie = zlib.decompressobj().decompress(compressed, _MAX_MOVIE_BYTES)
        except zlib.error as exc:
            raise CorruptMedia("expected a compressed movie box that can be read") from exc
        self._check_children(lambda at, count: movie[at : at + count], b"", 0, len(movie), depth + 1)

    def _begin_track(self) -> None:
        self._track = _Track()
        self._num_tracks += 1
        if self._num_tracks > MAX_TRACKS:
            raise UnsupportedMedia(f"expected at most {MAX_TRACKS} tracks in an MP4 file; there are more")

    def _end_track(self) -> None:
        entries = self._track.count_entries()
        self._count(entries)
        if self._track.num_edits > 1:
            self._num_edited += self._track.num_edits * entries
            self.applies_edits = self._num_edited <= MAX_INDEX_ENTRIES

    def _count(self, entries: int) -> None:
        """Add entries of the index to those of the boxes before."""
        self._num_entries += entries
        if self._num_entries > MAX_INDEX_ENTRIES:
            raise UnsupportedMedia(f"expected at most {MAX_INDEX_ENTRIES} samples in an MP4 file; its boxes count more")
        if self._file.is_complete and self._num_entries > _HARMLESS + _MAX_ENTRIES_PER_BYTE * self._file.available:
            _refuse("they count more samples than the file has bytes for")

    def _check_table(self, read_at: _ReadAt, kind: bytes, body: int, end: int | None) -> None:
        width, offset = _TABLES[kind]
        count = int.from_bytes(read_at(body + offset, 4), "big")
        _check_size(count * width, body, end, count)
        if kind == b"stts":
            delta = int.from_bytes(read_at(body + 12, 4), "big")
            self._track.is_counted_in_frames = count == 1 and delta == 1
        elif kind == b"ctts":
            self._sum_runs(read_at, body + 8, count)

    def _check_sample_sizes(self, read_at: _ReadAt, body: int, end: int | None) -> None:
        fields = read_at(body, 12)
        size, count = int.from_bytes(fields[4:8], "big"), int.from_bytes(fields[8:12], "big")
        if not size:
            _check_size(4 * count, body, end, count)
        self._track.has_fixed_size = size > 0
        self._track.num_samples = max(self._track.num_samples, count)

    def _check_compact_sizes(self, read_at: _ReadAt, body: int, end: int | None) -> None:
        fields = read_at(body, 12)
        count = int.from_bytes(fields[8:12], "big")
        _check_size(count * fields[7:8].ljust(1, b"\0")[0] // 8, body, end, count)
        self._track.num_samples = max(self._track.num_samples, count)

    def _check_fragment(self, read_at: _ReadAt, body: int, end: int | None) -> None:
        """Check the samples of one run of a fragment."""
        fields = read_at(body, 8)
        width = 4 * (int.from_bytes(fields[2:4], "big") & 0xF00).bit_count()
        count = int.from_bytes(fields[4:8], "big")
        _check_size(width * count, body, end, count)
        if self._num_fragmented > _HARMLESS + self._position:  # the samples of earlier fragments stand before this one
            _refuse("their fragments count more samples than they have bytes for")
        self._num_fragmented += count
        self._count(count)

    def _check_edits(self, read_at: _ReadAt, body: int, end: int | None) -> None:
        fields = read_at(body, 8)
        count = int.from_bytes(fields[4:8], "big")
        _check_size(count * (20 if fields[:1] == b"\1" else 12), body, end, count)
        self._track.num_edits += count

    def _check_groups(self, read_at: _ReadAt, body: int, end: int | None) -> None:
        fields = read_at(body, 16)
        start = 12 if fields[:1] == b"\1" else 8
        count = int.from_bytes(fields[start : start + 4], "big")
        _check_size(count * 8, body, end, count)
        self._sum_runs(read_at, body + start + 4, count)

    def _sum_runs(self, read_at: _ReadAt, start: int, count: int) -> None:
        """Check the sum of the lengths of runs, each of which is followed by another number of four bytes."""
        total = 0
        while count > 0:
            table = read_at(start, 8 * min(count, _HARMLESS))
            total += int(np.frombuffer(table[: len(table) // 8 * 8], ">u4")[::2].sum(dtype=np.uint64))
            if total > MAX_INDEX_ENTRIES:
                _refuse(f"a table counts more than {MAX_INDEX_ENTRIES} samples")
            if len(table) < 8 * min(count, _HARMLESS):
                return
            start, count = start + len(table), count - len(table) // 8

    def _check_handler(self, read_at: _ReadAt, body: int, end: int | None) -> None:
        if read_at(body + 8, 4) == b"soun":
            self._track.is_sound = True


_CHECKS: dict[bytes, Callable[[Mp4Boxes, _ReadAt, int, int | None], None]] = {
    b"stsz": Mp4Boxes._check_sample_sizes,
    b"stz2": Mp4Boxes._check_compact_sizes,
    b"trun": Mp4Boxes._check_fragment,
    b"elst": Mp4Boxes._check_edits,
    b"sbgp": Mp4Boxes._check_groups,
    b"hdlr": Mp4Boxes._check_handler,
}


def _check_size(size: int, body: int, end: int | None, count: int) -> None:
    """Check that a table of `size` bytes fits into its box."""
    if count > _HARMLESS and end is not None and size > end - body:
        _refuse("a table is said to be longer than the box that holds it")


def _size_of(body: int, end: int | None, limit: int) -> int:
    return limit if end is None else max(0, min(limit, end - body))


def _refuse(reason: str) -> NoReturn:
    raise CorruptMedia(f"expected an MP4 file whose tables can be true: {reason}")
