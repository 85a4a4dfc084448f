"""Bytes to float32 samples at 16 kHz, in blocks: what the bytes are decides, not their name. Knows no network and no window.

libsndfile reads wav and its kin, FFmpeg (by PyAV) everything else; both deliver to the one resampler, soxr.
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

Planes = NDArray[np.float32]  # [n, channels], at the file's own rate

MOST_CHANNELS = 8  # that are worked on apart
CUT_OFF = "the file is cut off or damaged: what could be heard of it was transcribed"
DAMAGED = "parts of the file are damaged and were left out"
_SIZE = re.compile(r"^ *(?:RIFF|FORM|data|SSND|Data Size) *: (\d+)", re.MULTILINE)  # as libsndfile tells it
_BLOCK_S = 2.0  # seconds of audio read at a time
_SNIFF = 12  # bytes that tell a wav file
_HEAD = 256 * 1024  # bytes in which an mp3 file says its length, behind its cover picture
_OGG_PAGE = 65_307  # bytes of the longest page
_GAP_S = 0.1  # seconds without samples that are taken for silence
_LONGEST_GAP_S = 3600.0  # more than that is a clock set anew
_FULL_SCALE = {"u1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31}
# Demuxers of FFmpeg that read one file and nothing else: no playlist, no list of files, no device, no text.
_DEMUXERS = (
    "aac,ac3,act,aea,aiff,amr,amrnb,amrwb,ape,asf,ast,au,avi,caf,dsf,dts,dtshd,dv,eac3,flac,flv,g722,gsm,gxf,iff,ircam,ivf,"
    "latm,loas,m4v,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,oma,qcp,rm,shn,sox,tak,truehd,tta,voc,w64,wav,wtv,wv,xa,xwma"
)
_MAX_DAMAGED = 100  # packets in a row that may fail before the rest is given up


class AudioDecoder:
    """One file's audio, its channels mixed into one or split.

    `duration` is what the container says, in seconds; `warnings` are complete once the blocks are read.
    """

    def __init__(self, file: BinaryIO, split: bool = False) -> None:
        self._split = split
        self.duration: float | None = None
        self.warnings: list[str] = []
        self._reached = 0.0  # time of the last packet of any stream, seconds
        self._file = file

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Blocks of samples, [n, channels] each, as many channels in all of them; one where they are mixed. Raises MediaError."""
        resampler, rate = None, 0
        channels = count = 0
        for planes, found_rate in self._planes():
            channels = channels or (planes.shape[1] if self._split else 1)
            if channels > MOST_CHANNELS:
                raise UnsupportedMedia(f"expected at most {MOST_CHANNELS} channels to split; the file has {channels}")
            wanted = _with_channels(planes, channels) if self._split else _mixed(planes)
            if found_rate != rate:
                if resampler is not None:
                    yield resampler.resample_chunk(np.empty((0, channels), np.float32), last=True)
                resampler, rate = soxr.ResampleStream(found_rate, SAMPLE_RATE, channels, dtype="float32", quality="HQ"), found_rate
            count += len(wanted)
            if len(block := resampler.resample_chunk(np.ascontiguousarray(wanted))):  # type: ignore[union-attr]
                yield block
        if resampler is None or not count:
            raise NoAudioStream("expected a file with audio; it holds no samples")
        yield resampler.resample_chunk(np.empty((0, channels), np.float32), last=True)

    def _planes(self) -> Iterator[tuple[Planes, int]]:
        head = self._file.read(_SNIFF)
        self._file.seek(0)
        if not head:
            raise UnsupportedMedia("expected an audio or video file; got no bytes at all")
        if _is_sound(head):
            if (sound := _open_sound(self._file)) is not None:
                return self._read_sound(sound)
            self._file.seek(0)
        return self._read_av(head)

    def _read_sound(self, sound: Any) -> Iterator[tuple[Planes, int]]:
        import soundfile

        with sound:
            stated = None if _endless(sound.extra_info) else sound.frames
            self.duration = None if stated is None else stated / sound.samplerate
            # Of a file that arrives libsndfile does not know the length: what is missing tells.
            short = "should be" in sound.extra_info and not isinstance(self._file, SpoolReader)
            got = 0
            while True:
                try:
                    planes = sound.read(int(_BLOCK_S * sound.samplerate), dtype="float32", always_2d=True)
                except soundfile.LibsndfileError as exc:
                    raise CorruptMedia(f"expected a readable sound file: {exc.error_string}") from exc
                got += len(planes)
                if not len(planes):
                    if stated is not None and (short or got < stated):
                        self._warn(CUT_OFF)
                    return
                yield np.nan_to_num(planes, copy=False, nan=0.0, posinf=1.0, neginf=-1.0), sound.samplerate

    def _read_av(self, head: bytes) -> Iterator[tuple[Planes, int]]:
        import av
        import av.error

        source = self._file.piecewise() if isinstance(self._file, SpoolReader) else self._file
        try:
            container = av.open(source, "r", metadata_errors="ignore", options={"format_whitelist": _DEMUXERS})
        except (av.error.FFmpegError, UnicodeDecodeError) as exc:
            if _is_known(head):
                raise CorruptMedia("expected a whole file; what is there of it has no beginning or no index") from exc
            raise UnsupportedMedia("expected an audio or video file that FFmpeg or libsndfile can read") from exc
        with container:
            stream = next(iter(container.streams.audio), None)
            if stream is None or not stream.codec_context:
                raise NoAudioStream("expected a file with audio; it has other streams only")
            stream.codec_context.thread_count = 1  # the model has better use for the others
            begin = (container.start_time or 0) / av.time_base
            self._reached = begin
            if container.duration and self._states_duration(container.format.name):
                self.duration = container.duration / av.time_base
            yield from _joined(_on_time(self._decoded(container, stream), begin))
            got = self._reached - begin
            short = self.duration is not None and got < self.duration - max(1.0, 0.02 * got)
            if short or (head.startswith(b"OggS") and not self._ogg_ends()):
                self._warn(CUT_OFF)

    def _states_duration(self, demuxer: str) -> bool:
        """Whether the container's duration is one that was written down, not one that FFmpeg estimates from the bit rate."""
        if demuxer == "mp3":
            place = self._file.tell()
            self._file.seek(0)
            beginning = self._file.read(_HEAD)
            self._file.seek(place)
            return b"Xing" in beginning or b"Info" in beginning
        return demuxer.split(",")[0] in ("flac", "matroska", "mov", "asf", "avi", "ogg", "wav", "caf")

    def _ogg_ends(self) -> bool:
        """Whether the last page says that it is the last one."""
        self._file.seek(max(0, self._file.seek(0, 2) - _OGG_PAGE))
        end = self._file.read(_OGG_PAGE)
        page = end.rfind(b"OggS")
        return page >= 0 and bool(end[page + 5 : page + 6] > b"\x03")

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        import av.error

        failed = 0
        packets = container.demux()  # of all streams: they tell how far the file goes
        good = False
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                if packet.pts is not None:
                    self._reached = max(self._reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index:
                    continue
                for frame in packet.decode():
                    good, failed = True, 0
                    yield frame
            except av.error.EOFError:
                break
            except av.error.FFmpegError as exc:
                failed += 1
                self._warn(DAMAGED)
                if failed > _MAX_DAMAGED:
                    if good:
                        break
                    raise CorruptMedia(f"expected audio that can be decoded: {exc.strerror}") from exc
        if failed and not good:
            raise CorruptMedia("expected audio that can be decoded; every part of it is damaged")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _mixed(planes: Planes) -> Planes:
    """The mean of the channels. [n, 1]"""
    return planes if planes.shape[1] == 1 else planes.mean(axis=1, dtype=np.float32, keepdims=True)


def _with_channels(planes: Planes, count: int) -> Planes:
    """The first `count` channels, silent ones where the file has fewer from here on."""
    return np.pad(planes[:, :count], ((0, 0), (0, max(0, count - planes.shape[1]))))


def _is_sound(head: bytes) -> bool:
    """Whether a file begins as those do that libsndfile reads: wav, its 64-bit kin, aiff, au."""
    kinds = {b"RIFF": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
    return head[8:12] in kinds.get(head[:4], ()) or head.startswith((b".snd", b"riff\x2e\x91\xcf\x11"))


def _open_sound(file: BinaryIO) -> Any:
    """A file opened by libsndfile; one that arrives as soon as its beginning has. None where it finds no samples in it.

    All files of a process are opened under one lock of soundfile's, so none may wait for bytes there.
    """
    import soundfile

    needed = _SNIFF
    while True:
        whole = not isinstance(file, SpoolReader) or file.await_bytes(needed)
        file.seek(0)
        try:
            with file.hasty() if isinstance(file, SpoolReader) else nullcontext():
                sound = soundfile.SoundFile(file)
        except (soundfile.LibsndfileError, TypeError):
            if whole:
                return None
            needed *= 2
            continue
        if sound.frames:
            return sound
        sound.close()  # none, or their number was never written down
        return None


def _endless(info: str) -> bool:
    """Whether a recorder that could not seek back left its placeholder for a length: about the greatest number, signed or not."""
    sizes = [int(size) for size in _SIZE.findall(info)]
    return any(size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x80000000 for size in sizes)


def _is_known(head: bytes) -> bool:
    """Whether the first bytes are those of a common container."""
    return head[4:8] == b"ftyp" or head.startswith((b"RIFF", b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3", b"#!AMR", b"FORM"))


def _on_time(frames: Iterator[Any], begin: float) -> Iterator[tuple[Planes, int]]:
    """Each frame's samples, with silence where the file's clock runs on and no samples come: pauses, lost packets, a late start."""
    due = begin
    for frame in frames:
        planes, rate = _to_planes(frame), frame.sample_rate
        gap = (frame.time if frame.time is not None else due) - due
        if _GAP_S < gap < _LONGEST_GAP_S:
            for _ in range(int(gap / _BLOCK_S)):
                yield np.zeros((int(_BLOCK_S * rate), planes.shape[1]), np.float32), rate
            yield np.zeros((round(gap % _BLOCK_S * rate), planes.shape[1]), np.float32), rate
            due += gap
        yield planes, rate
        due += len(planes) / rate
        if gap >= _LONGEST_GAP_S or gap < -_LONGEST_GAP_S:  # a clock that jumps: follow it
            due = frame.time + len(planes) / rate


def _joined(parts: Iterator[tuple[Planes, int]]) -> Iterator[tuple[Planes, int]]:
    """Small parts put together to blocks of one rate and one number of channels."""
    held: list[Planes] = []
    held_rate = count = 0
    for planes, rate in parts:
        if held and (rate != held_rate or planes.shape[1] != held[0].shape[1] or count >= _BLOCK_S * rate):
            yield np.concatenate(held), held_rate
            held, count = [], 0
        held.append(planes)
        held_rate = rate
        count += len(planes)
    if held:
        yield np.concatenate(held), held_rate


def _to_planes(frame: Any) -> Planes:
    """A PyAV frame as [n, channels] float32 in [-1, 1]."""
    if frame.format.name.startswith("s64"):  # numpy has no such frame in PyAV
        from av import AudioResampler

        (frame,) = AudioResampler(format="dbl").resample(frame)
    raw = frame.to_ndarray()  # [channels, n] where planar, else [1, n * channels]
    planes = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    kind = planes.dtype.str[1:]
    samples: Planes = planes.astype(np.float32)
    if kind in _FULL_SCALE:
        return (samples - (128.0 if kind == "u1" else 0.0)) / np.float32(_FULL_SCALE[kind])
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
