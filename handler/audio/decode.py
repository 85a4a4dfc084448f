"""Decode files to blocks of float32 samples at 16 kHz.

The format of a file is recognised by its bytes, not by its name. libsndfile reads WAV and similar formats, and FFmpeg
(through PyAV) reads all others. The samples are resampled by soxr. Knows no network and no window.
"""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, BinaryIO

import numpy as np
import soxr
from numpy.typing import NDArray

from handler.audio.spool import SpoolReader
from handler.errors import CorruptMedia, NoAudioStream, UnsupportedMedia
from handler.schema.window import SAMPLE_RATE

Planes = NDArray[np.float32]  # samples [n, channels] at the sample rate of the file

MAX_CHANNELS = 8  # largest number of channels that can be split
CUT_OFF = "the file is cut off or damaged: what could be heard of it was transcribed"
DAMAGED = "parts of the file are damaged and were left out"
_LENGTH = re.compile(r"^ *(?:RIFF|FORM|data|SSND|Data Size) *: (\d+)", re.MULTILINE)  # in libsndfile's log
_BLOCK_S = 2.0  # seconds of audio read at a time
_SNIFF = 12  # bytes at the start of a file that are enough to recognise a WAV file
_MP3_HEAD = 256 * 1024  # bytes at the start of an MP3 file, cover picture included, that may state the duration
_OGG_PAGE = 65_307  # bytes of the longest possible Ogg page
_MIN_GAP_S = 0.1  # a longer gap in the timestamps is filled with silence
_MAX_GAP_S = 3600.0  # a longer gap means that the clock of the timestamps was reset
_FULL_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}
# Demuxers of FFmpeg that read a single media file. Those for playlists, lists of files, devices and text are left out.
_DEMUXERS = (
    "aac,ac3,act,aea,aiff,amr,amrnb,amrwb,ape,asf,ast,au,avi,caf,dsf,dts,dtshd,dv,eac3,flac,flv,g722,gsm,gxf,iff,"
    "ircam,ivf,latm,loas,m4v,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,oma,qcp,rm,shn,sox,tak,truehd,tta,"
    "voc,w64,wav,wtv,wv,xa,xwma"
)
_COMMON_MAGIC = (b"RIFF", b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3", b"#!AMR", b"FORM")
_MAX_FAILURES = 100  # packets in a row that may fail before decoding stops


class AudioDecoder:
    """Decodes the audio of one file, with all channels mixed into one or, if `split` is true, with each kept apart.

    `duration` is the duration in seconds that the container states. It is None if the container states none, and until
    the first block has been read. `warnings` holds a sentence for each defect, and is complete once all blocks are
    read.
    """

    def __init__(self, file: BinaryIO, split: bool = False) -> None:
        self._split = split
        self.duration: float | None = None
        self.warnings: list[str] = []
        self._last_packet_s = 0.0  # latest end of a packet of any stream, in seconds
        self._file = file

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the audio in blocks of samples at 16 kHz. [n, channels]

        All blocks have the same number of channels, which is 1 if the channels are mixed. Raises MediaError.
        """
        resampler: Any = None
        rate = channels = count = 0
        for planes, block_rate in self._blocks_at_file_rate():
            channels = channels or self._count_channels(planes)
            samples = _pad_channels(planes, channels) if self._split else _mix_channels(planes)
            if block_rate != rate:
                if resampler is not None:
                    yield _flush(resampler, channels)
                rate = block_rate
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32", quality="HQ")
            count += len(samples)
            block = resampler.resample_chunk(np.ascontiguousarray(samples))
            if len(block):
                yield block
        if resampler is None or not count:
            raise NoAudioStream("expected a file with audio; it holds no samples")
        yield _flush(resampler, channels)

    def _count_channels(self, planes: Planes) -> int:
        channels = planes.shape[1] if self._split else 1
        if channels > MAX_CHANNELS:
            raise UnsupportedMedia(f"expected at most {MAX_CHANNELS} channels to split; the file has {channels}")
        return channels

    def _blocks_at_file_rate(self) -> Iterator[tuple[Planes, int]]:
        head = self._file.read(_SNIFF)
        self._file.seek(0)
        if not head:
            raise UnsupportedMedia("expected an audio or video file; got no bytes at all")
        if _is_libsndfile_format(head):
            if (sound := _open_with_libsndfile(self._file)) is not None:
                return self._read_with_libsndfile(sound)
            self._file.seek(0)
        return self._read_with_ffmpeg(head)

    def _read_with_libsndfile(self, sound: Any) -> Iterator[tuple[Planes, int]]:
        import soundfile

        with sound:
            stated_frames = None if _has_placeholder_length(sound.extra_info) else sound.frames
            self.duration = None if stated_frames is None else stated_frames / sound.samplerate
            # For a file that is still arriving, libsndfile compares the stated length with the part that has arrived.
            is_short = "should be" in sound.extra_info and not isinstance(self._file, SpoolReader)
            frames_read = 0
            while True:
                try:
                    planes = sound.read(int(_BLOCK_S * sound.samplerate), dtype="float32", always_2d=True)
                except soundfile.LibsndfileError as exc:
                    raise CorruptMedia(f"expected a readable sound file: {exc.error_string}") from exc
                frames_read += len(planes)
                if not len(planes):
                    break
                yield np.nan_to_num(planes, copy=False, nan=0.0, posinf=1.0, neginf=-1.0), sound.samplerate
            if stated_frames is not None and (is_short or frames_read < stated_frames):
                self._warn(CUT_OFF)

    def _read_with_ffmpeg(self, head: bytes) -> Iterator[tuple[Planes, int]]:
        import av

        with self._open_with_ffmpeg(head) as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or not stream.codec_context:
                raise NoAudioStream("expected a file with audio; it has other streams only")
            stream.codec_context.thread_count = 1  # the other processor cores are for the model
            start_s = (container.start_time or 0) / av.time_base
            self._last_packet_s = start_s
            if container.duration and self._states_duration(container.format.name):
                self.duration = container.duration / av.time_base
            yield from _merge_blocks(_fill_gaps(self._decode_frames(container, stream), start_s))
            length_s = self._last_packet_s - start_s
            is_short = self.duration is not None and length_s < self.duration - max(1.0, 0.02 * length_s)
            if is_short or (head.startswith(b"OggS") and not self._has_last_ogg_page()):
                self._warn(CUT_OFF)

    def _open_with_ffmpeg(self, head: bytes) -> Any:
        import av
        import av.error

        source = self._file.for_ffmpeg() if isinstance(self._file, SpoolReader) else self._file
        try:
            return av.open(source, "r", metadata_errors="ignore", options={"format_whitelist": _DEMUXERS})
        except (av.error.FFmpegError, UnicodeDecodeError) as exc:
            if _is_common_container(head):
                raise CorruptMedia("expected a whole file; what is there of it has no beginning or no index") from exc
            raise UnsupportedMedia("expected an audio or video file that FFmpeg or libsndfile can read") from exc

    def _states_duration(self, demuxer: str) -> bool:
        """Return whether the container states its duration. If not, FFmpeg only estimates it from the bit rate."""
        if demuxer == "mp3":
            position = self._file.tell()
            self._file.seek(0)
            head = self._file.read(_MP3_HEAD)
            self._file.seek(position)
            return b"Xing" in head or b"Info" in head
        return demuxer.split(",")[0] in ("flac", "matroska", "mov", "asf", "avi", "ogg", "wav", "caf")

    def _has_last_ogg_page(self) -> bool:
        """Return whether the last Ogg page of the file is marked as the end of a stream."""
        self._file.seek(max(0, self._file.seek(0, 2) - _OGG_PAGE))
        end = self._file.read(_OGG_PAGE)
        page = end.rfind(b"OggS")
        return page >= 0 and bool(end[page + 5 : page + 6] > b"\x03")

    def _decode_frames(self, container: Any, stream: Any) -> Iterator[Any]:
        import av.error

        failures = 0  # packets in a row that could not be decoded
        has_frames = False
        packets = container.demux()  # of all streams, because any of them may show how long the file is
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                if packet.pts is not None:
                    end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._last_packet_s = max(self._last_packet_s, end_s)
                if packet.stream.index != stream.index:
                    continue
                for frame in packet.decode():
                    has_frames, failures = True, 0
                    yield frame
            except av.error.EOFError:
                break
            except av.error.FFmpegError as exc:
                failures += 1
                self._warn(DAMAGED)
                if failures > _MAX_FAILURES:
                    if has_frames:
                        break
                    raise CorruptMedia(f"expected audio that can be decoded: {exc.strerror}") from exc
        if failures and not has_frames:
            raise CorruptMedia("expected audio that can be decoded; every part of it is damaged")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _flush(resampler: Any, channels: int) -> NDArray[np.float32]:
    block: NDArray[np.float32] = resampler.resample_chunk(np.empty((0, channels), np.float32), last=True)
    return block


def _mix_channels(planes: Planes) -> Planes:
    """Return the mean of all channels. [n, 1]"""
    return planes if planes.shape[1] == 1 else planes.mean(axis=1, dtype=np.float32, keepdims=True)


def _pad_channels(planes: Planes, count: int) -> Planes:
    """Return the first `count` channels. Silent channels are added if `planes` has fewer. [n, count]"""
    return np.pad(planes[:, :count], ((0, 0), (0, max(0, count - planes.shape[1]))))


def _is_libsndfile_format(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of WAV, a 64-bit variant of WAV, AIFF or AU."""
    kinds = {b"RIFF": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
    return head[8:12] in kinds.get(head[:4], ()) or head.startswith((b".snd", b"riff\x2e\x91\xcf\x11"))


def _open_with_libsndfile(file: BinaryIO) -> Any:
    """Open a file with libsndfile as soon as its header has arrived.

    Return None if libsndfile cannot read the file or finds no samples in it. The wait for the header takes place before
    each attempt to open the file. soundfile opens all files of a process under one lock, so an attempt that waited
    would block the other files.
    """
    import soundfile

    header_size = _SNIFF
    while True:
        has_ended = not isinstance(file, SpoolReader) or file.await_bytes(header_size)
        file.seek(0)
        try:
            with file.without_waiting() if isinstance(file, SpoolReader) else nullcontext():
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


def _is_common_container(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a common media format such as MP4, MP3, Ogg or Matroska."""
    return head[4:8] == b"ftyp" or head.startswith(_COMMON_MAGIC)


def _fill_gaps(frames: Iterator[Any], start_s: float) -> Iterator[tuple[Planes, int]]:
    """Yield the samples and the sample rate in Hz of each frame, and fill gaps in the timestamps with silence.

    A gap is left by a pause of the recorder, by lost packets, or by audio that starts later than the container, which
    starts at `start_s` seconds. Only gaps longer than _MIN_GAP_S and shorter than _MAX_GAP_S are filled.
    """
    expected_s = start_s
    for frame in frames:
        planes, rate = _to_planes(frame), frame.sample_rate
        time_s = frame.time if frame.time is not None else expected_s
        gap_s = time_s - expected_s
        if _MIN_GAP_S < gap_s < _MAX_GAP_S:
            for _ in range(int(gap_s / _BLOCK_S)):
                yield np.zeros((int(_BLOCK_S * rate), planes.shape[1]), np.float32), rate
            yield np.zeros((round(gap_s % _BLOCK_S * rate), planes.shape[1]), np.float32), rate
            expected_s += gap_s
        yield planes, rate
        expected_s += len(planes) / rate
        if gap_s >= _MAX_GAP_S or gap_s < -_MAX_GAP_S:  # the clock was reset: follow it
            expected_s = time_s + len(planes) / rate


def _merge_blocks(blocks: Iterator[tuple[Planes, int]]) -> Iterator[tuple[Planes, int]]:
    """Merge small blocks into blocks of at least _BLOCK_S seconds, and yield each with its sample rate in Hz.

    A block is shorter if the audio ends, or if the sample rate or the number of channels changes after it.
    """
    batch: list[Planes] = []
    batch_rate = count = 0
    for planes, rate in blocks:
        is_full = count >= _BLOCK_S * rate
        if batch and (rate != batch_rate or planes.shape[1] != batch[0].shape[1] or is_full):
            yield np.concatenate(batch), batch_rate
            batch, count = [], 0
        batch.append(planes)
        batch_rate = rate
        count += len(planes)
    if batch:
        yield np.concatenate(batch), batch_rate


def _to_planes(frame: Any) -> Planes:
    """Return the samples of a PyAV frame as float32, scaled such that full scale is 1. [n, channels]"""
    if frame.format.name.startswith("s64"):  # PyAV cannot convert such a frame to numpy
        from av import AudioResampler

        (frame,) = AudioResampler(format="dbl").resample(frame)
    raw = frame.to_ndarray()  # [channels, n] if planar, else [1, n * channels]
    planes = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    kind = planes.dtype.str[1:]
    samples: Planes = planes.astype(np.float32)
    if kind in _FULL_SCALE:
        zero = 128.0 if kind == "u1" else 0.0
        return (samples - zero) / np.float32(_FULL_SCALE[kind])
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
