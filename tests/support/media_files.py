"""Media files of every kind that FFmpeg writes, with any number of tracks and channels, and clocks that begin late."""

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache

import av
import numpy as np
import soxr

from handler.audio.decode import AudioDecoder
from handler.audio.media_file import MediaFile
from handler.audio.media_report import DecodeOptions, MediaReport
from handler.schema.window import SAMPLE_RATE
from tests.support.sound_files import TwoPieces
from tests.support.speech import Samples

SECONDS = 1.5
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)
# Format, codec and sample rate in Hz. What FFmpeg cannot write is in tests of its own.
KINDS = (
    *(
        ("matroska", codec, 48_000)
        for codec in ("libopus", "aac", "flac", "pcm_s16le", "pcm_f32le", "libmp3lame", "ac3")
    ),
    *(("matroska", codec, 48_000) for codec in ("wavpack", "alac", "mp2", "eac3")),
    *(("mp4", codec, 48_000) for codec in ("aac", "libmp3lame", "alac", "libopus", "ac3", "flac", "pcm_s16le")),
    *(("mov", codec, 44_100) for codec in ("aac", "pcm_s16le", "pcm_mulaw", "adpcm_ima_qt", "pcm_s24be", "pcm_f32le")),
    *(("mpegts", codec, 48_000) for codec in ("aac", "mp2", "ac3", "libopus", "libmp3lame")),
    *(("flv", codec, 44_100) for codec in ("aac", "libmp3lame", "nellymoser", "pcm_s16le")),
    *(("avi", codec, 48_000) for codec in ("libmp3lame", "ac3", "pcm_s16le", "aac")),
    *(("caf", codec, 44_100) for codec in ("alac", "pcm_s16be", "adpcm_ima_qt")),
    *(("nut", codec, 48_000) for codec in ("libopus", "pcm_s16le", "flac")),
    *(("voc", codec, 44_100) for codec in ("pcm_s16le", "pcm_alaw")),
    *(("wtv", codec, 48_000) for codec in ("ac3", "mp2")),
    *(("ogg", codec, 48_000) for codec in ("libopus", "flac")),
    *((format, "aac", 44_100) for format in ("ipod", "3gp", "adts", "latm", "ismv")),
    *((format, "libmp3lame", 44_100) for format in ("mp3", "asf", "wav")),
    *((format, "libmp3lame", 22_050) for format in ("swf", "avm2")),
    *((format, "mp2", 48_000) for format in ("mpeg", "vob", "mp2")),
    *((format, "ac3", 48_000) for format in ("ac3", "rm", "spdif")),
    *((format, "libopencore_amrnb", 8_000) for format in ("amr", "3gp")),
    *((format, "pcm_s16le", 44_100) for format in ("smjpeg", "ircam")),
    ("webm", "libopus", 48_000),
    ("eac3", "eac3", 48_000),
    ("wv", "wavpack", 44_100),
    ("tta", "tta", 44_100),
    ("flac", "flac", 44_100),
    ("rm", "real_144", 8_000),
    ("mmf", "adpcm_yamaha", 44_100),
    ("sox", "pcm_s32le", 44_100),
    ("ast", "pcm_s16be_planar", 44_100),
)


def encode(
    format: str,
    codec: str,
    rate: int = 48_000,
    layout: str = "mono",
    tracks: Sequence[Samples] = (TONE,),
    start_s: float = 0.0,
    default: int | None = None,
    muxer_options: Mapping[str, str] | None = None,
    codec_options: Mapping[str, str] | None = None,
) -> bytes:
    """Return a file with audio tracks whose samples are given at 16 kHz, either [n] or [n, channels].

    `start_s` is the time of the first sample on the clock of the file, and `default` the number of the only track that
    is flagged as default.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=format, options=dict(muxer_options or {})) as out:
        streams = [out.add_stream(codec, rate=rate, layout=layout) for _ in tracks]
        for number, stream in enumerate(streams):
            stream.codec_context.options = dict(codec_options or {})
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for stream in streams:
            stream.codec_context.open()
        for packet in sorted(_encode_all(streams, tracks, rate, layout, start_s), key=_time_of):
            out.mux(packet)
    return file.getvalue()


def _time_of(packet: av.Packet) -> float:
    return float("inf") if packet.dts is None else float(packet.dts * packet.time_base)


def _encode_all(
    streams: Sequence[av.AudioStream], tracks: Sequence[Samples], rate: int, layout: str, start_s: float
) -> list[av.Packet]:
    packets = []
    for stream, samples in zip(streams, tracks, strict=True):
        channels = stream.codec_context.layout.nb_channels
        planes = samples[:, None] if samples.ndim == 1 else samples
        planes = soxr.resample(planes, SAMPLE_RATE, rate).astype(np.float32)
        packed = np.repeat(planes, channels // planes.shape[1], 1)
        size = stream.codec_context.frame_size or 1024
        to_format = av.AudioResampler(stream.codec_context.format.name, layout, rate)
        for at in range(0, len(packed), size):
            frame = av.AudioFrame.from_ndarray(packed[at : at + size].reshape(1, -1), "flt", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, at + round(start_s * rate), Fraction(1, rate)
            for converted in to_format.resample(frame):
                packets += stream.encode(converted)
        packets += stream.encode(None)
    return packets


@cache
def file_of(kind: tuple[str, str, int], start_s: float = 0.0) -> bytes:
    """Return a file of one of KINDS that holds TONE."""
    return encode(*kind, start_s=start_s)


class Trickle(TwoPieces):
    """The bytes of a file, of which so many more arrive whenever one that is not there is asked for."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data, 0)
        self._step = step

    def read_at(self, position: int, count: int) -> bytes:
        self._arrive(position + 1)
        return super().read_at(position, count)

    def await_bytes(self, count: int) -> bool:
        self._arrive(count)
        return self.has_ended

    def _arrive(self, count: int) -> None:
        while self.size < min(count, len(self._data)):
            self.size = min(len(self._data), self.size + self._step)


def decode(data: bytes, first: int | None = None, options: DecodeOptions | None = None) -> tuple[Samples, MediaReport]:
    """Return the samples of a file, [n, channels] at 16 kHz, and the report.

    `first` is the number of its bytes that are there at first; the others arrive when one of them is asked for.
    """
    decoder = AudioDecoder(MediaFile(TwoPieces(data, first)), options or DecodeOptions())
    blocks = list(decoder.blocks())
    return np.concatenate(blocks), decoder.report
