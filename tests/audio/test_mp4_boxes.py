"""MP4 files whose boxes count more than there can be."""

import zlib
from typing import TypedDict

import numpy as np
import pytest

from handler.audio.media_file import MediaFile
from handler.audio.media_report import CUT_OFF
from handler.audio.mp4_boxes import MAX_TRACKS, Mp4Boxes
from handler.errors import CorruptMedia, MediaError, UnsupportedMedia
from tests.support.media_files import TONE, decode, encode
from tests.support.memory import memory_limit
from tests.support.mp4 import box, fragments, full_box, movie, table, words
from tests.support.sound_files import TwoPieces

MANY = 40_000_000
MOST = 11_000_000  # samples, fewer than the limit


def compressed(moov: bytes) -> bytes:
    """Return a movie box in its compressed form."""
    return box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", words(len(moov)), zlib.compress(moov))))


class Tables(TypedDict):
    stts: tuple[tuple[int, int]]
    stsc: tuple[tuple[int, int, int]]
    stsz: tuple[int, int, tuple[int, ...]]


def all_of(count: int, duration: int = 160) -> Tables:
    """Return tables that agree on a number of samples of 2 bytes, and on the duration of each in units of the clock."""
    return {"stts": ((count, duration),), "stsc": ((1, count, 1),), "stsz": (2, count, ())}


BOMBS: dict[str, bytes] = {
    "samples of one size": movie(**all_of(MANY)),
    "fewer samples, but more than the file has bytes for": movie(**all_of(MOST)),
    "samples in many tracks": movie(**all_of(2_000_000), num_tracks=8),
    "a compressed movie": movie(**all_of(MANY), wrap=compressed),
    "a movie in a free box": movie(**all_of(MANY), wrap=lambda moov: moov[:4] + b"free" + moov[8:]),
    "sizes that are not there": movie(stsz=(0, MANY, ())),
    "compact sizes that are not there": movie(others=[full_box(b"stz2", words(8, MANY))]),
    "one run of a fragment": fragments([MANY]),
    "many runs of fragments": fragments([60_000] * 300),
    "a run whose sizes are not there": fragments([MANY], flags=0x200),
    "a time table that is not there": movie(others=[table(b"stts", (), MANY)]),
    "a chunk table that is not there": movie(others=[table(b"stsc", (), MANY)]),
    "an offset table that is not there": movie(stco=table(b"stco", (), MANY)),
    "a 64-bit offset table that is not there": movie(others=[table(b"co64", (), MANY)]),
    "an offset table of times that is not there": movie(others=[table(b"ctts", (), MANY)]),
    "time offsets of many samples": movie(others=[table(b"ctts", [(MANY, 1), (MANY, 2)])]),
    "groups of many samples": movie(others=[full_box(b"sbgp", b"sync", words(2, MANY, 1, MANY, 2))]),
    "an edit list that is not there": movie(extra=box(b"edts", table(b"elst", (), MANY))),
    "many tracks": movie(num_tracks=MAX_TRACKS + 1),
    "boxes in the description of samples": movie(entry=full_box(b"stsz", words(2, MANY))),
}


@pytest.mark.parametrize("first", [None, 500])
@pytest.mark.parametrize("name", BOMBS)
def test_tables_that_cannot_be_true_are_refused_before_they_cost_memory(name: str, first: int | None) -> None:
    decode(movie())  # what is loaded once
    with memory_limit(64 * 1024**2), pytest.raises(MediaError, match="expected") as caught:
        decode(BOMBS[name], first)
    assert type(caught.value) in (CorruptMedia, UnsupportedMedia)


def test_repeated_edits_cost_no_memory_and_leave_the_audio() -> None:
    count = 20_000
    edits = [(0x7FFFFFFF, 0, 0x10000)] * 700
    data = movie(**all_of(count, 16), elst=edits, payload=bytes(2 * count))
    decode(movie())
    with memory_limit(128 * 1024**2):
        samples, _ = decode(data)
    assert len(samples)


def test_an_hour_of_pcm_is_counted_in_frames() -> None:
    data = movie(**all_of(3600 * 48_000, 1), rate=48_000, payload=bytes(96_000))
    decode(movie())
    with memory_limit(64 * 1024**2):
        samples, report = decode(data)
    assert len(samples)
    assert report.warnings == [CUT_OFF]


LAYOUTS: dict[str, dict[str, str]] = {
    "index at the end": {},
    "index in front": {"moov_size": "6000"},
    "fragments": {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"},
    "fragments as in DASH": {"movflags": "frag_keyframe+default_base_moof", "frag_duration": "200000"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_of_real_files_pass(layout: str) -> None:
    expected, _ = decode(encode("matroska", "pcm_s16le"))
    for format, codec in (("mp4", "aac"), ("mov", "pcm_s16le"), ("mp4", "pcm_s16le"), ("mp4", "alac")):
        data = encode(format, codec, muxer_options=LAYOUTS[layout])
        boxes = Mp4Boxes(MediaFile(TwoPieces(data)))
        boxes.check_movie()
        assert boxes.has_movie
        assert boxes.applies_edits
        assert boxes.is_cut() is False
        samples, report = decode(data)
        assert report.warnings == []
        if codec != "aac":
            assert np.abs(samples[: len(TONE)] - expected[: len(TONE)]).max() < 1e-3


def test_a_movie_of_qt_in_compressed_form_is_read() -> None:
    tones = (TONE[:4000] * 32767).astype("<i2").tobytes()
    tables = all_of(4000, 1)
    plain = movie(**tables, payload=tones)
    expected, _ = decode(plain)
    assert np.abs(expected).max() > 0.2
    offset = plain.index(tones)
    front = movie(**tables, payload=b"", stco=table(b"stco", [(offset,)]), wrap=compressed)
    free = box(b"free", bytes(offset - 8 - 8 - (len(front) - 8)))
    samples, report = decode(front[:-8] + free + box(b"mdat", tones))
    assert np.array_equal(samples, expected)
    assert report.warnings == []
