"""Samples of bytes that come in pieces: those of the whole, whatever the pieces, and as other libraries read them."""

import io
import random

import numpy as np
import pytest
import soundfile
import soxr

from handler.live.sample_stream import A_LAW, MU_LAW, PCM16, SAMPLE_BYTES, SampleStream
from handler.schema.window import SAMPLE_RATE
from tests.support.speech import FOX, say, wav

SUBTYPES = {PCM16: "PCM_16", MU_LAW: "ULAW", A_LAW: "ALAW"}


@pytest.mark.parametrize("encoding", SAMPLE_BYTES)
def test_bytes_are_read_as_libsndfile_reads_them(encoding: str) -> None:
    raw = wav(say(FOX), SAMPLE_RATE, SUBTYPES[encoding], "RAW")
    file = io.BytesIO(raw)
    expected, _ = soundfile.read(
        file, format="RAW", subtype=SUBTYPES[encoding], samplerate=SAMPLE_RATE, channels=1, dtype="float32"
    )
    samples = SampleStream(encoding, SAMPLE_RATE).push(raw)
    np.testing.assert_allclose(samples, expected, atol=1e-6)


@pytest.mark.parametrize("encoding", [MU_LAW, A_LAW])
def test_every_byte_of_a_telephone_is_read_as_libsndfile_reads_it(encoding: str) -> None:
    raw = bytes(range(256))
    expected, _ = soundfile.read(
        io.BytesIO(raw), format="RAW", subtype=SUBTYPES[encoding], samplerate=8000, channels=1, dtype="float32"
    )
    np.testing.assert_allclose(SampleStream(encoding, SAMPLE_RATE).push(raw), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
def test_pieces_of_any_size_give_the_samples_of_the_whole(rate: int) -> None:
    chance = random.Random(0)
    raw = wav(say(FOX), rate, "PCM_16", "RAW")
    stream, parts, start = SampleStream(PCM16, rate), [], 0
    while start < len(raw):
        size = chance.choice([1, 3, 100, 2_001, 9_600])
        parts.append(stream.push(raw[start : start + size]))
        start += size
    parts.append(stream.flush())
    whole = soxr.resample(np.frombuffer(raw, "<i2").astype(np.float32) / 32768, rate, SAMPLE_RATE)
    joined = np.concatenate(parts)
    assert abs(len(joined) - len(whole)) <= 2
    count = min(len(joined), len(whole))
    np.testing.assert_allclose(joined[:count], whole[:count], atol=2e-3)


def test_what_follows_a_flush_is_a_stream_of_its_own() -> None:
    stream = SampleStream(PCM16, 24_000)
    raw = wav(say(FOX), 24_000, "PCM_16", "RAW")
    first = np.concatenate((stream.push(raw), stream.flush()))
    second = np.concatenate((stream.push(raw), stream.flush()))
    np.testing.assert_array_equal(first, second)
