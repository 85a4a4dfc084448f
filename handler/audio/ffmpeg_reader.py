"""Read media files with FFmpeg, through PyAV. Knows no network and no window."""

import sys
from collections.abc import Iterator
from typing import Any

from handler.audio.audio_tracks import check_track_number, describe_choice, find_sounding_track, rank_tracks
from handler.audio.container_length import is_cut
from handler.audio.ffmpeg_file import FFmpegFile
from handler.audio.ffmpeg_formats import (
    MATROSKA,
    audio_decoders,
    demuxers,
    is_common_container,
    is_mp4,
    is_mpeg_audio,
)
from handler.audio.frames import Clock, read_blocks
from handler.audio.media_file import MediaFile
from handler.audio.media_report import CUT_OFF, DAMAGED, DecodeOptions, MediaReport, Planes
from handler.audio.mp3_length import is_mp3_cut, read_stated_duration
from handler.audio.mp4_boxes import Mp4Boxes
from handler.audio.packets import read_packets
from handler.audio.sample_format import check_sample_format
from handler.audio.sniff import unreadable_file
from handler.errors import CorruptMedia, NoAudioStream, UnsupportedMedia
from handler.schema.window import SAMPLE_RATE

_MAX_FAILURES = 100  # packets in a row that may fail before decoding stops
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # between MP3 files that were joined, FFmpeg takes them for audio
_PROBE_BYTES = 512 * 1024  # read to find out about streams, where the header of the file lists them
# Demuxers that read a duration from the file. Others estimate it from the bit rate.
_STATING = frozenset(
    ("ape", "asf", "avi", "caf", "dsf", "flac", "flv", "matroska", "mov", "mpc", "mpc8", "nut", "ogg", "smjpeg", "tak")
) | {"tta", "wav", "wtv", "wv"}
# Demuxers that read the time of the end on the clock of the file, which need not begin at 0.
_STATING_END = frozenset(("asf", "flv", "matroska", "nut", "ogg", "smjpeg", "wtv"))
# Demuxers that read the number of samples.
_EXACT_TOLERANCE_S = 0.1
_EXACT = frozenset(("ape", "flac", "tak", "tta", "wv"))


class FFmpegReader:
    """Reads the audio of one file, and records in `report` what it finds out about the file.

    `head` holds the first bytes of the file.
    """

    def __init__(self, file: MediaFile, head: bytes, options: DecodeOptions, report: MediaReport) -> None:
        self._file = file
        self._head = head
        self._options = options
        self._report = report
        self._boxes = Mp4Boxes(file) if is_mp4(head) else None
        # With the size of an MP3 file, FFmpeg would cut its end differently from one that is still arriving.
        self._source = FFmpegFile(file, self._boxes, states_size=not is_mpeg_audio(head))
        self._demuxer = ""
        self._clock = Clock(None, report)
        self._tick_s: dict[int, float] = {}  # seconds of a unit of the timestamps of each stream
        self._last_packet_s = 0.0  # latest end of a packet of any stream, in seconds
        self._failures = 0  # packets in a row that could not be decoded

    def blocks(self) -> Iterator[tuple[Planes, int]]:
        """Yield blocks of samples, each with its sample rate in Hz. Raises MediaError and InvalidRequest."""
        container = self._open()
        try:
            self._demuxer = container.format.name.split(",")[0]
            track, has_read = self._choose_track(container)
            if has_read:
                container.close()
                container = self._open()
            stream = container.streams.audio[track]
            _prepare(stream)
            self._start_clock(container)
            seconds = 0.0
            frames = self._decode_frames(container, stream)
            for planes, rate in read_blocks(frames, self._clock, self._options.split):
                seconds += len(planes) / rate
                yield planes, rate
        finally:
            container.close()
        self._source.check()
        self._file.await_bytes(sys.maxsize)  # FFmpeg does not read what follows the audio
        self._check_end(seconds)
        if self._report.duration is not None:
            self._report.duration = seconds

    def _open(self) -> Any:
        import av
        import av.error

        if self._boxes is not None:
            self._boxes.check_movie()
        self._file.seek(0)
        options = {"format_whitelist": demuxers(self._head), "codec_whitelist": audio_decoders()}
        if self._boxes is not None and not self._boxes.applies_edits:
            options["advanced_editlist"] = "0"
        if self._head.startswith(MATROSKA):
            options["probesize"] = str(_PROBE_BYTES)
        try:
            container = av.open(self._source, "r", metadata_errors="ignore", options=options)
        except MemoryError:
            raise
        except (av.error.FFmpegError, UnicodeDecodeError) as exc:
            self._source.check()
            raise unreadable_file(self._file, is_common_container(self._head)) from exc
        self._source.check()
        return container

    def _choose_track(self, container: Any) -> tuple[int, bool]:
        """Return the number of the audio track to read, and whether packets were read to choose it."""
        count = len(container.streams.audio)
        try:
            ranked = rank_tracks(container)
        except (NoAudioStream, UnsupportedMedia) as exc:
            if self._file.is_complete and self._is_cut():
                raise CorruptMedia("expected a whole file; it ends before its audio is described") from exc
            raise
        track = self._options.track
        if track is not None:
            check_track_number(track, count)
            if track not in ranked:
                raise UnsupportedMedia(f"expected an audio codec that FFmpeg decodes; track {track} has another")
            return track, False
        if len(ranked) > 1:
            tracks = [container.streams.audio[number] for number in ranked]
            for stream in tracks:
                _prepare(stream)
            track = ranked[find_sounding_track(read_packets(container, lambda: None), tracks)]
        else:
            track = ranked[0]
        if count > 1:
            self._report.warn(describe_choice(track, count))
        return track, len(ranked) > 1

    def _decode_frames(self, container: Any, stream: Any) -> Iterator[Any]:
        has_frames = False
        # Packets of all streams are read, because any of them may show how long the file is.
        for packet in read_packets(container, self._note_failure):
            self._note_time(packet)
            if packet.stream.index != stream.index or (not packet.size and packet.dts is not None):
                continue  # without bytes and with a timestamp, it carries a change of the codec's parameters
            self._clock.add_bytes(packet.size)
            for frame in self._decode_packet(packet):
                if not has_frames:
                    self._report.duration = self._stated_duration(container, frame)
                    has_frames = True
                yield frame
            if self._failures > _MAX_FAILURES:
                break
        self._source.check()
        if self._failures and not has_frames:
            raise CorruptMedia("expected audio that can be decoded; every part of it is damaged")
        if not has_frames and self._demuxer in _EXACT and container.duration:
            raise CorruptMedia("expected a whole file; it ends before its first sample")

    def _decode_packet(self, packet: Any) -> list[Any]:
        """Return the frames of a packet, or [] if it is damaged."""
        import av.error

        try:
            frames = list(packet.decode())
        except av.error.EOFError:
            return []
        except MemoryError:
            raise
        except av.error.FFmpegError:
            if not bytes(packet).startswith(_TAGS):
                self._note_failure()
            return []
        if frames and self._failures:
            self._report.warn(DAMAGED)
            self._failures = 0
        return frames

    def _note_failure(self) -> None:
        self._failures += 1

    def _start_clock(self, container: Any) -> None:
        """Let the recording begin when its first stream does, or, if there is one stream only, with its first frame.

        Some demuxers do not know when that is before they have read it.
        """
        import av
        from av.stream import Disposition

        streams = [stream for stream in container.streams if stream.type in ("audio", "video")]
        num_streams = sum(not stream.disposition & Disposition.attached_pic for stream in streams)
        start_s = (container.start_time or 0) / av.time_base
        self._clock = Clock(start_s if num_streams > 1 else None, self._report, fills_gaps=not _is_ogg_flac(container))
        self._last_packet_s = start_s

    def _note_time(self, packet: Any) -> None:
        if packet.pts is not None:
            index = packet.stream.index
            if index not in self._tick_s:
                self._tick_s[index] = float(packet.time_base)
            end_s = (packet.pts + (packet.duration or 0)) * self._tick_s[index]
            self._last_packet_s = max(self._last_packet_s, end_s)
        duration = self._report.duration
        if duration is not None and self._clock.now_s - (self._clock.start_s or 0.0) > duration + _tolerance(duration):
            self._report.duration = None  # another file follows, and the header is that of the first

    def _stated_duration(self, container: Any, first_frame: Any) -> float | None:
        """Return the duration in seconds that the container states, if it does."""
        import av

        duration = (container.duration or 0) / av.time_base
        if _is_ogg_flac(container):
            return None
        if self._demuxer == "mp3":
            return read_stated_duration(self._file, first_frame.sample_rate)
        if self._demuxer in _STATING_END:
            start_s = self._clock.start_s
            if start_s is None:
                start_s = first_frame.time or 0.0
            duration -= start_s if start_s <= duration else 0.0
        return duration if duration > 0 and self._demuxer in _STATING else None

    def _is_cut(self) -> bool | None:
        """Return whether the file, which is complete, ends too early, or None if its structure does not show it."""
        if self._boxes is not None:
            return self._boxes.is_cut() or None  # whole boxes may hold less than the index says
        return is_mp3_cut(self._file) if self._demuxer == "mp3" else is_cut(self._file, self._head)

    def _check_end(self, seconds: float) -> None:
        """Warn if the file is cut off, or damaged at its end. Raises CorruptMedia if that left no samples."""
        cut = self._is_cut()
        duration = self._report.duration
        is_exact = duration is not None and self._demuxer in _EXACT
        if cut is None and duration is not None:
            length_s = seconds if is_exact else self._last_packet_s - (self._clock.start_s or 0.0)
            cut = length_s < duration - (_EXACT_TOLERANCE_S if is_exact else _tolerance(length_s))
        if cut and not seconds:
            raise CorruptMedia("expected a whole file; it ends before its first sample")
        if cut:
            self._report.warn(CUT_OFF)
        elif self._failures and not is_exact:
            self._report.warn(DAMAGED)


def _tolerance(duration: float) -> float:
    """Return the seconds by which a stated duration may be wrong."""
    return max(1.0, 0.02 * duration)


def _is_ogg_flac(container: Any) -> bool:
    """Return whether FFmpeg gives timestamps from 0 to the first page of a track, whatever those of the others are."""
    return container.format.name == "ogg" and any(track.codec.name == "flac" for track in container.streams.audio)


def _prepare(stream: Any) -> None:
    """Set up the decoder of an audio stream before its first packet.

    A layout with channels in an order of its own holds memory that PyAV 18 frees once for each object that it makes of
    the layout, and it makes one for every frame. A layout that is made of a name has no such memory, so the decoder is
    given one, and its own layout is looked at only once. Raises UnsupportedMedia.
    """
    context = stream.codec_context
    context.thread_count = 1  # the other processor cores are for the model
    layout = context.layout
    channels = layout.nb_channels
    if channels:
        try:
            name = layout.name
        except (ValueError, RuntimeError):  # the name is longer than PyAV's buffer
            name = "("
        context.layout = f"{channels} channels" if "(" in name else name
    check_sample_format(context.sample_rate or SAMPLE_RATE, channels or 1)  # zero if the first packet will tell
