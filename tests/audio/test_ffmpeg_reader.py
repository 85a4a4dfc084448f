"""Media files that FFmpeg decodes: whole, in pieces, cut off, with many channels or tracks, and made to do harm."""

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import product

import av
import numpy as np
import pytest

from handler.audio.audio_tracks import describe_choice
from handler.audio.decode import AudioDecoder
from handler.audio.ffmpeg_formats import audio_decoders
from handler.audio.frames import SKIPPED_PAUSES
from handler.audio.media_file import MediaFile
from handler.audio.media_report import CUT_OFF, DecodeOptions
from handler.errors import CorruptMedia, InvalidRequest, MediaError, UnsupportedMedia
from handler.schema.window import SAMPLE_RATE
from tests.conftest import ROOT
from tests.support.media_files import KINDS, SECONDS, TONE, Trickle, decode, encode, file_of
from tests.support.memory import memory_limit
from tests.support.mp4 import box, full_box, movie, words
from tests.support.ogg import set_vorbis_rate, split_pages
from tests.support.sound_files import TwoPieces
from tests.support.speech import Samples, container, wav

Kind = tuple[str, str, int]
SILENCE = np.zeros_like(TONE)
HIGH = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(len(TONE)) / SAMPLE_RATE)).astype(np.float32)
NUM_CUTS = 5  # of each file; all of them would take minutes


def name_of(kind: Kind) -> str:
    return " ".join(map(str, kind))


def pitch(samples: Samples) -> float:
    """Return the strongest frequency in Hz."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4, 0]
    return float(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * SAMPLE_RATE / len(middle))


# Whole files

# FFmpeg writes no AVI file whose clock begins at an hour.
CLOCKS = [pair for pair in product(KINDS, (0.0, 600.0, 3600.0)) if pair[0][0] != "avi" or pair[1] <= 600]


@pytest.mark.parametrize(("kind", "start_s"), CLOCKS, ids=lambda value: str(value).strip("()"))
def test_a_whole_file_gives_its_samples_and_no_warning_wherever_its_clock_begins(kind: Kind, start_s: float) -> None:
    samples, report = decode(file_of(kind, start_s))
    assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.08)
    assert pitch(samples) == pytest.approx(440, abs=2)
    assert report.warnings == []
    assert report.duration is None or report.duration == pytest.approx(len(samples) / SAMPLE_RATE, abs=0.001)


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_a_file_in_pieces_is_read_as_the_whole(kind: Kind) -> None:
    data = file_of(kind)
    expected, expected_report = decode(data)
    source = random.Random(name_of(kind))
    for first in (1, *(source.randrange(4096) for _ in range(NUM_CUTS))):
        samples, report = decode(data, first)
        assert np.array_equal(samples, expected), first
        assert report.warnings == expected_report.warnings
    decoder = AudioDecoder(MediaFile(Trickle(data, 1449)))
    assert np.array_equal(np.concatenate(list(decoder.blocks())), expected)
    assert decoder.report.warnings == expected_report.warnings


STATED_DURATIONS: dict[str, tuple[Kind, float]] = {
    "matroska whose clock begins at 1 h": (("matroska", "aac", 48_000), 3600.0),
    "ogg whose clock begins at 1 h": (("ogg", "libopus", 48_000), 3600.0),
    "flv whose clock begins at 1 h": (("flv", "aac", 44_100), 3600.0),
    "asf whose clock begins at 1 h": (("asf", "libmp3lame", 44_100), 3600.0),
    "mp4 whose clock begins at 1 h": (("mp4", "aac", 48_000), 3600.0),
    "mp3": (("mp3", "libmp3lame", 44_100), 0.0),
    "flac": (("flac", "flac", 44_100), 0.0),
}


def first_duration(data: bytes) -> float | None:
    """Return the duration in seconds that is reported with the first block."""
    decoder = AudioDecoder(MediaFile(TwoPieces(data)))
    next(iter(decoder.blocks()))
    return decoder.report.duration


@pytest.mark.parametrize("name", STATED_DURATIONS)
def test_a_stated_duration_is_known_with_the_first_block(name: str) -> None:
    kind, start_s = STATED_DURATIONS[name]
    data = encode(*kind, tracks=(np.tile(TONE, 4),), start_s=start_s)
    assert first_duration(data) == pytest.approx(4 * SECONDS, abs=0.1)


# Cut off

STATING = ("matroska", "webm", "ogg", "avi", "caf", "wv", "tta", "mp3", "flac", "asf", "rm", "mmf", "ismv", "wav")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[0] in STATING], ids=name_of)
def test_a_file_that_is_cut_off_gives_what_is_there_with_a_warning_or_is_refused(kind: Kind, share: float) -> None:
    data = encode(*kind, tracks=(np.tile(TONE, 4),))
    try:
        samples, report = decode(data[: int(len(data) * share)])
    except CorruptMedia:
        assert share == 0.1 or kind[:2] == ("caf", "alac")
        return
    assert len(samples) / SAMPLE_RATE < 4 * SECONDS * share + 1.1
    assert CUT_OFF in report.warnings
    assert report.duration is None or report.duration == pytest.approx(len(samples) / SAMPLE_RATE, abs=0.001)


INDEX_IN_FRONT = {"moov_size": "6000"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", "libopus"])
@pytest.mark.parametrize("options", [INDEX_IN_FRONT, FRAGMENTED], ids=["index in front", "fragments"])
def test_an_mp4_without_its_index_at_the_end_may_be_cut_off(codec: str, options: dict[str, str]) -> None:
    data = encode("mp4", codec, tracks=(np.tile(TONE, 4),), muxer_options=options)
    assert decode(data)[1].warnings == []
    samples, report = decode(data[: len(data) // 2])
    assert 2 < len(samples) / SAMPLE_RATE < 4
    assert report.warnings == [CUT_OFF]


def test_an_ogg_file_without_a_mark_at_its_end_is_not_taken_for_cut_off() -> None:
    pages = split_pages(encode("ogg", "libopus", tracks=(np.tile(TONE, 4),)))
    whole, _ = decode(b"".join(pages))
    samples, report = decode(b"".join(pages[:-1]))
    assert 1 < len(samples) / SAMPLE_RATE < len(whole) / SAMPLE_RATE
    assert report.warnings == []


def test_joined_mp3_files_are_heard_in_full_without_a_wild_duration() -> None:
    thin = encode("mp3", "libmp3lame", 44_100, codec_options={"b": "32000"})
    thick = encode("mp3", "libmp3lame", 44_100, tracks=(np.tile(TONE, 4),), codec_options={"b": "256000"})
    for data, num_parts in ((thin + thick, 5), (thick + thin, 5), (thin + thin + thick, 6)):
        samples, report = decode(data)
        assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS * num_parts, abs=0.15)
        assert report.warnings == []
        stated = first_duration(data)
        assert stated is None or stated <= SECONDS * num_parts + 0.1


# Channels


def many_channels(count: int) -> dict[str, bytes]:
    """Return files of codecs that decode to planes, with the tone in each of `count` channels."""
    layout = "7.1" if count == 8 else "hexadecagonal"
    files = {
        "aac": encode("ipod", "aac", 48_000, layout),
        "aac in matroska": encode("matroska", "aac", 48_000, layout),
        "opus": encode("ogg", "libopus", 48_000, layout, codec_options={"mapping_family": "255"}),
        "vorbis": wav(TONE, 48_000, "VORBIS", "OGG", count),
        "wavpack": encode("matroska", "wavpack", 48_000, layout),
    }
    return files | ({"alac": encode("ipod", "alac", 48_000, "7.1(wide)")} if count == 8 else {})


@pytest.mark.parametrize("channels", [8, 16])
def test_many_channels_of_planar_codecs_are_mixed_at_their_level(channels: int) -> None:
    script = (
        "import numpy as np\n"
        "from tests.audio.test_ffmpeg_reader import decode, many_channels, pitch\n"
        f"for name, data in many_channels({channels}).items():\n"
        "    samples, report = decode(data)\n"
        "    print(name, round(pitch(samples)), float(np.abs(samples[8000:16000]).max()), report.warnings, sep='|')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == (6 if channels == 8 else 5)
    for name, frequency, peak, warnings in rows:
        assert frequency == "440", name
        assert float(peak) == pytest.approx(0.3, abs=0.05), name
        assert warnings == "[]", name


def test_eight_channels_are_split_each_on_its_own() -> None:
    planes = np.stack([TONE * gain for gain in np.linspace(0.1, 1.0, 8, dtype=np.float32)], 1)
    data = encode("matroska", "wavpack", 48_000, "7.1", tracks=(planes,))
    samples, _ = decode(data, options=DecodeOptions(split=True))
    assert samples.shape[1] == 8
    assert np.abs(samples[8000:16000]).max(axis=0) == pytest.approx(0.3 * np.linspace(0.1, 1.0, 8), abs=0.02)


def with_channel_labels(labels: tuple[int, ...]) -> bytes:
    """Return a QuickTime file whose channels have labels, as editors of film write them."""
    chan = full_box(b"chan", words(0, 0, len(labels)), *(words(label, 0, 0, 0, 0) for label in labels))
    pcm = np.repeat((TONE * 32767).astype(">i2")[:, None], len(labels), 1).tobytes()
    count = len(TONE)
    return movie(
        stts=((count, 1),),
        stsc=((1, count, 1),),
        stsz=(2 * len(labels), count, ()),
        rate=SAMPLE_RATE,
        channels=len(labels),
        codec=b"twos",
        entry=chan,
        payload=pcm,
    )


def test_channels_with_equal_labels_do_not_end_the_process() -> None:
    script = (
        "from tests.audio.test_ffmpeg_reader import decode, pitch, with_channel_labels\n"
        "for labels in ((1, 2), (1, 2, 1, 2), (3, 3, 3, 3, 3, 3), (1, 1)):\n"
        "    samples, report = decode(with_channel_labels(labels))\n"
        "    print(round(pitch(samples)), len(samples), report.warnings)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"440 {len(TONE)} []\n" * 4), done.stderr


def test_stereo_with_one_channel_inverted_is_heard() -> None:
    for kind in (("mp3", "libmp3lame", 44_100), ("ogg", "libopus", 48_000), ("flac", "flac", 44_100)):
        samples, _ = decode(encode(*kind, layout="stereo", tracks=(np.stack([TONE, -TONE], 1),)))
        assert pitch(samples) == pytest.approx(440, abs=2)
        assert np.abs(samples[8000:16000]).max() == pytest.approx(0.3, abs=0.05)


# Sample rates


def set_rate(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


IMPOSSIBLE_RATES: dict[str, Callable[[], bytes]] = {
    "vorbis, high": lambda: set_vorbis_rate(wav(TONE, 48_000, "VORBIS", "OGG", 2), 2**31 - 1),
    "vorbis, low": lambda: set_vorbis_rate(wav(TONE, 48_000, "VORBIS", "OGG", 2), 10),
    "caf": lambda: set_rate(file_of(("caf", "pcm_s16be", 44_100)), struct.pack(">d", 44_100.0), struct.pack(">d", 1e9)),
    "matroska": lambda: set_rate(
        file_of(("matroska", "pcm_s16le", 48_000)), struct.pack(">d", 48_000.0), struct.pack(">d", 2e9)
    ),
    "vorbis, 100 channels": lambda: wav(TONE, 48_000, "VORBIS", "OGG", 100),
}


@pytest.mark.parametrize("name", IMPOSSIBLE_RATES)
def test_a_rate_or_channels_that_nobody_records_are_unsupported(name: str) -> None:
    data = IMPOSSIBLE_RATES[name]()
    with memory_limit(512 * 1024**2), pytest.raises(UnsupportedMedia, match="expected"):
        decode(data)


# Gaps


def with_pauses(times_s: list[float]) -> bytes:
    """Return a Matroska file with a packet of 20 ms at each of some times."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for time_s in times_s:
            frame = av.AudioFrame.from_ndarray((TONE[None, :320] * 32767).astype(np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, round(time_s * SAMPLE_RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def test_a_few_packets_are_not_a_day() -> None:
    samples, report = decode(with_pauses([3500.0 * number for number in range(24)]))
    assert len(samples) / SAMPLE_RATE < 3700
    assert report.warnings == [SKIPPED_PAUSES]


def test_a_pause_of_half_an_hour_keeps_its_length() -> None:
    samples, report = decode(with_pauses([0.0, 1800.0]))
    assert len(samples) / SAMPLE_RATE == pytest.approx(1800.02)
    assert report.warnings == []


# Pictures


def png(size: int) -> bytes:
    """Return a black picture of `size` × `size`, which is small as a file."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes((4 * size + 1) * size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_cover(format: str, codec: str, picture: bytes) -> bytes:
    file = io.BytesIO()
    with av.open(io.BytesIO(encode(format, codec, 44_100))) as source, av.open(file, "w", format=format) as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        cover = out.add_stream("png")
        cover.width = cover.height = 16
        cover.pix_fmt = "rgba"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
        packet = av.Packet(picture)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        out.mux(packet)
    return file.getvalue()


def mp4_with_cover(picture: bytes) -> bytes:
    handler = full_box(b"hdlr", words(0), b"mdirappl", bytes(9))
    data = box(b"data", words(14, 0), picture)
    meta = full_box(b"meta", handler, box(b"ilst", box(b"covr", data)))
    return movie(stsz=(640, 2, ()), stts=((2, 320),), stsc=((1, 2, 1),), extra=box(b"udta", meta))


@pytest.mark.parametrize("format", ["mp3", "flac", "mp4"])
def test_the_picture_of_a_cover_is_not_decoded(format: str) -> None:
    picture = png(6000)  # 144 MB as pixels
    files = {
        "mp3": lambda: with_cover("mp3", "libmp3lame", picture),
        "flac": lambda: with_cover("flac", "flac", picture),
        "mp4": lambda: mp4_with_cover(picture),
    }
    data = files[format]()
    with memory_limit(100 * 1024**2):
        samples, report = decode(data)
    assert len(samples)
    assert report.warnings == []


def test_the_pictures_of_a_film_are_not_decoded() -> None:
    names = audio_decoders().split(",")
    assert {"aac", "mp3float", "opus", "flac", "pcm_s16le", "wmapro", "amrnb"} <= set(names)
    assert not {"h264", "png", "mjpeg", "ass", "wavesynth"} & set(names)
    samples, report = decode(container(TONE, "matroska", "aac", 48_000, "stereo", picture=True))
    assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.08)
    assert report.warnings == []


# Tracks


@pytest.mark.parametrize("format", ["matroska", "mov"])
@pytest.mark.parametrize(
    ("tracks", "default", "expected"),
    [
        ((TONE, HIGH), None, 0),
        ((SILENCE, HIGH), 1, 1),
        ((SILENCE, SILENCE, HIGH), None, 2),
        ((SILENCE, HIGH), 0, 1),
        ((TONE, HIGH, TONE), 1, 1),
        ((SILENCE, SILENCE), None, 0),
    ],
)
def test_the_track_is_the_default_or_the_first_that_sounds(
    format: str, tracks: tuple[Samples, ...], default: int | None, expected: int
) -> None:
    samples, report = decode(encode(format, "pcm_s16le", tracks=tracks, default=default))
    if not np.array_equal(tracks[expected], SILENCE):
        assert pitch(samples) == pytest.approx(1000 if tracks[expected] is HIGH else 440, abs=2)
    assert report.warnings == [describe_choice(expected, len(tracks))]


def test_a_track_is_chosen_by_number() -> None:
    data = encode("mp4", "aac", tracks=(TONE, HIGH, SILENCE))
    for track, expected in ((0, 440), (1, 1000)):
        samples, report = decode(data, options=DecodeOptions(track=track))
        assert pitch(samples) == pytest.approx(expected, abs=2)
        assert report.warnings == []
    assert np.abs(decode(data, options=DecodeOptions(track=2))[0]).max() < 1e-3


@pytest.mark.parametrize("data", [encode("mp4", "aac", tracks=(TONE, HIGH)), wav(TONE)], ids=["mp4", "wav"])
def test_a_track_that_is_not_there_is_refused_with_the_number_of_tracks(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"the file has (1 audio track|2 audio tracks), got 7") as caught:
        decode(data, options=DecodeOptions(track=7))
    assert caught.value.field == "audio_track"


# Damage


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_damage_is_answered_or_refused_by_type(kind: Kind) -> None:
    source = random.Random(name_of(kind))
    data = bytearray(file_of(kind))
    for _ in range(3):
        at = source.randrange(len(data))
        data[at : at + 20] = source.randbytes(20)
        with suppress(MediaError):
            samples, _ = decode(bytes(data))
            assert np.isfinite(samples).all()
