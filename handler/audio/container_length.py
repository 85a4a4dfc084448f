"""Tell from a container's own lengths whether a file is whole or cut off.

Knows no library that reads files, and no samples.

Sources: RFC 3533 (Ogg), RFC 8794 (EBML), the RIFF, Core Audio Format and Advanced Systems Format specifications.
"""

from collections.abc import Callable

from handler.audio.ffmpeg_formats import ASF, CAF, MATROSKA, OGG, REALMEDIA
from handler.audio.media_file import MediaFile

_OGG_PAGE = 65_307  # bytes of the longest possible Ogg page
_OGG_HEADER = 27  # bytes of an Ogg page before the table of its segments
_SLACK = 16  # bytes by which writers of files miscount
_RIFF_UNKNOWN = 0x7FFFF000  # recorders that never state a length leave a number of this size or more
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEADER = 4096  # bytes at the start of an ASF file among which its properties are


def is_cut(file: MediaFile, head: bytes) -> bool | None:
    """Return whether a complete file ends before its container does, or None if the container does not show it.

    `head` holds the first bytes of the file.
    """
    for magic, check in _CHECKS.items():
        if head.startswith(magic):
            return check(file)
    return None


def _read_at(file: MediaFile, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _compare(file: MediaFile, end: int) -> bool | None:
    """Compare the stated position of the end with that of the file.

    Return None if the file is longer, because a writer that never updated a length has not updated it correctly.
    """
    if abs(end - file.available) <= _SLACK:
        return False
    return True if end > file.available else None


def _is_ogg_cut(file: MediaFile) -> bool | None:
    """Look at the last page.

    If it is marked as the end of a stream, the file is whole. Many recorders never set that mark, so without it the
    file is cut if the page or its last packet goes on.
    """
    end = _read_at(file, max(0, file.available - _OGG_PAGE - _OGG_HEADER), _OGG_PAGE + _OGG_HEADER)
    start = end.rfind(OGG + b"\0")
    page = end[start:]
    if start < 0 or len(page) < _OGG_HEADER:
        return True
    segments = page[_OGG_HEADER : _OGG_HEADER + page[26]]
    if len(segments) < page[26] or len(page) < _OGG_HEADER + len(segments) + sum(segments):
        return True
    if page[5] & 4:
        return False
    rest = page[_OGG_HEADER + len(segments) + sum(segments) :]
    return True if segments[-1:] == b"\xff" or (rest and OGG.startswith(rest[:4])) else None


def _is_riff_cut(file: MediaFile) -> bool | None:
    """Follow the RIFF chunks, of which a long AVI file has several."""
    position = 0
    while True:
        header = _read_at(file, position, 8)
        size = int.from_bytes(header[4:], "big" if header[:4] == b"RIFX" else "little")
        if header[:4] not in (b"RIFF", b"RIFX") or not 0 < size < _RIFF_UNKNOWN:
            return None
        position += 8 + size + size % 2
        if _read_at(file, position, 4) != b"RIFF":
            return _compare(file, position)


def _is_matroska_cut(file: MediaFile) -> bool | None:
    """Compare the length of the segment, which holds everything but the first element."""
    head = _read_at(file, 4, 8)
    size, width = _read_ebml_size(head)
    position = 4 + width + (size or 0)
    segment = _read_at(file, position, 12)
    size, width = _read_ebml_size(segment[4:])
    if segment[:4] != b"\x18\x53\x80\x67" or size is None:
        return None
    return _compare(file, position + 4 + width + size)


def _read_ebml_size(data: bytes) -> tuple[int | None, int]:
    """Return the size at the start of `data`, or None if it is not known, and the number of bytes that state it."""
    width = 9 - int.from_bytes(data[:1], "big").bit_length()
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return (None if width > 8 or value == (1 << 7 * width) - 1 else value), width


def _is_caf_cut(file: MediaFile) -> bool | None:
    position = 8
    while len(header := _read_at(file, position, 12)) == 12:
        size = int.from_bytes(header[4:], "big", signed=True)
        if size < 0:
            return None
        position += 12 + size
    return position > file.available + _SLACK


def _is_asf_cut(file: MediaFile) -> bool | None:
    header = _read_at(file, 0, _ASF_HEADER)
    properties = header.find(_ASF_PROPERTIES)
    if properties < 0 or header[properties + 88 : properties + 89] in (b"", b"\1", b"\3"):  # it is a broadcast
        return None
    return _compare(file, int.from_bytes(header[properties + 40 : properties + 48], "little"))


def _is_realmedia_cut(file: MediaFile) -> bool | None:
    position = 0
    while len(header := _read_at(file, position, 8)) == 8:
        size = int.from_bytes(header[4:], "big")
        if size < 8:  # the recorder never stated it
            return None
        position += size
    return position > file.available + _SLACK


def _is_mmf_cut(file: MediaFile) -> bool | None:
    return _compare(file, 8 + int.from_bytes(_read_at(file, 4, 4), "big"))


def _is_dsf_cut(file: MediaFile) -> bool | None:
    return _compare(file, int.from_bytes(_read_at(file, 12, 8), "little"))


_CHECKS: dict[bytes, Callable[[MediaFile], bool | None]] = {
    OGG: _is_ogg_cut,
    b"RIFF": _is_riff_cut,
    b"RIFX": _is_riff_cut,
    MATROSKA: _is_matroska_cut,
    CAF: _is_caf_cut,
    ASF: _is_asf_cut,
    REALMEDIA: _is_realmedia_cut,
    b"MMMD": _is_mmf_cut,
    b"DSD ": _is_dsf_cut,
}
