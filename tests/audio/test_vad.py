"""Voice activity compared with the published network, and the windows that are cut by it."""

import io
from itertools import chain, pairwise

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from handler.audio.chunking import DetectedElsewhere, SpeechChunker, speech_spans
from handler.audio.silero import FRAME
from handler.audio.source import AudioSource
from handler.audio.vad import VoiceActivity
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.pipeline import Pipeline
from tests.support.speech import FOX, PANGRAM, SENTENCES, Samples, say, silence, wav
from tests.support.word_errors import word_error_rate

RNG = np.random.default_rng(0)
TALK = np.concatenate([say(PANGRAM), silence(1.5), say(FOX), (0.01 * RNG.standard_normal(30_000)).astype(np.float32)])


def pink_noise(seconds: int) -> Samples:
    """Return noise with a root mean square of 1, whose power falls with the frequency."""
    count = seconds * SAMPLE_RATE
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(count))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[: 20 * seconds] = 0  # below 20 Hz
    noise = np.fft.irfft(spectrum, count)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)), np.float32)


PINK = pink_noise(20)
TIME_S = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
CHORD = (0.1 * np.sin(2 * np.pi * np.outer((261.6, 329.6, 392.0), TIME_S)).sum(0)).astype(np.float32)


def telephone(samples: Samples, subtype: str) -> Samples:
    """Return samples [n] as they come out of a file at 8 kHz in one of libsndfile's codecs."""
    decoded, rate = soundfile.read(io.BytesIO(wav(samples, 8000, subtype)), dtype="float32")
    return np.asarray(soxr.resample(decoded, rate, SAMPLE_RATE), np.float32)[: len(samples)]


def abrupt(text: str) -> Samples:
    """Return speech that begins with its first sample."""
    samples = say(text)
    return samples[np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())[0] :]


def probabilities(samples: Samples, block: int) -> NDArray[np.float32]:
    detector = VoiceActivity()
    parts = [detector.push(samples[at : at + block]) for at in range(0, len(samples), block)]
    return np.concatenate([*parts, detector.finish()])


def windows_of(samples: Samples, block: int) -> list[Window]:
    """Return windows of at most 30 s, cut by the real detector."""
    chunker = SpeechChunker(30, 5, VoiceActivity())
    windows = list[Window]()
    for at in range(0, len(samples), block):
        windows += chunker.push(samples[at : at + block])
    return windows + chunker.finish()


STREAMS = {
    "talk": TALK,
    "telephone": telephone(TALK, "GSM610"),
    "after noise": np.concatenate([PINK / 10, TALK, PINK[: 5 * SAMPLE_RATE] / 10, say(PANGRAM)]),
    "quiet": np.concatenate([PINK / 10**5, TALK / 300, silence(4), TALK / 1000]),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("block", [100, 512, 7_777, 10**6])
def test_the_probabilities_do_not_depend_on_how_the_samples_arrive(block: int, name: str) -> None:
    expected = probabilities(STREAMS[name], 32_000)
    assert len(expected) == -(-len(STREAMS[name]) // FRAME)
    assert np.abs(probabilities(STREAMS[name], block) - expected).max() < 1e-4


@pytest.mark.parametrize("name", STREAMS)
def test_the_windows_do_not_depend_on_how_the_samples_arrive(name: str) -> None:
    expected = windows_of(STREAMS[name], 32_000)
    for block in (777, 16_000, 10**7):
        windows = windows_of(STREAMS[name], block)
        assert [(w.start, w.end, w.speech) for w in windows] == [(w.start, w.end, w.speech) for w in expected]


def test_what_was_detected_elsewhere_comes_in_its_order_and_nothing_takes_no_room() -> None:
    detector = DetectedElsewhere()
    for probability in (0.25, 0.5):
        detector.pass_on(np.full(2, probability, np.float32))
        for _ in range(1000):
            detector.pass_on(np.zeros(0, np.float32))
    assert len(detector._waiting) == 3
    assert detector.push(np.zeros(2000, np.float32)).tolist() == [0.25, 0.25, 0.5, 0.5]
    assert detector.finish().tolist() == []


def test_a_stream_without_samples_has_no_probabilities() -> None:
    assert len(probabilities(np.zeros(0, np.float32), 100)) == 0


@pytest.mark.parametrize("gain_db", [0, -20, -30])
@pytest.mark.parametrize("subtype", ["GSM610", "ULAW", "ALAW"])
def test_a_telephone_recording_that_begins_with_speech_loses_no_word(subtype: str, gain_db: int) -> None:
    for text in (*SENTENCES, FOX, PANGRAM):
        samples = telephone(abrupt(text) * np.float32(10 ** (gain_db / 20)), subtype)
        assert windows_of(samples, 32_000)[0].start == 0, text


@pytest.mark.parametrize("subtype", ["GSM610", "ULAW", "PCM_16"])
@pytest.mark.parametrize("before", ["noise", "chord"])
def test_speech_right_after_a_long_sound_loses_no_word(before: str, subtype: str) -> None:
    sound = (0.1 * PINK).astype(np.float32) if before == "noise" else CHORD
    for text in (*SENTENCES, FOX, PANGRAM):
        samples = telephone(np.concatenate([sound, abrupt(text)]), subtype)
        first = windows_of(samples, 32_000)[0]
        assert first.start <= len(sound), text
        assert first.start >= len(sound) - 3 * SAMPLE_RATE, text


@pytest.mark.parametrize("gain_db", [-40, -50, -60])
def test_quiet_speech_is_detected_as_speech_at_an_ordinary_level(gain_db: int) -> None:
    for text in (*SENTENCES, FOX, PANGRAM):
        (ordinary,) = windows_of(abrupt(text), 32_000)
        (quiet,) = windows_of(abrupt(text) * np.float32(10 ** (gain_db / 20)), 32_000)
        assert quiet.speech_s == pytest.approx(ordinary.speech_s, abs=0.5), text
        assert np.array_equal(quiet.samples, abrupt(text)[: len(quiet.samples)] * np.float32(10 ** (gain_db / 20)))


@pytest.mark.parametrize("level_db", [-80, -60, -40, -20])
def test_no_sound_without_speech_is_taken_for_speech_at_any_level(level_db: int) -> None:
    for name, sound in {**NOISES, "pink noise": PINK, "a chord": CHORD}.items():
        rms = np.sqrt(np.mean(sound**2))
        samples = (sound * 10 ** (level_db / 20) / rms).astype(np.float32)
        assert windows_of(samples, 32_000) == [], name


def test_spans_begin_and_end_by_two_thresholds_and_pass_over_clicks_and_short_pauses() -> None:
    with_short_pauses = [0.1, 0.6, 0.4, 0.6, 0.1, 0.6, 0.6, 0.1, 0.1, 0.1]
    with_click = [0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.4]
    assert speech_spans(np.array([*with_short_pauses, *with_click], np.float32), 0.05) == [(1, 7), (16, 20)]
    assert speech_spans(np.zeros(0, np.float32), 0.05) == []
    assert speech_spans(np.full(9, 0.4, np.float32), 0.05) == []
    assert speech_spans(np.full(9, 0.4, np.float32), 0.05, speaking=True) == [(0, 9)]


FRAME_SAMPLES = 1600  # 0.1 s


class ScriptedDetector:
    """A detector whose probabilities are given, whatever the samples are."""

    frame = FRAME_SAMPLES

    def __init__(self, script: list[float]) -> None:
        self._script = np.array(script, np.float32)
        self._frames = self._samples = 0

    def push(self, samples: Samples) -> NDArray[np.float32]:
        self._samples += len(samples)
        frames, self._frames = self._frames, self._samples // self.frame
        return self._script[frames : self._frames]

    def finish(self) -> NDArray[np.float32]:
        return self._script[self._frames : -(-self._samples // self.frame)]


def chunk(script: list[float], block: int = 5_000) -> list[Window]:
    """Return windows of at most 10 s, with a stride of 2 s, cut by the probabilities of frames of 0.1 s."""
    samples = np.arange(len(script) * FRAME_SAMPLES, dtype=np.float32)
    chunker = SpeechChunker(10, 2, ScriptedDetector(script))
    windows = list[Window]()
    for at in range(0, len(samples), block):
        windows += chunker.push(samples[at : at + block])
    windows += chunker.finish()
    for window in windows:
        assert np.array_equal(window.samples, samples[window.start : window.start + len(window.samples)])
    return windows


def edges(windows: list[Window]) -> list[tuple[float, float]]:
    return [(round(w.start / SAMPLE_RATE, 1), round(w.start / SAMPLE_RATE + w.seconds, 1)) for w in windows]


def script(*parts: tuple[float, float]) -> list[float]:
    """Return the probabilities of frames of 0.1 s, from pairs of seconds and probability."""
    frames = list[float]()
    for seconds, probability in parts:
        frames += [probability] * round(seconds * 10)
    return frames


def test_speech_is_packed_into_windows_with_a_margin_and_the_rest_is_left_out() -> None:
    windows = chunk(script((5, 0), (3, 1), (1, 0), (3, 1), (20, 0), (2, 1), (5, 0)))
    assert edges(windows) == [(4.6, 12.4), (31.6, 34.4)]


def test_a_full_window_ends_in_the_widest_pause_near_its_end() -> None:
    windows = chunk(script((4, 1), (1, 0), (3.4, 1), (0.6, 0), (0.4, 1), (0.2, 0), (5, 1), (1, 0)))
    assert edges(windows)[0][1] == pytest.approx(8.7, abs=0.11)
    assert edges(windows)[1][0] == pytest.approx(8.7, abs=0.11)


def test_speech_longer_than_a_window_is_cut_at_its_least_likely_frame_and_none_is_lost() -> None:
    windows = chunk(script((9, 1), (0.1, 0.4), (8.5, 1), (0.1, 0.45), (3, 1)))
    assert edges(windows) == [(0.0, 9.0), (9.0, 17.6), (17.6, 20.7)]


def test_windows_of_speech_without_any_pause_overlap_by_the_stride() -> None:
    windows = chunk(script((25, 1)))
    assert edges(windows) == [(0.0, 10.0), (8.0, 18.0), (16.0, 25.0)]
    assert [window.speech for window in windows] == [((window.start, window.end),) for window in windows]


def test_windows_of_speech_do_not_depend_on_how_the_samples_arrive() -> None:
    frames = script((2, 0), (7, 1), (0.5, 0), (6, 1), (4, 0), (25, 1), (1, 0))
    assert edges(chunk(frames, block=999)) == edges(chunk(frames, block=10**7))


def test_no_window_is_empty_or_longer_than_allowed_and_all_speech_is_inside_one() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        frames = script(*((float(rng.uniform(0.1, 14)), float(rng.integers(0, 2))) for _ in range(12)))
        windows = chunk(frames, block=int(rng.integers(100, 90_000)))
        is_covered = np.zeros(len(frames), bool)
        for window in windows:
            assert 0 < window.seconds <= 10
            first_frame = window.start // FRAME_SAMPLES
            is_covered[first_frame : first_frame + round(window.seconds * 10)] = True
        for start, end in speech_spans(np.array(frames, np.float32), 0.1):
            assert is_covered[start:end].all(), seed
            marked = marked_samples(windows, start * FRAME_SAMPLES, end * FRAME_SAMPLES)
            assert marked >= (end - start) * FRAME_SAMPLES - FRAME_SAMPLES
        for first, second in pairwise(windows):
            assert first.start < second.start
            assert first.end - second.start <= 2 * SAMPLE_RATE


def marked_samples(windows: list[Window], start: int, end: int) -> int:
    """Return how many samples of [start, end) the windows mark as speech."""
    spans = chain.from_iterable(window.speech for window in windows)
    clipped = {(max(span_start, start), min(span_end, end)) for span_start, span_end in spans}
    return sum(span_end - span_start for span_start, span_end in clipped if span_end > span_start)


def upload(samples: Samples) -> AudioSource:
    return AudioSource(file=io.BytesIO(wav(samples)))


NOISES = {
    "white noise": 0.1 * RNG.standard_normal(10 * SAMPLE_RATE),
    "faint noise": 0.001 * RNG.standard_normal(10 * SAMPLE_RATE),
    "hum": 0.2 * np.sin(2 * np.pi * 50 * np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE),
    "a tone": 0.3 * np.sin(2 * np.pi * 440 * np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE),
    "clicks": (RNG.random(10 * SAMPLE_RATE) > 0.9998).astype(np.float64),
}


@pytest.mark.parametrize("name", NOISES)
async def test_no_word_comes_from_what_is_no_speech(pipeline: Pipeline, name: str) -> None:
    assert (await pipeline.transcribe(upload(NOISES[name].astype(np.float32)), Options())).text == ""


async def test_a_sentence_inside_minutes_of_nothing_is_all_there_is(pipeline: Pipeline) -> None:
    noise = (0.002 * RNG.standard_normal(150 * SAMPLE_RATE)).astype(np.float32)
    samples = np.concatenate([silence(150), say(FOX), noise])
    transcript = await pipeline.transcribe(upload(samples), Options())
    assert word_error_rate(FOX, transcript.text) == 0
    assert transcript.segments[0].start == pytest.approx(150.2, abs=0.4)


async def test_a_recording_that_is_hardly_audible_has_all_its_words(pipeline: Pipeline) -> None:
    quiet = wav(say(PANGRAM) / np.float32(1000), subtype="PCM_24")
    transcript = await pipeline.transcribe(AudioSource(file=io.BytesIO(quiet)), Options())
    assert word_error_rate(PANGRAM, transcript.text) == 0


async def test_without_vad_everything_is_decoded(pipeline: Pipeline) -> None:
    original_admit = pipeline.engine.admit
    lengths_s = list[float]()

    def admit(windows: list[Window]) -> None:
        lengths_s.extend(window.seconds for window in windows)
        original_admit(windows)

    pipeline.engine.admit = admit  # type: ignore[method-assign, assignment]
    try:
        await pipeline.transcribe(upload(NOISES["white noise"].astype(np.float32)), Options())
        assert lengths_s == []
        await pipeline.transcribe(upload(NOISES["white noise"].astype(np.float32)), Options(vad=False))
        assert lengths_s == [10.0]
    finally:
        pipeline.engine.admit = original_admit  # type: ignore[method-assign]


async def test_speech_without_a_pause_loses_no_word(pipeline: Pipeline) -> None:
    samples = np.concatenate([say(text)[SAMPLE_RATE // 4 : -SAMPLE_RATE // 4] for text in SENTENCES * 2])
    transcript = await pipeline.transcribe(upload(samples), Options())
    assert word_error_rate(" ".join(SENTENCES * 2), transcript.text) <= 0.06
