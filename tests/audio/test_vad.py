"""Voice activity against the package's own network, and the windows that are made of it."""

import io
import pickle
from itertools import pairwise
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from handler.audio.chunking import SpeechChunker, speech_spans
from handler.audio.source import AudioSource
from handler.audio.torchscript import tensors_in
from handler.audio.vad import FRAME, VoiceActivity
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.pipeline import Pipeline
from tests.support.speech import FOX, PANGRAM, SENTENCES, Samples, say, silence, wav
from tests.support.word_errors import word_error_rate

RNG = np.random.default_rng(0)
TALK = np.concatenate([say(PANGRAM), silence(1.5), say(FOX), (0.01 * RNG.standard_normal(30_000)).astype(np.float32)])


def probabilities(samples: Samples, block: int) -> NDArray[np.float32]:
    detector = VoiceActivity()
    found = [detector.push(samples[at : at + block]) for at in range(0, len(samples), block)]
    return np.concatenate([*found, detector.finish()])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_the_probabilities_are_those_of_the_published_network_frame_by_frame() -> None:
    from silero_vad import load_silero_vad

    network = load_silero_vad()
    padded = np.pad(TALK, (0, -len(TALK) % FRAME)).reshape(-1, FRAME)
    expected = [network(torch.from_numpy(frame), SAMPLE_RATE).item() for frame in padded]
    assert np.abs(probabilities(TALK, 32_000) - expected).max() < 1e-3


@pytest.mark.parametrize("block", [100, 512, 7_777, 10**6])
def test_the_probabilities_do_not_depend_on_how_the_samples_arrive(block: int) -> None:
    assert np.abs(probabilities(TALK, block) - probabilities(TALK, 32_000)).max() < 1e-4


def test_spans_begin_and_end_by_two_thresholds_and_pass_over_clicks_and_short_pauses() -> None:
    heard = np.array([0.1, 0.6, 0.4, 0.6, 0.1, 0.6, 0.6, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.4], np.float32)
    assert speech_spans(heard, 0.05) == [(1, 7), (16, 20)]
    assert speech_spans(np.zeros(0, np.float32), 0.05) == []
    assert speech_spans(np.full(9, 0.4, np.float32), 0.05) == []
    assert speech_spans(np.full(9, 0.4, np.float32), 0.05, speaking=True) == [(0, 9)]


class Told:
    """A detector that says what it was told."""

    frame = 1600  # 0.1 s

    def __init__(self, heard: list[float]) -> None:
        self._heard = np.array(heard, np.float32)
        self._frames = self._samples = 0

    def push(self, samples: Samples) -> NDArray[np.float32]:
        self._samples += len(samples)
        frames, self._frames = self._frames, self._samples // self.frame
        return self._heard[frames : self._frames]

    def finish(self) -> NDArray[np.float32]:
        return self._heard[self._frames : -(-self._samples // self.frame)]


def windows(heard: list[float], longest: float = 10, stride: float = 2, block: int = 5_000) -> list[Window]:
    samples = np.arange(len(heard) * Told.frame, dtype=np.float32)
    cutter = SpeechChunker(longest, stride, Told(heard))
    found = [window for at in range(0, len(samples), block) for window in cutter.push(samples[at : at + block])]
    found += cutter.finish()
    for window in found:
        assert np.array_equal(window.samples, samples[window.start : window.start + len(window.samples)])
    return found


def edges(found: list[Window]) -> list[tuple[float, float]]:
    return [(round(w.start / SAMPLE_RATE, 1), round(w.start / SAMPLE_RATE + w.seconds, 1)) for w in found]


def heard(*parts: tuple[float, float]) -> list[float]:
    """Seconds of a probability each."""
    return [probability for seconds, probability in parts for _ in range(round(seconds * 10))]


def test_speech_is_packed_into_windows_with_a_margin_and_the_rest_is_left_out() -> None:
    found = windows(heard((5, 0), (3, 1), (1, 0), (3, 1), (20, 0), (2, 1), (5, 0)))
    assert edges(found) == [(4.6, 12.4), (31.6, 34.4)]


def test_a_full_window_ends_in_the_widest_pause_near_its_end() -> None:
    found = windows(heard((4, 1), (1, 0), (3.4, 1), (0.6, 0), (0.4, 1), (0.2, 0), (5, 1), (1, 0)))
    assert edges(found)[0][1] == pytest.approx(8.7, abs=0.11)
    assert edges(found)[1][0] == pytest.approx(8.7, abs=0.11)


def test_speech_longer_than_a_window_is_cut_at_its_least_likely_frame_and_none_is_lost() -> None:
    found = windows(heard((9, 1), (0.1, 0.4), (8.5, 1), (0.1, 0.45), (3, 1)))
    assert edges(found) == [(0.0, 9.0), (9.0, 17.6), (17.6, 20.7)]


def test_where_speech_has_no_pause_at_all_windows_overlap_by_the_stride() -> None:
    found = windows(heard((25, 1)))
    assert edges(found) == [(0.0, 10.0), (8.0, 18.0), (16.0, 25.0)]
    assert [window.speech for window in found] == [((window.start, window.end),) for window in found]


def test_windows_of_speech_do_not_depend_on_how_the_samples_arrive() -> None:
    parts = heard((2, 0), (7, 1), (0.5, 0), (6, 1), (4, 0), (25, 1), (1, 0))
    assert edges(windows(parts, block=999)) == edges(windows(parts, block=10**7))


def test_no_window_is_empty_or_longer_than_allowed_and_all_speech_is_inside_one() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        parts = heard(*((float(rng.uniform(0.1, 14)), float(rng.integers(0, 2))) for _ in range(12)))
        found = windows(parts, block=int(rng.integers(100, 90_000)))
        inside = np.zeros(len(parts), bool)
        for window in found:
            assert 0 < window.seconds <= 10
            inside[window.start // Told.frame : window.start // Told.frame + round(window.seconds * 10)] = True
        for start, end in speech_spans(np.array(parts, np.float32), 0.1):
            assert inside[start:end].all(), seed
            within = [(max(a, start * Told.frame), min(b, end * Told.frame)) for window in found for a, b in window.speech]
            assert sum(b - a for a, b in set(within) if b > a) >= (end - start) * Told.frame - Told.frame
        assert all(first.start < second.start and first.end - second.start <= 2 * SAMPLE_RATE for first, second in pairwise(found))


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
    samples = np.concatenate([silence(150), say(FOX), (0.002 * RNG.standard_normal(150 * SAMPLE_RATE)).astype(np.float32)])
    got = await pipeline.transcribe(upload(samples), Options())
    assert word_error_rate(FOX, got.text) == 0
    assert got.segments[0].start == pytest.approx(150.2, abs=0.4)


async def test_without_vad_everything_is_decoded(pipeline: Pipeline) -> None:
    before = pipeline.engine.admit
    seen = list[float]()

    def admit(windows: list[Window]) -> None:
        seen.extend(window.seconds for window in windows)
        before(windows)

    pipeline.engine.admit = admit  # type: ignore[method-assign, assignment]
    try:
        await pipeline.transcribe(upload(NOISES["white noise"].astype(np.float32)), Options())
        assert seen == []
        await pipeline.transcribe(upload(NOISES["white noise"].astype(np.float32)), Options(vad=False))
        assert seen == [10.0]
    finally:
        pipeline.engine.admit = before  # type: ignore[method-assign]


async def test_speech_without_a_pause_loses_no_word(pipeline: Pipeline) -> None:
    spoken = np.concatenate([say(text)[SAMPLE_RATE // 4 : -SAMPLE_RATE // 4] for text in SENTENCES * 2])
    got = await pipeline.transcribe(upload(spoken), Options())
    assert word_error_rate(" ".join(SENTENCES * 2), got.text) <= 0.06


def test_a_pickle_that_asks_for_more_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.jit"
    with ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Path))
    with pytest.raises(pickle.UnpicklingError, match="expected modules and tensors"):
        tensors_in(path)
