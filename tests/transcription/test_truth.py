"""Every spoken word and only spoken words: noise, loops, gaps, context and channels, on real weights."""

import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import soundfile

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.schema.options import Options
from handler.schema.transcript import Transcript, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import keep_words
from tests.conftest import settings
from tests.support.asking import error_of
from tests.support.speech import FOX, PANGRAM, SENTENCES, Samples, say, silence, wav
from tests.support.word_errors import word_error_rate

SECONDS = 20
GREETING = "Good morning."


def upload(samples: Samples) -> AudioSource:
    return AudioSource(file=io.BytesIO(wav(np.clip(samples, -1, 1))))


def white(rng: np.random.Generator, count: int) -> Samples:
    return rng.standard_normal(count).astype(np.float32)


def coloured(rng: np.random.Generator, count: int, gain: str) -> Samples:
    """Return noise with the spectrum that `gain` names."""
    hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    curve = 1 / np.sqrt(np.maximum(hertz, 1)) if gain == "pink" else np.exp(-(((hertz - 900) / 900) ** 2))
    noise: Samples = np.fft.irfft(np.fft.rfft(white(rng, count)) * curve, count).astype(np.float32)
    return noise


def applause(rng: np.random.Generator, count: int) -> Samples:
    """Return many short bursts of noise."""
    claps = np.zeros(count, np.float32)
    for start in rng.integers(0, count - 800, count // 130):
        claps[start : start + 800] += white(rng, 800) * np.exp(-np.arange(800) / 120) * rng.uniform(0.1, 1)
    return claps


def chords(count: int) -> Samples:
    """Return one chord per second that fades, each note with three harmonics."""
    seconds = np.arange(count) / SAMPLE_RATE
    roots = np.array([220.0, 174.6, 261.6, 196.0])[seconds.astype(int) % 4]
    pitches = itertools.product((1, 1.26, 1.5, 2), (1, 2, 3))
    notes = [np.sin(2 * np.pi * roots * ratio * h * seconds) / h for ratio, h in pitches]
    music: Samples = (np.exp(-2 * (seconds % 1)) * np.sum(notes, 0)).astype(np.float32)
    return music


@cache
def noises() -> dict[str, Samples]:
    """Return sounds without speech by name, each with an RMS of 0.03."""
    rng, count = np.random.default_rng(5), SECONDS * SAMPLE_RATE
    seconds = np.arange(count) / SAMPLE_RATE
    sounds = {
        "white noise": white(rng, count),
        "pink noise": coloured(rng, count, "pink"),
        "hum": np.sin(2 * np.pi * 50 * seconds) + 0.5 * np.sin(2 * np.pi * 150 * seconds),
        "a sine": np.sin(2 * np.pi * 440 * seconds),
        "clicks": (rng.random(count) > 0.9998).astype(np.float32),
        "applause": applause(rng, count),
        "chords": chords(count),
        "breathing": coloured(rng, count, "breath") * np.maximum(0, np.sin(2 * np.pi * seconds / 3.2)) ** 2,
    }
    levelled = {name: (0.03 * sound / np.sqrt(np.mean(sound**2))).astype(np.float32) for name, sound in sounds.items()}
    return {**levelled, "digital silence": silence(SECONDS)}


NOISES = ("white noise", "pink noise", "hum", "a sine", "clicks", "applause", "chords", "breathing", "digital silence")


@pytest.mark.parametrize("name", NOISES)
async def test_no_word_comes_from_what_is_no_speech_and_every_word_of_what_is(pipeline: Pipeline, name: str) -> None:
    noise = noises()[name]
    transcript = await pipeline.transcribe(upload(noise), Options())
    assert (transcript.text, transcript.coverage.speech_s, transcript.warnings) == ("", 0.0, ())
    greeting = say(GREETING)
    greeting = 0.1 * greeting / np.sqrt(np.mean(greeting[np.abs(greeting) > 0.01] ** 2))  # 10 dB over the noise
    mixture = noise.copy()
    mixture[8 * SAMPLE_RATE : 8 * SAMPLE_RATE + len(greeting)] += greeting
    transcript = await pipeline.transcribe(upload(mixture), Options())
    assert word_error_rate(GREETING, transcript.text) == 0
    assert 7.9 <= transcript.segments[0].start < transcript.segments[0].end <= 8.1 + len(greeting) / SAMPLE_RATE


async def test_a_greeting_in_ten_minutes_of_nothing_is_all_there_is(pipeline: Pipeline) -> None:
    faint = (0.002 * np.random.default_rng(0).standard_normal(300 * SAMPLE_RATE)).astype(np.float32)
    transcript = await pipeline.transcribe(upload(np.concatenate([silence(300), say(GREETING), faint])), Options())
    assert word_error_rate(GREETING, transcript.text) == 0
    assert 300 <= transcript.segments[0].start < transcript.segments[-1].end <= 302


@pytest.mark.parametrize("name", ["white noise", "a sine", "chords", "breathing"])
async def test_without_vad_noise_makes_no_word_either(pipeline: Pipeline, name: str) -> None:
    assert (await pipeline.transcribe(upload(noises()[name]), Options(vad=False))).text == ""


def longest_run(text: str) -> int:
    """Return how often in a row the most repeated phrase of one to eight words comes."""
    words = ["".join(c for c in word.lower() if c.isalnum()) for word in text.split()]
    longest = 0
    for length in range(1, 9):
        for start in range(len(words)):
            times = 1
            while words[start + times * length : start + (times + 1) * length] == words[start : start + length]:
                times += 1
            longest = max(longest, times)
    return longest


async def test_what_is_said_again_and_again_is_written_about_as_often(pipeline: Pipeline) -> None:
    transcript = await pipeline.transcribe(upload(np.concatenate([say("No.")] * 20)), Options())
    # Sampled texts differ between processors, and have up to 36 words; a loop has many more, and a cut one has two.
    assert 15 <= len(transcript.text.split()) <= 40


@pytest.mark.parametrize("name", ["syllables", "music and speech", "bursts"])
async def test_a_provoked_loop_ends_in_a_readable_text(pipeline: Pipeline, name: str) -> None:
    rng = np.random.default_rng(3)
    bursts = np.concatenate([np.concatenate([0.3 * white(rng, 3_000), silence(0.15)]) for _ in range(60)])
    samples = {
        "syllables": np.tile(say("ba ba ba ba"), 8),
        "music and speech": np.concatenate(
            [10 * noises()["chords"], say(FOX), 10 * noises()["applause"], say(PANGRAM)]
        ),
        "bursts": bursts,
    }[name]
    transcript = await pipeline.transcribe(upload(samples), Options(vad=name != "bursts"))
    if name == "music and speech":
        assert word_error_rate(f"{FOX} {PANGRAM}", transcript.text) <= 0.1
    # The syllables were spoken 32 times. Elsewhere four in a row may be sampled by chance, but no loop.
    assert longest_run(transcript.text) <= (32 if name == "syllables" else 4)
    assert len(transcript.text) / transcript.duration <= 20


class LossyEngine:
    """A real engine that drops the words of a stretch of time; those of short windows only with `always`."""

    def __init__(self, engine: object, start: float, end: float, always: bool) -> None:
        self._engine = engine
        self.stretch = start, end
        self._always = always
        self.windows = list[tuple[float, float]]()  # start and end of each, seconds

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def admit(self, windows: Sequence[Window]) -> None:
        self.windows += [(window.start / SAMPLE_RATE, window.end / SAMPLE_RATE) for window in windows]
        self._engine.admit(windows)  # type: ignore[attr-defined]

    def drop(self, windows: Collection[Window]) -> None:
        self._engine.drop(windows)  # type: ignore[attr-defined]

    def advance(self) -> list[tuple[Window, WindowResult]]:
        results = self._engine.advance()  # type: ignore[attr-defined]
        return [(window, self._without_stretch(window, result)) for window, result in results]

    def _without_stretch(self, window: Window, result: WindowResult) -> WindowResult:
        def is_outside(word: Word) -> bool:
            middle = window.start / SAMPLE_RATE + (word.start + word.end) / 2
            return not self.stretch[0] <= middle <= self.stretch[1]

        if window.seconds < 12 and not self._always:
            return result
        return replace(result, segments=tuple(keep_words(result.segments, is_outside)))


TALK = np.concatenate([say(text) for text in SENTENCES * 2])
TALK_S = len(TALK) / SAMPLE_RATE


@pytest.fixture
def lossy(pipeline: Pipeline, request: pytest.FixtureRequest) -> Iterator[tuple[Pipeline, LossyEngine]]:
    engine = LossyEngine(pipeline.engine, *request.param)
    lossy_pipeline = Pipeline(engine, settings())  # type: ignore[arg-type]
    yield lossy_pipeline, engine
    lossy_pipeline.close()


HOLES = [(0.0, 5.0), (TALK_S / 2, TALK_S / 2 + 5.0), (TALK_S - 5.0, TALK_S)]


@pytest.mark.parametrize("lossy", [(*hole, True) for hole in HOLES], indirect=True)
async def test_speech_that_stays_without_text_is_retried_and_reported(lossy: tuple[Pipeline, LossyEngine]) -> None:
    pipeline, engine = lossy
    transcript = await pipeline.transcribe(upload(TALK), Options())
    start, end = engine.stretch
    assert transcript.coverage.gaps
    for gap in transcript.coverage.gaps:
        assert start - 0.6 <= gap.start < gap.end <= end + 0.6
        retries = [window for window in engine.windows if window[1] - window[0] < 12]
        is_retried = any(first <= gap.start + 0.1 and gap.end - 0.1 <= last for first, last in retries)
        assert is_retried, "it was decoded on its own"
    missing_s = sum(gap.end - gap.start for gap in transcript.coverage.gaps)
    assert 2.5 <= missing_s <= 5.5
    assert transcript.coverage.covered_s == pytest.approx(transcript.coverage.speech_s - missing_s, abs=1.0)
    assert sum("has no text" in warning for warning in transcript.warnings) == len(transcript.coverage.gaps)


@pytest.mark.parametrize("lossy", [(*hole, False) for hole in HOLES], indirect=True)
async def test_a_gap_in_a_windows_text_is_filled_by_decoding_it_on_its_own(lossy: tuple[Pipeline, LossyEngine]) -> None:
    pipeline, _ = lossy
    transcript = await pipeline.transcribe(upload(TALK), Options())
    assert word_error_rate(" ".join(SENTENCES * 2), transcript.text) <= 0.06
    assert (transcript.coverage.gaps, transcript.warnings) == ((), ())


async def test_a_clean_file_has_no_gap(pipeline: Pipeline) -> None:
    transcript = await pipeline.transcribe(upload(TALK), Options())
    assert (transcript.coverage.gaps, transcript.warnings) == ((), ())
    assert transcript.coverage.covered_s == pytest.approx(transcript.coverage.speech_s, abs=0.5)
    assert 0.7 * TALK_S < transcript.coverage.speech_s < TALK_S


NAMES = "My colleague Kaylee Smyth wrote to Jon."


async def test_hotwords_reach_every_window_and_are_never_written_themselves(pipeline: Pipeline) -> None:
    apart = np.concatenate([say(NAMES), silence(40), say(NAMES)])
    unhinted = await pipeline.transcribe(upload(apart), Options())
    hinted = await pipeline.transcribe(upload(apart), Options(hotwords="Kaylee Smyth"))
    assert "Smyth" not in unhinted.text
    assert hinted.text.count("Kaylee Smyth") == 2
    assert len(hinted.text.split()) == len(unhinted.text.split())


@pytest.mark.parametrize(
    "hint",
    [{"prompt": "Glossary: Gutenberg, Schoeffer, Subiaco, Sweynheim."}, {"hotwords": "Gutenberg, Schoeffer, Subiaco"}],
)
async def test_context_is_not_read_out_over_what_is_hard_to_hear(pipeline: Pipeline, hint: dict[str, str]) -> None:
    rng = np.random.default_rng(2)
    for samples in (say("Mm."), 0.3 * say("Uh.") + 0.01 * white(rng, len(say("Uh."))), silence(4)):
        transcript = await pipeline.transcribe(upload(samples), Options.parse({"vad": False, **hint}))
        words = set(transcript.text.lower().replace(",", "").split())
        assert not {"gutenberg", "schoeffer", "subiaco", "sweynheim", "glossary"} & words


def stereo(left: Samples, right: Samples) -> AudioSource:
    count = max(len(left), len(right))
    file = io.BytesIO()
    channels = [np.pad(side, (0, count - len(side))) for side in (left, right)]
    soundfile.write(file, np.stack(channels, 1), SAMPLE_RATE, format="FLAC")
    return AudioSource(file=io.BytesIO(file.getvalue()))


def text_of_channel(transcript: Transcript, channel: int) -> str:
    return "".join(segment.text for segment in transcript.segments if segment.channel == channel)


async def test_split_channels_are_transcribed_apart_and_merged_into_one_timeline(pipeline: Pipeline) -> None:
    left = np.concatenate([say(SENTENCES[0]), silence(6), say(SENTENCES[2])])
    right = np.concatenate([silence(5), say(SENTENCES[1])])
    transcript = await pipeline.transcribe(stereo(left, right), Options(channels="split"))
    assert word_error_rate(f"{SENTENCES[0]} {SENTENCES[2]}", text_of_channel(transcript, 0)) <= 0.1
    assert word_error_rate(SENTENCES[1], text_of_channel(transcript, 1)) <= 0.1
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert [segment.channel for segment in transcript.segments] == [0, 1, 0]


async def test_channels_are_mixed_by_default_and_a_silent_one_costs_nothing(pipeline: Pipeline) -> None:
    original_admit = pipeline.engine.admit
    channels = list[int | None]()

    def admit(windows: Sequence[Window]) -> None:
        channels.extend(window.channel for window in windows)
        original_admit(windows)

    pipeline.engine.admit = admit  # type: ignore[method-assign]
    try:
        mixed = await pipeline.transcribe(stereo(say(FOX), silence(1)), Options())
        split = await pipeline.transcribe(stereo(say(FOX), silence(1)), Options(channels="split"))
    finally:
        pipeline.engine.admit = original_admit  # type: ignore[method-assign]
    assert channels == [None, 0]
    assert word_error_rate(FOX, mixed.text) == word_error_rate(FOX, split.text) == 0
    assert mixed.segments[0].channel is None


async def test_more_channels_than_can_be_split_are_refused(pipeline: Pipeline) -> None:
    many = AudioSource(file=io.BytesIO(wav(say(FOX), channels=9)))
    error = await error_of(pipeline, many, Options(channels="split"))
    assert error.message == "expected at most 8 channels to split; the file has 9"


async def test_beams_and_samples_beyond_the_batch_are_refused_by_name(pipeline: Pipeline) -> None:
    for name in ("beam_size", "best_of"):
        error = await error_of(pipeline, upload(say(FOX)), Options.parse({name: 17}))
        assert isinstance(error, InvalidRequest)
        assert error.message == f"{name} must be at most BATCH_SIZE, which is 16; got 17"


async def test_a_window_that_fails_a_threshold_is_decoded_again_and_warmer(pipeline: Pipeline) -> None:
    transcript = await pipeline.transcribe(upload(say(FOX)), Options(compression_ratio_threshold=0.5))
    assert word_error_rate(FOX, transcript.text) == 0  # none passes, so the best is returned
    sampled = await pipeline.transcribe(upload(say(FOX)), Options(temperature=0.4, best_of=2))
    assert [segment.evidence.temperature for segment in sampled.segments if segment.evidence] == [0.4]
    beams = await pipeline.transcribe(upload(say(FOX)), Options(beam_size=5))
    assert word_error_rate(FOX, beams.text) == 0


async def test_equal_input_gives_equal_output_also_if_it_is_sampled(pipeline: Pipeline) -> None:
    options = Options(temperature=1.0)
    first, second = [await pipeline.transcribe(upload(TALK[: 20 * SAMPLE_RATE]), options) for _ in range(2)]
    assert first.segments == second.segments
