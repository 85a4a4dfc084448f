"""Read WAV, its 64-bit variants, AIFF and AU with libsndfile. Knows no network and no window."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from handler.audio.media_file import MediaFile
from handler.audio.media_report import BLOCK_S, CUT_OFF, MediaReport, Planes
from handler.errors import CorruptMedia

SNIFF = 12  # bytes at the start of a file that are enough to recognise its format
_LENGTH = re.compile(r"^ *(?:RIFF|FORM|data|SSND|Data Size) *: (\d+)", re.MULTILINE)  # in libsndfile's log


def read_with_libsndfile(sound: Any, report: MediaReport) -> Iterator[tuple[Planes, int]]:
    """Yield blocks of samples of an open file, each with its sample rate in Hz. Raises CorruptMedia."""
    import soundfile

    with sound:
        stated_frames = None if _has_placeholder_length(sound.extra_info) else sound.frames
        report.duration = None if stated_frames is None else stated_frames / sound.samplerate
        frames_read = 0
        while True:
            try:
                planes = sound.read(int(BLOCK_S * sound.samplerate), dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as exc:
                raise CorruptMedia(f"expected a readable sound file: {exc.error_string}") from exc
            frames_read += len(planes)
            if not len(planes):
                break
            yield np.nan_to_num(planes, copy=False, nan=0.0, posinf=1.0, neginf=-1.0), sound.samplerate
        if stated_frames is not None and frames_read < stated_frames:
            report.warn(CUT_OFF)


def is_libsndfile_format(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of WAV, a 64-bit variant of WAV, AIFF or AU."""
    kinds = {b"RIFF": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
    return head[8:12] in kinds.get(head[:4], ()) or head.startswith((b".snd", b"riff\x2e\x91\xcf\x11"))


def open_with_libsndfile(file: MediaFile) -> Any:
    """Open a file with libsndfile as soon as its header has arrived.

    Return None if libsndfile cannot read the file or finds no samples in it. The wait for the header takes place before
    each attempt to open the file. soundfile opens all files of a process under one lock, so an attempt that waited
    would block the other files.
    """
    import soundfile

    header_size = SNIFF
    while True:
        has_ended = file.await_bytes(header_size)
        file.seek(0)
        try:
            with file.without_waiting():
                sound = soundfile.SoundFile(file)
        except (soundfile.LibsndfileError, TypeError):
            if has_ended:
                return None
            header_size *= 2
            continue
        if sound.frames:
            return sound
        sound.close()  # there are no samples, or the recorder never wrote their number
        return None


def _has_placeholder_length(info: str) -> bool:
    """Return whether the header of a file has a placeholder in place of the length, according to libsndfile's log.

    A recorder that cannot seek back to the header leaves a number close to the largest 32-bit number, signed or
    unsigned.
    """
    lengths = [int(length) for length in _LENGTH.findall(info)]
    return any(length >= 0xFFFFFF00 or 0x7FFFF000 <= length <= 0x80000000 for length in lengths)
