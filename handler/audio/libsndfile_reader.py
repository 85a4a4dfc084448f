"""Read sound files with libsndfile: WAV and its relatives, AIFF, AU, NIST SPHERE and samples without a header.

The headers of these are read here, as far as they have arrived, and libsndfile decodes samples alone. A few rarer
formats are read by libsndfile itself, once the whole file has arrived. Knows no network and no window.
"""

import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from handler.audio.aiff import is_aiff, read_aiff_header
from handler.audio.au_and_sphere import is_au, is_sphere, read_au_header, read_sphere_header
from handler.audio.ffmpeg_formats import is_common_container
from handler.audio.media_file import MediaFile
from handler.audio.media_report import CUT_OFF, DecodeOptions, MediaReport, Planes
from handler.audio.riff import is_wave, read_wave_header
from handler.audio.sample_format import FloatScaler, check_sample_format, count_block_frames
from handler.audio.sound_data import MAX_BLOCK_CODEC_SAMPLES, SoundData
from handler.audio.sound_header import SoundHeader, header_of_raw_samples
from handler.errors import CorruptMedia, TooLong

SNIFF = 16  # bytes at the start of a file that are enough to recognise its format
LONGER = "the file holds more audio than its header states: all of it was transcribed"
SECOND_FILE = "another sound file follows the end of the first: it was left out"
# Paris, Portable Voice Format, Audio Visual Research, Psion
_WHOLE_FILE_MAGIC = (b" paf", b"fap ", b"PVF1\n", b"2BIT", b"ALawSoundFile**\0")
_AKAI_MAGIC = b"\x01\x04"  # of the MPC 2000, followed by a name
_HTK_SAMPLES = b"\x00\x02\x00\x00"  # bytes 8 to 12: two bytes for each sample, and samples rather than features

Blocks = Iterator[tuple[Planes, int]]


def read_sound_file(file: MediaFile, head: bytes, options: DecodeOptions, report: MediaReport) -> Blocks | None:
    """Return blocks of samples, each with its sample rate in Hz, or None if the file is not for libsndfile.

    Waits for the file's header, of which `head` holds the first SNIFF bytes. Raises MediaError, also while the blocks
    are read.
    """
    header = _read_header(file, head, options)
    if header is not None:
        return _open_samples(file, header, report)
    return _open_whole_file(file, report) if _is_whole_file_format(head) else None


def _read_header(file: MediaFile, head: bytes, options: DecodeOptions) -> SoundHeader | None:
    """Wait for the header of a file, and return what it states, or None if it is unknown.

    A file that has a header after all is read by its header, whatever encoding the options name.
    """
    if is_wave(head):
        return read_wave_header(file, head)
    if is_aiff(head):
        return read_aiff_header(file)
    if is_au(head):
        return read_au_header(file, head)
    if is_sphere(head):
        return read_sphere_header(file)
    return None if options.encoding is None or is_common_container(head) else header_of_raw_samples(options)


def _open_samples(file: MediaFile, header: SoundHeader, report: MediaReport) -> Blocks | None:
    """Open the samples that follow a header. Return None if libsndfile cannot decode them."""
    import soundfile

    file.await_bytes(header.data_start + header.codec.block_bytes)  # soundfile opens all files under one lock
    data = SoundData(file, header)
    raw_options: dict[str, Any] = {}
    if not header.preamble:
        raw_options = {
            "format": "RAW",
            "samplerate": header.sample_rate,
            "channels": header.channels,
            "subtype": header.codec.subtype,
            "endian": "BIG" if header.is_big_endian else "LITTLE",
        }
    try:
        sound = _sequential_sound_file()(data, **raw_options)
    except soundfile.LibsndfileError:
        return None
    return _read_samples(sound, data, header, report)


@cache
def _sequential_sound_file() -> Any:
    """Return soundfile's class, without the seek that follows each of its reads.

    Codecs that carry their state from block to block decode wrongly, or not at all, after a seek.
    """
    import soundfile

    class SequentialSoundFile(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return SequentialSoundFile


def _read_samples(sound: Any, data: SoundData, header: SoundHeader, report: MediaReport) -> Blocks:
    """Yield blocks of samples until the bytes end."""
    codec = header.codec
    report.duration = _stated_duration(data, header)
    num_frames = count_block_frames(header.sample_rate, header.channels)
    num_frames = max(1, num_frames // codec.block_frames) * codec.block_frames
    scaler = FloatScaler() if codec.subtype in ("FLOAT", "DOUBLE") else None
    frames_read = 0
    with sound:
        while True:
            planes = _read_block(sound, num_frames)
            if data.has_ended:  # what libsndfile returns beyond the end is no audio
                planes = planes[: max(0, codec.count_frames(data.num_bytes) - frames_read)]
            if not len(planes):
                break
            frames_read += len(planes)
            if data.is_longer:
                report.duration = None
            yield (planes if scaler is None else scaler.scale(planes)), header.sample_rate
    if not data.has_ended:
        raise TooLong(f"expected at most {MAX_BLOCK_CODEC_SAMPLES} samples in {codec.subtype}; the file has more")
    if data.is_cut:
        if not frames_read:
            raise CorruptMedia("expected a whole sound file; it ends before its first sample")
        report.warn(CUT_OFF)
    if data.is_longer:
        report.warn(LONGER)
    if data.has_second_file:
        report.warn(SECOND_FILE)
    report.duration = frames_read / header.sample_rate


def _stated_duration(data: SoundData, header: SoundHeader) -> float | None:
    """Return the duration in seconds, or None if it is not known yet."""
    size = data.expected_size
    return None if size is None else header.codec.count_frames(size) / header.sample_rate


def _read_block(sound: Any, num_frames: int) -> Planes:
    """Return the next samples, at most `num_frames` frames. Raises CorruptMedia. [n, channels]"""
    import soundfile

    try:
        planes: Planes = sound.read(num_frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as exc:
        raise CorruptMedia(f"expected a readable sound file: {exc.error_string}") from exc
    return planes


def _is_whole_file_format(head: bytes) -> bool:
    """Return whether a file is in a rarer format that libsndfile reads, and FFmpeg does not or reads worse."""
    name = head[len(_AKAI_MAGIC) :]
    is_akai = head.startswith(_AKAI_MAGIC) and len(head) == SNIFF and name.isascii() and name.decode().isprintable()
    return is_akai or head.startswith(_WHOLE_FILE_MAGIC) or head[8:12] == _HTK_SAMPLES


def _open_whole_file(file: MediaFile, report: MediaReport) -> Blocks | None:
    """Wait for the end of a file, and open it. Return None if libsndfile cannot read it."""
    import soundfile

    file.await_bytes(sys.maxsize)
    file.seek(0)
    try:
        sound = _sequential_sound_file()(file)
    except (soundfile.LibsndfileError, TypeError):
        return None
    if not sound.frames:
        sound.close()
        return None
    return _read_whole_file(sound, report)


def _read_whole_file(sound: Any, report: MediaReport) -> Blocks:
    """Yield blocks of samples until the frames that libsndfile has counted, or the bytes, end."""
    with sound:
        check_sample_format(sound.samplerate, sound.channels)
        report.duration = sound.frames / sound.samplerate
        remaining = sound.frames
        while remaining > 0:
            planes = _read_block(sound, min(remaining, count_block_frames(sound.samplerate, sound.channels)))
            if not len(planes):
                report.warn(CUT_OFF)
                break
            remaining -= len(planes)
            yield planes, sound.samplerate
        report.duration = (sound.frames - remaining) / sound.samplerate
