"""Read media files with FFmpeg, through PyAV. Knows no network and no window."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from handler.audio.media_file import MediaFile
from handler.audio.media_report import BLOCK_S, CUT_OFF, DAMAGED, DecodeOptions, MediaReport, Planes
from handler.errors import CorruptMedia, NoAudioStream, UnsupportedMedia

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


class FFmpegReader:
    """Reads the audio of one file, and records in `report` what it finds out about the file.

    `head` holds the first bytes of the file.
    """

    def __init__(self, file: MediaFile, head: bytes, options: DecodeOptions, report: MediaReport) -> None:
        self._file = file
        self._head = head
        self._options = options
        self._report = report
        self._last_packet_s = 0.0  # latest end of a packet of any stream, in seconds

    def blocks(self) -> Iterator[tuple[Planes, int]]:
        """Yield blocks of samples, each with its sample rate in Hz. Raises MediaError."""
        import av

        with self._open() as container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or not stream.codec_context:
                raise NoAudioStream("expected a file with audio; it has other streams only")
            stream.codec_context.thread_count = 1  # the other processor cores are for the model
            start_s = (container.start_time or 0) / av.time_base
            self._last_packet_s = start_s
            if container.duration and self._states_duration(container.format.name):
                self._report.duration = container.duration / av.time_base
            yield from _merge_blocks(_fill_gaps(self._decode_frames(container, stream), start_s))
            length_s = self._last_packet_s - start_s
            is_short = self._report.duration is not None and length_s < self._report.duration - max(
                1.0, 0.02 * length_s
            )
            if is_short or (self._head.startswith(b"OggS") and not self._has_last_ogg_page()):
                self._report.warn(CUT_OFF)

    def _open(self) -> Any:
        import av
        import av.error

        try:
            return av.open(
                _FFmpegFile(self._file), "r", metadata_errors="ignore", options={"format_whitelist": _DEMUXERS}
            )
        except (av.error.FFmpegError, UnicodeDecodeError) as exc:
            if _is_common_container(self._head):
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
                self._report.warn(DAMAGED)
                if failures > _MAX_FAILURES:
                    if has_frames:
                        break
                    raise CorruptMedia(f"expected audio that can be decoded: {exc.strerror}") from exc
        if failures and not has_frames:
            raise CorruptMedia("expected audio that can be decoded; every part of it is damaged")


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
            for _ in range(int(gap_s / BLOCK_S)):
                yield np.zeros((int(BLOCK_S * rate), planes.shape[1]), np.float32), rate
            yield np.zeros((round(gap_s % BLOCK_S * rate), planes.shape[1]), np.float32), rate
            expected_s += gap_s
        yield planes, rate
        expected_s += len(planes) / rate
        if gap_s >= _MAX_GAP_S or gap_s < -_MAX_GAP_S:  # the clock was reset: follow it
            expected_s = time_s + len(planes) / rate


def _merge_blocks(blocks: Iterator[tuple[Planes, int]]) -> Iterator[tuple[Planes, int]]:
    """Merge small blocks into blocks of at least BLOCK_S seconds, and yield each with its sample rate in Hz.

    A block is shorter if the audio ends, or if the sample rate or the number of channels changes after it.
    """
    batch: list[Planes] = []
    batch_rate = count = 0
    for planes, rate in blocks:
        is_full = count >= BLOCK_S * rate
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


class _FFmpegFile:
    """A file object for FFmpeg.

    A read returns as soon as any bytes have arrived. A seek relative to the end fails until the whole file has arrived.
    """

    def __init__(self, file: MediaFile) -> None:
        self.tell = file.tell
        self._file = file

    def read(self, size: int) -> bytes:
        """Wait for at least one byte, and return at most `size` bytes. Return b"" at the end of the file."""
        return self._file.read_available(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return that position as counted from the start of the file.

        With io.SEEK_END, return −1 without moving if the file has not arrived completely. Demuxers seek to the end to
        measure the length of a file, and work without knowing the length.
        """
        if whence == io.SEEK_END and not self._file.is_complete:
            return -1
        return self._file.seek(offset, whence)
