"""Find the lengths that the first frame of an MP3 file states. Knows no library that reads files.

Sources: the Xing and VBRI headers of encoders, and ID3v2.
"""

from dataclasses import dataclass

from handler.audio.media_file import MediaFile

_SEARCHED = 2048  # bytes after the tags, among which the first frame is
_TAG_HEADER = 10  # bytes of an ID3v2 tag before what its length counts
_MAX_TAGS = 16
_JOINED = 1.05  # tags at the end of a file are shorter
_LOW_RATE = 32_000  # Hz; frames hold half as many samples at a rate below


@dataclass(frozen=True, slots=True)
class _Lengths:
    """What the first frame states, or 0: the number of frames, and their bytes, counted from the first one."""

    num_frames: int = 0
    num_bytes: int = 0


def read_stated_duration(file: MediaFile, sample_rate: int) -> float | None:
    """Return the duration in seconds that an MP3 file states, or None.

    A complete file that is much longer than it states has been joined with another, so its duration is not known. The
    position in the file does not change.
    """
    position = file.tell()
    try:
        start, frame = _read_first_frame(file)
    finally:
        file.seek(position)
    lengths = _parse_lengths(frame)
    end = start + lengths.num_bytes
    if not lengths.num_frames or (lengths.num_bytes and file.is_complete and file.available > end * _JOINED):
        return None
    samples_per_frame = 1152 if sample_rate >= _LOW_RATE else 576
    return lengths.num_frames * samples_per_frame / sample_rate


def is_mp3_cut(file: MediaFile) -> bool | None:
    """Return whether a complete MP3 file has fewer bytes than it states, or None if it states no number of bytes."""
    start, frame = _read_first_frame(file)
    num_bytes = _parse_lengths(frame).num_bytes
    if not num_bytes:
        return None
    return start + num_bytes > file.available


def _read_first_frame(file: MediaFile) -> tuple[int, bytes]:
    """Return the position after the tags at the start of a file, and the bytes there."""
    start = 0
    for _ in range(_MAX_TAGS):
        file.seek(start)
        data = file.read(_SEARCHED)
        if not data.startswith(b"ID3") or len(data) < _TAG_HEADER:
            return start, data
        size = 0
        for byte in data[6:10]:
            size = size << 7 | byte & 0x7F
        start += _TAG_HEADER + size + (_TAG_HEADER if data[5] & 0x10 else 0)  # with a footer
    return start, b""


def _parse_lengths(frame: bytes) -> _Lengths:
    for name in (b"Xing", b"Info"):
        if len(fields := _fields_from(frame, name)) >= 16:
            return _parse_xing(fields)
    fields = _fields_from(frame, b"VBRI")
    return _Lengths(int.from_bytes(fields[14:18], "big"), int.from_bytes(fields[10:14], "big"))


def _fields_from(frame: bytes, name: bytes) -> bytes:
    """Return what begins with `name` in a frame, or b"" if the name is not there."""
    return frame[frame.find(name) :] if name in frame else b""


def _parse_xing(fields: bytes) -> _Lengths:
    """Return the lengths of a Xing header, in which flags tell which of the numbers are there."""
    flags = fields[7]
    numbers = [int.from_bytes(fields[at : at + 4], "big") for at in (8, 12)]
    num_frames = numbers.pop(0) if flags & 1 else 0
    num_bytes = numbers.pop(0) if flags & 2 else 0
    return _Lengths(num_frames, num_bytes)
