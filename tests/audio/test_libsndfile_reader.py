"""Sound files that libsndfile decodes: whole, in pieces, cut off, with untrue sizes, and without a header."""

import random
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handler.audio.decode import AudioDecoder
from handler.audio.libsndfile_reader import LONGER, SECOND_FILE
from handler.audio.media_file import MediaFile
from handler.audio.media_report import CUT_OFF, DecodeOptions
from handler.audio.sample_format import MAX_BLOCK_SAMPLES
from handler.errors import AsrError, CorruptMedia, MediaError, NoAudioStream, UnsupportedMedia
from tests.support.sound_files import (
    BIG_ENDIAN_PCM,
    PCM,
    RATE,
    SECONDS,
    WAVE,
    Kind,
    TwoPieces,
    aiff,
    au,
    chunk,
    description_chunk,
    files_by_libsndfile,
    format_chunk,
    read,
    read_blocks,
    read_by_libsndfile,
    sample_chunk,
    sphere,
    w64,
    wav,
)

FILES = files_by_libsndfile()
LIST = chunk(b"LIST", b"INFOISFT\x05\0\0\0Lavf\0\0")
EXACT = np.frombuffer(PCM, "<i2").astype(np.float32)[:, None] / 32_768
WAVE_GUID = bytes.fromhex("000000001000800000aa00389b71")
FIRST_CUTS = range(16, 130, 5)  # bytes, within and close after the header
NUM_LATER_CUTS = 12
MAX_CUT = 4096
PREFIX_BYTES = 160
CPU_S = 100  # for all prefixes of all headers
MAX_READS = 500  # of a prefix


def name_of(kind: Kind) -> str:
    return "-".join(map(str, kind))


@pytest.mark.parametrize("kind", FILES, ids=name_of)
def test_every_format_and_codec_is_read_as_libsndfile_reads_a_whole_file(kind: Kind) -> None:
    samples, report = read(FILES[kind])
    expected = read_by_libsndfile(FILES[kind])
    length = min(len(samples), len(expected))
    assert np.array_equal(samples[:length], expected[:length])
    assert abs(len(samples) - len(expected)) <= (
        320 if kind[1] == "GSM610" else 0
    )  # frames; it counts a block too many
    assert report.warnings == []
    assert report.duration == pytest.approx(SECONDS, abs=0.07)


@pytest.mark.parametrize("kind", FILES, ids=name_of)
def test_a_file_in_pieces_is_read_as_the_whole(kind: Kind) -> None:
    data = FILES[kind]
    expected, expected_report = read(data)
    later = random.Random(name_of(kind)).sample(range(130, min(MAX_CUT, len(data))), NUM_LATER_CUTS)
    for cut in [*FIRST_CUTS, *later]:
        samples, report = read(data, cut)
        assert np.array_equal(samples, expected), cut
        assert report == expected_report


def read_every_prefix() -> None:
    """Decode every prefix of every header. Called in a process of its own, whose processor time is limited."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    kinds = {(kind[0], kind[1]): data for kind, data in FILES.items()}
    files = [*kinds.values(), wav(format_chunk(), LIST, chunk(b"data", PCM)), RF64_WITH_LIST]
    for data in files:
        for length in range(PREFIX_BYTES):
            content = TwoPieces(data[:length], length // 2)
            try:
                for _ in AudioDecoder(MediaFile(content)).blocks():
                    pass
            except MediaError:
                pass
            assert content.num_reads < MAX_READS, (data[:length], content.num_reads)


def test_every_prefix_of_every_header_ends() -> None:
    script = f"from {__name__} import read_every_prefix; read_every_prefix()"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def ds64(data_size: int) -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", 0, data_size, 0, 0))


def rf64(data_size: int, *chunks: bytes, magic: bytes = b"RF64") -> bytes:
    data = chunk(b"data", PCM, 2**32 - 1)
    return wav(ds64(data_size), format_chunk(), *chunks, data, magic=magic, size=2**32 - 1)


RF64_WITH_LIST = rf64(len(PCM), LIST)
SIZES_32 = (0, 2**32 - 1, 2**32 - 37, 2**31 - 1, 2**31, 0x7FFFF000, 0x7FFFFFFF - 36, 0x7F000008)
PLACEHOLDERS = {
    **{f"wav {size:#x}": wav(format_chunk(), chunk(b"data", PCM, size), size=size) for size in SIZES_32},
    **{f"rf64 {size:#x}": rf64(size) for size in (0, 2**64 - 1, 2**63 - 1, 2**32 - 1)},
    **{f"w64 {size:#x}": w64(PCM, size) for size in (0, 24, 2**64 - 1, 2**63 - 1, 2**32 - 1)},
    **{
        f"aiff {size:#x}": aiff(description_chunk(), sample_chunk(BIG_ENDIAN_PCM, size), size=size) for size in SIZES_32
    },
    "aiff frames -1": aiff(description_chunk(frames=2**32 - 1), sample_chunk(BIG_ENDIAN_PCM, 0)),
    "aiff frames known": aiff(description_chunk(frames=len(WAVE)), sample_chunk(BIG_ENDIAN_PCM, 0)),
    **{f"au {size:#x}": au(BIG_ENDIAN_PCM, size) for size in SIZES_32},
    "sphere without a count": sphere(PCM, sample_rate=RATE, channel_count=1, sample_n_bytes=2),
}


@pytest.mark.parametrize("first", [None, 30, 60, 2000])
@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_a_recorder_that_could_not_know_the_size_is_read_to_the_end(name: str, first: int | None) -> None:
    samples, report = read(PLACEHOLDERS[name], first)
    assert np.array_equal(samples, EXACT)
    assert report.warnings == []
    assert report.duration == SECONDS


def read_stated_duration(data: bytes, first: int) -> float | None:
    """Return the duration that is reported with the first block, while the rest of the file is on its way."""
    content = TwoPieces(data, first)
    decoder = AudioDecoder(MediaFile(content))
    next(decoder.blocks())
    return decoder.report.duration


def test_a_stated_duration_is_reported_before_the_file_is_whole() -> None:
    long_data = PCM * 10
    whole = wav(format_chunk(), chunk(b"data", long_data))
    assert read_stated_duration(whole, 36_000) == 10 * SECONDS
    assert read_stated_duration(wav(format_chunk(), chunk(b"data", long_data, 2**32 - 1)), 36_000) is None


def test_a_duration_that_a_whole_file_cannot_hold_is_not_reported() -> None:
    data = wav(format_chunk(tag=7, block_bytes=1, bits=8), chunk(b"data", bytes(RATE * 4), 0x7000_0000))
    decoder = AudioDecoder(MediaFile(TwoPieces(data)))
    next(decoder.blocks())
    assert decoder.report.duration == 4


MULAW = np.frombuffer(PCM, "u1")[: len(WAVE)].tobytes()
WHOLE = {
    "odd without padding": wav(format_chunk(7, block_bytes=1, bits=8), chunk(b"data", MULAW[:-1], padding=b"")),
    "odd with padding": wav(format_chunk(7, block_bytes=1, bits=8), chunk(b"data", MULAW[:-1])),
    "odd, then chunks": wav(format_chunk(7, block_bytes=1, bits=8), chunk(b"data", MULAW[:-1]), LIST),
    "odd, no padding, then chunks": wav(format_chunk(7, 1, RATE, 1, 8), chunk(b"data", MULAW[:-1], padding=b""), LIST),
    "24 bit, odd": wav(format_chunk(block_bytes=3, bits=24), chunk(b"data", PCM[:8997])),
    "wrong byte rate": wav(format_chunk(byte_rate=7), chunk(b"data", PCM)),
    "wrong riff size": wav(format_chunk(), chunk(b"data", PCM), size=100),
    "riff size 0": wav(format_chunk(), chunk(b"data", PCM), size=0),
    "data size with the header": wav(format_chunk(), chunk(b"data", PCM, len(PCM) + 44)),
    "chunks after the samples": wav(format_chunk(), chunk(b"data", PCM), LIST, chunk(b"xyz1", b"anything at all" * 9)),
    "id3 tag after the samples": wav(format_chunk(), chunk(b"data", PCM)) + b"ID3\x04\0\0" + bytes(range(1, 200)),
    "id3v1 tag after the samples": wav(format_chunk(), chunk(b"data", PCM)) + b"TAG".ljust(128, b"t"),
    "preallocated zeros": wav(format_chunk(), chunk(b"data", PCM)) + bytes(50_000),
    "a few bytes more": wav(format_chunk(), chunk(b"data", PCM)) + b"\r\n--boundary--\r\n",
    "aiff with annotations": aiff(
        description_chunk(frames=len(WAVE)), sample_chunk(BIG_ENDIAN_PCM), chunk(b"ANNO", b"a note. " * 40, order=">")
    ),
    "w64 with a level chunk": w64(
        PCM, len(PCM) + 24, b"levl" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + struct.pack("<Q", 224) + b"\7" * 200
    ),
    "ima block cut": wav(format_chunk(0x11, block_bytes=1024, bits=4), chunk(b"data", PCM[:7000])),
}


@pytest.mark.parametrize("first", [None, 50, 9000])
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_warns_of_nothing(name: str, first: int | None) -> None:
    samples, report = read(WHOLE[name], first)
    assert report.warnings == []
    assert len(samples) / RATE == pytest.approx(report.duration)
    assert 0.37 < len(samples) / RATE < 1.8


@pytest.mark.parametrize("first", [None, 50, 9000])
@pytest.mark.parametrize("kind", ["WAV", "W64", "RF64", "AIFF", "AU", "NIST"])
def test_a_file_that_is_cut_off_gives_what_is_there_with_a_warning(kind: str, first: int | None) -> None:
    data = FILES[kind, "PCM_16", "FILE", 1]
    samples, report = read(data[: len(data) * 2 // 3], first)
    assert np.array_equal(samples, read_by_libsndfile(data)[: len(samples)])
    assert 0.4 < len(samples) / RATE < 0.5
    assert report.warnings == [CUT_OFF]
    assert report.duration == len(samples) / RATE


CODECS_WITH_BLOCKS = {
    kind: data
    for kind, data in FILES.items()
    if kind[1] in ("IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "G723_24", "G723_40", "NMS_ADPCM_32")
}


@pytest.mark.parametrize("kind", CODECS_WITH_BLOCKS, ids=name_of)
def test_a_codec_with_blocks_ends_where_its_bytes_end(kind: Kind) -> None:
    data = CODECS_WITH_BLOCKS[kind]
    expected = read_by_libsndfile(data)
    samples, report = read(data[: len(data) * 2 // 3])
    assert np.array_equal(samples, expected[: len(samples)])
    assert 0.4 * len(expected) < len(samples) <= 0.7 * len(expected)
    assert CUT_OFF in report.warnings


def test_no_frames_are_invented_for_a_header_that_states_hours() -> None:
    data = wav(format_chunk(0x31, block_bytes=65, bits=0), chunk(b"data", bytes([0xD0] * 65 * 8), 0x0100_0008))
    samples, report = read(data)
    assert len(samples) == 8 * 320
    assert report.warnings == [CUT_OFF]
    assert report.duration == 8 * 320 / RATE


LONGER_FILES = {
    "wav": wav(format_chunk(), chunk(b"data", PCM, 3001)),
    "wav of a millisecond": wav(format_chunk(), chunk(b"data", PCM, 16)),
    "w64": w64(PCM, 24 + 4000),
    "rf64": rf64(4000),
    "aiff": aiff(description_chunk(frames=100), sample_chunk(BIG_ENDIAN_PCM, 208)),
    "au": au(BIG_ENDIAN_PCM, 6000),
    "sphere": sphere(PCM, sample_rate=RATE, sample_n_bytes=2, sample_count=2000),
}


@pytest.mark.parametrize("first", [None, 50, 3000])
@pytest.mark.parametrize("name", LONGER_FILES)
def test_a_recorder_that_died_before_it_wrote_the_last_size_loses_nothing(name: str, first: int | None) -> None:
    samples, report = read(LONGER_FILES[name], first)
    assert np.array_equal(samples, EXACT)
    assert report.warnings == [LONGER]
    assert report.duration == SECONDS


def test_a_second_file_in_the_same_bytes_is_not_left_out_silently() -> None:
    one = wav(format_chunk(), chunk(b"data", PCM))
    samples, report = read(one + one)
    assert np.array_equal(samples, EXACT)
    assert report.warnings == [SECOND_FILE]


def impossible_files(rate: int, channels: int) -> dict[str, bytes]:
    description = description_chunk(channels, rate=min(rate, 2**31))
    size = min(channels * 2, 65_535)
    fields = {"sample_rate": rate, "channel_count": channels, "sample_n_bytes": 2, "sample_count": 99}
    return {
        "wav": wav(format_chunk(1, channels, rate, size), chunk(b"data", PCM)),
        "rifx": wav(format_chunk(1, channels, rate, size, order=">"), chunk(b"data", PCM, order=">"), magic=b"RIFX"),
        "ima": wav(format_chunk(0x11, channels, rate, 1024, 4), chunk(b"data", PCM)),
        "aac in wav": wav(format_chunk(0xFF, channels, rate, 1024, 4), chunk(b"data", PCM)),
        "aiff": aiff(description, sample_chunk(PCM)),
        "au": au(PCM, len(PCM), 2, rate, channels),
        "sphere": sphere(PCM, **fields),
    }


@pytest.mark.parametrize("name", impossible_files(1, 1))
@pytest.mark.parametrize(
    ("rate", "channels"), [(0, 1), (1, 1), (999, 1), (768_001, 1), (2**31 - 1, 2), (RATE, 0), (RATE, 65), (RATE, 1024)]
)
def test_a_rate_or_channels_that_nobody_records_are_unsupported(name: str, rate: int, channels: int) -> None:
    with pytest.raises(UnsupportedMedia, match="expected"):
        read(impossible_files(rate, channels)[name])


def test_blocks_are_bounded_by_samples_not_by_seconds() -> None:
    channels = 64
    data = wav(format_chunk(1, channels, 768_000, channels), chunk(b"data", bytes([128]) * (3 * 2**20)))
    blocks, _ = read_blocks(data.replace(struct.pack("<HH", channels, 16), struct.pack("<HH", channels, 8)))
    assert max(block.size for block in blocks) <= MAX_BLOCK_SAMPLES
    assert sum(block.size for block in blocks) == 3 * 2**20


def extensible(tag: int, channels: int, width: int, valid_bits: int) -> bytes:
    extra = struct.pack("<HHIH", 22, valid_bits, 0, tag) + WAVE_GUID
    return format_chunk(0xFFFE, channels, RATE, width * channels, width * 8, extra)


def packed(width: int, order: str) -> bytes:
    """Return the wave as integers of `width` bytes, of which the first 16 bits count."""
    words = (np.frombuffer(PCM, "<i2").astype("<i4") << 16).view("u1").reshape(-1, 4)[:, 4 - width :]
    return (words if order == "<" else words[:, ::-1]).tobytes()


LOWER_BYTES = (np.frombuffer(PCM, "<i2").astype("<i4") << 8).tobytes()
UNUSUAL = {
    "extensible 24 bit": wav(extensible(1, 1, 3, 24), chunk(b"data", packed(3, "<"))),
    "extensible 20 bit in 24": wav(extensible(1, 1, 3, 20), chunk(b"data", packed(3, "<"))),
    "extensible 24 bit in 32": wav(extensible(1, 1, 4, 24), chunk(b"data", packed(4, "<"))),
    "extensible float": wav(extensible(3, 1, 4, 32), chunk(b"data", EXACT.astype("<f4").tobytes())),
    "extensible double": wav(extensible(3, 1, 8, 64), chunk(b"data", EXACT.astype("<f8").tobytes())),
    "24 bit in the upper bytes of 32": wav(format_chunk(block_bytes=4, bits=24), chunk(b"data", packed(4, "<"))),
    "24 bit in the lower bytes of 32": wav(format_chunk(block_bytes=4, bits=24), chunk(b"data", LOWER_BYTES), LIST * 9),
    "24 bit that are floats": wav(
        format_chunk(block_bytes=4, bits=24), chunk(b"data", (EXACT + 2e-7).astype("<f4").tobytes())
    ),
    "block align 0": wav(format_chunk(block_bytes=0), chunk(b"data", PCM)),
    "block align 1": wav(format_chunk(block_bytes=1), chunk(b"data", PCM)),
    "12 bits in 16": wav(format_chunk(bits=12), chunk(b"data", PCM)),
    "an odd chunk without padding": wav(chunk(b"junk", b"odd", padding=b""), format_chunk(), chunk(b"data", PCM)),
    "an odd chunk with padding": wav(chunk(b"junk", b"odd"), format_chunk(), chunk(b"data", PCM)),
    "a large chunk first": wav(chunk(b"bext", bytes(70_000)), format_chunk(), LIST, chunk(b"data", PCM)),
    "two formats": wav(format_chunk(rate=44_100), format_chunk(), chunk(b"data", PCM)),
    "rifx": wav(
        format_chunk(order=">"),
        chunk(b"LIST", b"INFO", order=">"),
        chunk(b"data", BIG_ENDIAN_PCM, order=">"),
        magic=b"RIFX",
    ),
    "bw64": rf64(len(PCM), LIST, magic=b"BW64"),
    "rf64 with a true 32-bit size": wav(ds64(5), format_chunk(), chunk(b"data", PCM), magic=b"RF64"),
    "aiff, samples first": aiff(sample_chunk(BIG_ENDIAN_PCM), description_chunk(frames=len(WAVE))),
    "aiff, notes first": aiff(chunk(b"ANNO", b"odd", order=">"), description_chunk(), sample_chunk(BIG_ENDIAN_PCM)),
    "aiff, 24 bit": aiff(description_chunk(bits=24), sample_chunk(packed(3, ">"))),
    "aiff-c, little-endian": aiff(description_chunk(codec=b"sowt"), sample_chunk(PCM), kind=b"AIFC"),
    "aiff-c, 24 bit": aiff(description_chunk(bits=24, codec=b"in24"), sample_chunk(packed(3, ">")), kind=b"AIFC"),
    "au with an annotation": au(BIG_ENDIAN_PCM, len(PCM), start=100),
    "au with a start of 0": au(BIG_ENDIAN_PCM, len(PCM)).replace(b"\0\0\0\x18", bytes(4), 1),
    "sphere, big-endian": sphere(
        BIG_ENDIAN_PCM, sample_rate=RATE, sample_n_bytes=2, sample_byte_format="10", sample_coding="pcm"
    ),
}


@pytest.mark.parametrize("first", [None, 30, 100, 3000])
@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_headers_are_read(name: str, first: int | None) -> None:
    samples, report = read(UNUSUAL[name], first)
    assert np.allclose(samples, EXACT, atol=1e-6)
    assert report.warnings == []


BAD: dict[str, tuple[bytes, type[AsrError]]] = {
    "a chunk that is cut": (wav(format_chunk(), b"LIST"), CorruptMedia),
    "a chunk without end": (wav(format_chunk(), chunk(b"LIST", b"INFO", 2**32 - 1), PCM), CorruptMedia),
    "an rf64 cut in its sizes": (RF64_WITH_LIST[:30], CorruptMedia),
    "a description of 4 bytes": (wav(chunk(b"fmt ", b"\1\0\1\0"), chunk(b"data", PCM)), CorruptMedia),
    "no sample": (wav(format_chunk(), chunk(b"data", b"")), NoAudioStream),
    "no sample, then chunks": (wav(format_chunk(), chunk(b"data", b""), LIST * 9), NoAudioStream),
    "cut before the first sample": (wav(format_chunk(), chunk(b"data", b"", 5000)), CorruptMedia),
    "a w64 cut in its header": (w64(PCM, len(PCM) + 24)[:90], CorruptMedia),
    "an aiff cut in a note": (aiff(chunk(b"ANNO", bytes(90)), description_chunk())[:50], CorruptMedia),
    "an aiff cut before its samples": (aiff(description_chunk(), sample_chunk(PCM))[:50], CorruptMedia),
    "an au that starts behind its end": (au(PCM, 5000, start=24)[:24], CorruptMedia),
    "a sphere without a rate": (sphere(PCM, channel_count=1), CorruptMedia),
    "a sphere with words for numbers": (sphere(PCM, sample_rate="fast"), CorruptMedia),
    "a sphere of unknown size": (b"NIST_1A\n  large\n" + bytes(2000), CorruptMedia),
    "a sphere cut in its header": (sphere(PCM, sample_rate=RATE)[:900], CorruptMedia),
}


@pytest.mark.parametrize("first", [None, 20])
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_has_an_error_of_its_own(name: str, first: int | None) -> None:
    data, error = BAD[name]
    with pytest.raises(error) as caught:
        list(AudioDecoder(MediaFile(TwoPieces(data, first))).blocks())
    assert type(caught.value) is error


RAW = {
    "pcm_s16le": (PCM, 1),
    "pcm_s16be": (BIG_ENDIAN_PCM, 1),
    "pcm_mulaw": (FILES["AU", "ULAW", "FILE", 1][24:], 1),
    "pcm_alaw": (FILES["AU", "ALAW", "FILE", 1][24:], 1),
    "pcm_mulaw in stereo": (FILES["AU", "ULAW", "FILE", 2][24:], 2),
}


@pytest.mark.parametrize("first", [None, 1, 17, 2001])
@pytest.mark.parametrize("name", RAW)
def test_samples_without_a_header_are_read_as_the_options_say(name: str, first: int | None) -> None:
    data, channels = RAW[name]
    options = DecodeOptions(encoding=name.split(" ")[0], sample_rate=RATE, channels=channels)
    samples, report = read(data, first, options)
    assert samples.shape == (len(WAVE), channels)
    assert np.allclose(samples, WAVE[:, None], atol=0.02)
    assert report.warnings == []


def test_a_header_wins_over_the_encoding_of_the_options() -> None:
    samples, _ = read(FILES["WAV", "ALAW", "FILE", 1], options=DecodeOptions(encoding="pcm_s16le", sample_rate=44_100))
    assert np.allclose(samples, WAVE[:, None], atol=0.02)


@pytest.mark.parametrize(
    "options",
    [
        DecodeOptions(encoding="pcm_s16le"),
        DecodeOptions(encoding="opus", sample_rate=RATE),
        DecodeOptions(encoding="pcm_mulaw", sample_rate=10),
        DecodeOptions(encoding="pcm_mulaw", sample_rate=RATE, channels=0),
    ],
)
def test_raw_samples_need_an_encoding_and_a_rate(options: DecodeOptions) -> None:
    with pytest.raises(UnsupportedMedia, match="expected"):
        read(PCM, options=options)


def test_a_codec_that_libsndfile_does_not_know_is_left_to_ffmpeg() -> None:
    data = wav(format_chunk(1, 1, RATE, 8, 64), chunk(b"data", (EXACT * 2.0**62).astype("<i8").tobytes()))
    samples = np.concatenate(list(AudioDecoder(MediaFile(TwoPieces(data))).blocks()))
    assert len(samples) == 2 * len(WAVE)


def test_integers_written_as_floats_are_heard_at_their_level() -> None:
    integers = (EXACT * 32_768).astype("<f4").tobytes()
    samples, _ = read(wav(format_chunk(3, block_bytes=4, bits=32), chunk(b"data", integers)))
    assert np.array_equal(samples, EXACT)
