"""Real files of every kind: the bytes decide what a file is, and each kind of broken file has its own error."""

import io

import numpy as np
import pytest

from handler.audio.decode import AudioDecoder
from handler.audio.media_report import CUT_OFF
from handler.errors import AsrError, CorruptMedia, NoAudioStream, UnsupportedMedia
from handler.schema.window import SAMPLE_RATE
from tests.support.asking import growing_file
from tests.support.speech import Samples, container, wav

TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)

FILES = {
    **{f"wav {rate} Hz": wav(TONE, rate) for rate in (8_000, 11_025, 16_000, 44_100, 48_000, 96_000, 192_000)},
    **{f"wav {subtype}": wav(TONE, subtype=subtype) for subtype in ("PCM_U8", "PCM_24", "PCM_32")},
    **{f"wav {subtype}": wav(TONE, subtype=subtype) for subtype in ("FLOAT", "DOUBLE", "ULAW", "ALAW")},
    **{f"wav {channels} channels": wav(TONE, channels=channels) for channels in range(2, 9)},
    "wav 64 bit": container(TONE, "wav", "pcm_s64le"),
    "flac": wav(TONE, 44_100, format="FLAC", channels=2),
    "flac 24 bit 192 kHz": wav(TONE, 192_000, "PCM_24", "FLAC"),
    "aiff": wav(TONE, format="AIFF"),
    "vorbis": wav(TONE, 44_100, "VORBIS", "OGG", 2),
    "mp3": container(TONE, "mp3", "libmp3lame", 44_100, "stereo"),
    "opus": container(TONE, "ogg", "libopus", 48_000, "stereo"),
    "webm": container(TONE, "webm", "libopus", 48_000),
    "m4a": container(TONE, "ipod", "aac", 44_100, "stereo"),
    "m4a 5.1": container(TONE, "ipod", "aac", 48_000, "5.1"),
    "aac": container(TONE, "adts", "aac", 44_100),
    "mp4 video": container(TONE, "mp4", "aac", 44_100, picture=True),
    "mkv video": container(TONE, "matroska", "aac", 48_000, "stereo", picture=True),
    "amr": container(TONE, "amr", "libopencore_amrnb", 8_000),
}


def decode(data: bytes) -> tuple[Samples, AudioDecoder]:
    with growing_file(data) as spool:
        decoder = AudioDecoder(spool.reader())
        samples = np.concatenate(list(decoder.blocks()))
    assert samples.shape[1] == 1
    return samples[:, 0], decoder


def pitch(samples: Samples) -> float:
    """Return the strongest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize("name", FILES)
def test_a_file_becomes_the_samples_that_went_into_it(name: str) -> None:
    samples, decoder = decode(FILES[name])
    assert samples.dtype == np.float32
    assert len(samples) / SAMPLE_RATE == pytest.approx(6, abs=0.06)
    middle = samples[SAMPLE_RATE : 4 * SAMPLE_RATE]
    assert pitch(middle) == pytest.approx(440, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.3, abs=0.05)
    assert decoder.report.warnings == []
    assert decoder.report.duration is None or decoder.report.duration == pytest.approx(6, abs=0.2)


def test_a_film_whose_sound_ends_early_is_not_taken_for_cut_off() -> None:
    tone = TONE[: SAMPLE_RATE // 2]
    samples, decoder = decode(container(tone, "matroska", "aac", 48_000, "stereo", picture=True))
    assert len(samples) / SAMPLE_RATE == pytest.approx(0.5, abs=0.05)
    assert decoder.report.warnings == []


def test_a_length_that_is_only_estimated_is_not_reported() -> None:
    quiet_first = np.concatenate([np.zeros(5 * SAMPLE_RATE, np.float32), TONE])
    _, decoder = decode(container(quiet_first, "adts", "aac", 44_100))
    assert decoder.report.duration is None


TRUNCATABLE = ("wav 16000 Hz", "flac", "vorbis", "mp3", "opus", "webm", "mkv video", "aiff")


@pytest.mark.parametrize("name", TRUNCATABLE)
def test_a_file_that_is_cut_off_gives_what_can_be_heard_and_a_warning(name: str) -> None:
    data = FILES[name]
    samples, decoder = decode(data[: len(data) * 2 // 3])
    assert 1.5 < len(samples) / SAMPLE_RATE < 5.5
    assert CUT_OFF in decoder.report.warnings


def test_a_file_cut_before_its_index_is_corrupt() -> None:
    with pytest.raises(CorruptMedia):
        decode(FILES["m4a"][:20_000])


@pytest.mark.parametrize("name", ["mp3", "m4a", "flac", "opus"])
def test_a_file_with_a_damaged_middle_gives_the_rest(name: str) -> None:
    data = bytearray(FILES[name])
    third = len(data) // 3
    data[third : third + 300] = np.random.default_rng(0).bytes(300)
    samples, _ = decode(bytes(data))
    assert len(samples) / SAMPLE_RATE > 4.5


def test_resampling_lets_nothing_fold_back() -> None:
    high = (0.5 * np.sin(2 * np.pi * 15_000 * np.arange(3 * 48_000) / 48_000)).astype(np.float32)
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, high, 48_000, format="WAV")
    samples, _ = decode(file.getvalue())
    assert np.abs(samples[2000:-2000]).max() < 1e-3


def test_channels_are_mixed() -> None:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.stack([TONE, np.zeros_like(TONE)], 1), SAMPLE_RATE, format="WAV")
    samples, _ = decode(file.getvalue())
    assert np.abs(samples).max() == pytest.approx(0.15, abs=0.01)


def test_a_pause_in_the_clock_of_a_file_is_silence() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for second in (0, 1, 5, 6):
            frame = av.AudioFrame.from_ndarray((TONE[None, :SAMPLE_RATE] * 32767).astype(np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, second * SAMPLE_RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    samples, _ = decode(file.getvalue())
    assert len(samples) / SAMPLE_RATE == pytest.approx(7, abs=0.05)
    assert np.abs(samples[2 * SAMPLE_RATE + 800 : 5 * SAMPLE_RATE - 800]).max() < 1e-3
    assert np.abs(samples[5 * SAMPLE_RATE + 800 :]).max() > 0.2


BAD: dict[str, tuple[bytes, type[AsrError]]] = {
    "nothing": (b"", UnsupportedMedia),
    "text": (b"This is a text file and no sound.\n" * 50, UnsupportedMedia),
    "subtitles": (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", UnsupportedMedia),
    "a playlist that names another file": (
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n",
        UnsupportedMedia,
    ),
    "a list of files": (b"ffconcat version 1.0\nfile /etc/hostname\n", UnsupportedMedia),
    "json": (b'{"url": "x"}', UnsupportedMedia),
    "noise": (np.random.default_rng(0).bytes(20_000), UnsupportedMedia),
    "zeros": (bytes(50_000), UnsupportedMedia),
    "wav without samples": (wav(TONE[:0]), NoAudioStream),
    "video without sound": (container(None, "mp4", picture=True), NoAudioStream),
    "the head of a wav": (b"RIFF\0\0\0\0WAVE", CorruptMedia),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_audio_is_refused_by_its_own_error(name: str) -> None:
    data, error = BAD[name]
    with pytest.raises(error) as caught:
        decode(data)
    assert type(caught.value) is error
    assert "expected" in caught.value.message
