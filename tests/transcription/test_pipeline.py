"""One request through the pipeline: real weights for its text, a fake engine for failures and cancellation."""

import asyncio
import base64
import gc
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from handler.audio.source import AudioSource
from handler.audio.spool import Spool
from handler.engine.processors import available_processors
from handler.errors import Cancelled, DeviceLost, OutOfMemory
from handler.schema.options import Options
from handler.schema.transcript import Evidence, Progress, Transcript
from handler.schema.window import SAMPLE_RATE, DecodingParams, Window
from handler.settings import SettingsError
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from handler.transcription.request import Request
from tests.conftest import settings
from tests.support.asking import STORY, error_of, upload
from tests.support.fake_engine import FakeEngine
from tests.support.speech import FOX, PANGRAM, SENTENCES, container, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate


def assert_times_are_sane(transcript: Transcript) -> None:
    edges = list(chain.from_iterable((segment.start, segment.end) for segment in transcript.segments))
    assert edges == sorted(edges)
    assert all(0 <= edge <= transcript.duration + 1e-3 for edge in edges)


async def test_speech_becomes_its_words(pipeline: Pipeline) -> None:
    transcript = await pipeline.transcribe(upload(wav(say(FOX))), Options())
    assert word_error_rate(FOX, transcript.text) == 0
    assert transcript.language == "en"
    assert transcript.duration == pytest.approx(len(say(FOX)) / SAMPLE_RATE, abs=0.01)
    assert transcript.timing["total"] > 0
    assert_times_are_sane(transcript)


async def test_a_long_file_keeps_every_sentence_in_order(pipeline: Pipeline) -> None:
    transcript = await pipeline.transcribe(upload(wav(STORY)), Options())
    assert word_error_rate(" ".join(SENTENCES * 2), transcript.text) <= 0.05
    assert_times_are_sane(transcript)


async def test_short_windows_give_the_same_words(pipeline: Pipeline, tiny_folder: Path) -> None:
    short_windows = build(settings(chunk_length_s=8, batch_size=3))
    try:
        transcript = await short_windows.transcribe(upload(wav(STORY)), Options())
    finally:
        short_windows.close()
    assert word_error_rate(" ".join(SENTENCES * 2), transcript.text) <= 0.08
    assert_times_are_sane(transcript)


async def test_every_kind_of_source_gives_the_same_text(pipeline: Pipeline, web: Web) -> None:
    data = wav(say(PANGRAM), format="FLAC")
    sources = [
        upload(data),
        AudioSource(base64=base64.b64encode(data).decode()),
        AudioSource(url=web.put("/a", data)),
        AudioSource(url=web.put("/b", data) + "?chunked"),
    ]
    texts = {(await pipeline.transcribe(source, Options())).text for source in sources}
    assert len(texts) == 1
    assert word_error_rate(PANGRAM, texts.pop()) <= 0.06


async def test_an_m4a_with_its_index_at_the_end_is_read_from_an_address(pipeline: Pipeline, web: Web) -> None:
    url = web.put("/a.m4a", container(say(FOX), "ipod", "aac", 44_100, "stereo"))
    assert word_error_rate(FOX, (await pipeline.transcribe(AudioSource(url=url), Options())).text) == 0


async def test_many_requests_at_once_give_each_its_own_text(pipeline: Pipeline) -> None:
    texts = [*SENTENCES, FOX, PANGRAM]
    together = await asyncio.gather(*(pipeline.transcribe(upload(wav(say(text))), Options()) for text in texts))
    alone = [await pipeline.transcribe(upload(wav(say(text))), Options()) for text in texts]
    assert [transcript.text for transcript in together] == [transcript.text for transcript in alone]


@pytest.mark.parametrize("seconds", [0.01, 3, 65])
async def test_silence_is_a_success_without_text(pipeline: Pipeline, seconds: float) -> None:
    transcript = await pipeline.transcribe(upload(wav(silence(seconds))), Options())
    assert (transcript.text, transcript.segments) == ("", ())
    assert transcript.duration == pytest.approx(seconds)


async def test_a_truncated_file_gives_its_beginning_and_a_warning(pipeline: Pipeline) -> None:
    data = wav(np.concatenate([say(FOX), silence(1), say(PANGRAM)]))
    size = len(wav(say(FOX))) + SAMPLE_RATE
    transcript = await pipeline.transcribe(upload(data[:size]), Options())
    assert word_error_rate(FOX, transcript.text) == 0
    assert any("cut off" in warning for warning in transcript.warnings)


async def test_progress_runs_to_the_end(pipeline: Pipeline) -> None:
    updates = list[Progress]()
    transcript = await pipeline.transcribe(upload(wav(STORY)), Options(), updates.append)
    assert [update.done_s for update in updates] == sorted(update.done_s for update in updates)
    assert updates[-1].done_s == pytest.approx(transcript.duration, abs=1.0)
    assert updates[-1].total_s == pytest.approx(transcript.duration, abs=0.1)


async def test_bad_requests_are_refused_and_the_next_one_works(pipeline: Pipeline, web: Web) -> None:
    expected = [
        (upload(b"text " * 100), "unsupported_media"),
        (upload(container(None, "mp4", picture=True)), "no_audio_stream"),
        (AudioSource(url=web.url + "/none"), "download_refused"),
        (AudioSource(url=web.url + "/cut"), "download_failed"),
        (AudioSource(url="gopher://a/b"), "invalid_request"),
        (AudioSource(base64="?"), "invalid_request"),
    ]
    for source, code in expected:
        assert (await error_of(pipeline, source)).code == code
    assert word_error_rate(FOX, (await pipeline.transcribe(upload(wav(say(FOX))), Options())).text) == 0


async def test_a_language_or_task_that_the_model_does_not_know_is_refused(pipeline: Pipeline) -> None:
    assert "'de'" in (await error_of(pipeline, upload(b""), Options(language="de"))).message
    assert "multilingual" in (await error_of(pipeline, upload(b""), Options(task="translate"))).message


async def test_the_language_of_a_long_file_is_detected_by_its_beginning(base_folder: Path) -> None:
    base = build(settings(model_id=str(base_folder), dtype="auto"))
    try:
        transcript = await base.transcribe(upload(wav(STORY)), Options())
    finally:
        base.close()
    assert transcript.language == "en"
    assert transcript.language_probability is not None
    assert transcript.language_probability > 0.9
    assert word_error_rate(" ".join(SENTENCES * 2), transcript.text) <= 0.05


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def fake(engine: FakeEngine) -> Iterator[Pipeline]:
    pipeline = Pipeline(engine, settings(batch_size=2, max_requests=3))
    yield pipeline
    engine.may_run.set()
    pipeline.close()


ALL = Options(vad=False)
NOISE = wav((0.1 * np.random.default_rng(0).standard_normal(600 * SAMPLE_RATE)).astype(np.float32))


async def window_admitted(engine: FakeEngine) -> None:
    await asyncio.to_thread(engine.admitted.acquire)


async def test_cancelling_frees_the_slots_and_leaves_other_requests_alone(fake: Pipeline, engine: FakeEngine) -> None:
    engine.may_run.clear()
    long = asyncio.create_task(fake.transcribe(upload(NOISE), ALL))
    await window_admitted(engine)
    await window_admitted(engine)
    short = asyncio.create_task(fake.transcribe(upload(wav(say(FOX))), ALL))
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    await window_admitted(engine)
    assert len(engine.dropped_windows) == 2
    engine.may_run.set()
    assert (await short).text == "4320"


async def test_a_long_file_is_not_read_ahead_of_the_engine(fake: Pipeline, engine: FakeEngine) -> None:
    engine.may_run.clear()
    task = asyncio.create_task(fake.transcribe(upload(NOISE), ALL))
    while (num_cut := fake.stats().waiting_windows + fake.stats().active_sequences) < 6:
        await asyncio.to_thread(lambda: None)
    assert num_cut == 6, "four windows of its own and two of the pool, of twenty"
    engine.may_run.set()
    assert len((await task).segments) >= 20


async def test_a_failing_engine_fails_what_runs_and_takes_the_next(fake: Pipeline, engine: FakeEngine) -> None:
    engine.failure = OutOfMemory("expected less")
    assert (await error_of(fake, upload(NOISE), ALL)).code == "out_of_memory"
    engine.failure = RuntimeError("boom")
    assert (await error_of(fake, upload(NOISE), ALL)).code == "internal"
    engine.failure = None
    assert (await fake.transcribe(upload(wav(say(FOX))), ALL)).text == "4320"


async def test_a_device_out_of_memory_continues_with_half_the_batch_and_loses_nothing(engine: FakeEngine) -> None:
    expected = Pipeline(FakeEngine(), settings())
    engine.max_batch_size = engine.encode_batch_size = 8
    engine.memory_windows = 2
    halved = Pipeline(engine, settings())
    try:
        engine.may_run.clear()
        task = asyncio.create_task(halved.transcribe(upload(NOISE), ALL))
        while engine.max_batch_size > 2:
            await window_admitted(engine)
        engine.may_run.set()
        transcript = await task
        assert transcript.text == (await expected.transcribe(upload(NOISE), ALL)).text
        assert engine.max_batch_size == 2
        engine.memory_windows = 0
        wide = await error_of(halved, upload(NOISE), replace(ALL, beam_size=2))
        assert (wide.code, wide.retryable) == ("out_of_memory", True)
        assert engine.max_batch_size == 1
        with pytest.raises(OutOfMemory):  # submitted when the batch was larger
            halved.runner.submit("request", Window(0, say(FOX), params=DecodingParams(num_hypotheses=2)))
        engine.memory_windows = 1
        assert (await halved.transcribe(upload(NOISE), ALL)).text == transcript.text
    finally:
        halved.close()
        expected.close()


async def test_more_requests_than_allowed_are_overloaded(fake: Pipeline, engine: FakeEngine) -> None:
    engine.may_run.clear()
    tasks = [asyncio.create_task(fake.transcribe(upload(wav(say(FOX))), ALL)) for _ in range(3)]
    await window_admitted(engine)
    error = await error_of(fake, upload(wav(say(FOX))), ALL)
    assert (error.code, error.retryable) == ("overloaded", True)
    engine.may_run.set()
    assert len(await asyncio.gather(*tasks)) == 3


async def test_a_request_that_waits_for_its_turn_to_decode_is_in_work(engine: FakeEngine) -> None:
    pipeline = Pipeline(engine, settings(max_requests=1))
    turns = pipeline.resources.decode_turns
    held = available_processors()
    for _ in range(max(1, held // 2)):
        turns.acquire()
    task = asyncio.create_task(pipeline.transcribe(upload(wav(say(FOX))), ALL))
    while not turns._waiting:
        await asyncio.to_thread(lambda: None)
    (place,) = pipeline._admission.places
    assert isinstance(place.work, Request)
    place.work._producer._start_time -= 1000.0
    assert (await error_of(pipeline, upload(wav(say(FOX))), ALL)).code == "overloaded"
    turns.release()
    assert (await task).text == "4320"
    pipeline.close()


async def test_the_part_of_a_window_that_an_engine_leaves_is_decoded_next(fake: Pipeline, engine: FakeEngine) -> None:
    engine.seek_s = 10.0
    transcript = await fake.transcribe(upload(NOISE[: 44 + 25 * 2 * SAMPLE_RATE]), ALL)
    assert [segment.start for segment in transcript.segments] == [0, 10, 20]


async def test_a_truncated_repetition_is_reported_as_a_warning(fake: Pipeline, engine: FakeEngine) -> None:
    engine.evidence = Evidence(-0.1, 0.0, 9.0, 0.0, 99, looped=True)
    transcript = await fake.transcribe(upload(NOISE[: 44 + 5 * 2 * SAMPLE_RATE]), ALL)
    assert len(transcript.warnings) == 1 + 1  # the file is cut off, too
    assert "repeat itself" in transcript.warnings[1]


async def test_the_time_of_the_device_is_known_by_the_temperature_of_the_windows(
    fake: Pipeline, engine: FakeEngine
) -> None:
    five_seconds = NOISE[: 44 + 5 * 2 * SAMPLE_RATE]
    await fake.transcribe(upload(five_seconds), ALL)
    assert list(fake.stats().device_s_by_temperature) == [0.0]
    engine.evidence = Evidence(-0.1, 0.0, 9.0, 0.0, 99, looped=True)
    await fake.transcribe(upload(five_seconds), replace(ALL, temperature=0.3))
    by_temperature = fake.stats().device_s_by_temperature
    assert list(by_temperature) == [0.0, 0.4]
    assert sum(by_temperature.values()) == pytest.approx(fake.runner.device_s)


async def test_a_device_that_fails_again_and_again_is_reported_as_lost(fake: Pipeline, engine: FakeEngine) -> None:
    engine.failure = RuntimeError("boom")
    one_window = wav((0.1 * np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE)).astype(np.float32))
    codes = [(await error_of(fake, upload(one_window), ALL)).code for _ in range(3)]
    assert codes == ["internal", "internal", "device_lost"]
    assert fake.runner.fault is not None
    engine.failure = None
    assert "the device is lost" in (await error_of(fake, upload(NOISE), ALL)).message


async def test_a_lost_device_ends_all_that_runs_and_waits_at_once(fake: Pipeline, engine: FakeEngine) -> None:
    engine.may_run.clear()
    tasks = [asyncio.create_task(error_of(fake, upload(NOISE), ALL)) for _ in range(3)]
    await window_admitted(engine)
    engine.failure = DeviceLost("the device is lost: CUDA error: an illegal memory access was encountered")
    errors = await asyncio.gather(*tasks)
    assert [(error.code, error.retryable) for error in errors] == [("device_lost", True)] * 3
    assert fake.runner.fault is not None
    assert "illegal memory access" in (await error_of(fake, upload(NOISE), ALL)).message


async def test_results_that_are_not_finite_are_counted(fake: Pipeline, engine: FakeEngine) -> None:
    engine.evidence = Evidence(float("nan"), 0.0, 1.0, 0.0, 3, looped=False)
    assert (await error_of(fake, upload(wav(say(FOX))), ALL)).code == "internal"
    assert fake.stats().counters["not_finite"] == 6


def count_windows() -> int:
    gc.collect()
    return sum(type(item) is Window for item in gc.get_objects())


async def test_decoded_windows_are_freed(fake: Pipeline, engine: FakeEngine) -> None:
    before = count_windows()  # of other tests' pipelines
    await fake.transcribe(upload(NOISE), ALL)
    assert count_windows() <= before + 2


async def test_closing_ends_a_request_that_waits_for_a_download(engine: FakeEngine, web: Web) -> None:
    pipeline = Pipeline(engine, settings())
    task = asyncio.create_task(pipeline.transcribe(AudioSource(url=web.url + "/hang"), Options()))
    await asyncio.to_thread(web.request_received.wait)
    await asyncio.to_thread(pipeline.close)
    with pytest.raises(Cancelled):
        await task


async def test_audio_over_the_cap_is_too_long(engine: FakeEngine) -> None:
    short = Pipeline(engine, settings(max_duration_s=60))
    assert (await error_of(short, upload(NOISE), ALL)).code == "too_long"
    short.close()


async def test_a_request_that_takes_too_long_ends(engine: FakeEngine, web: Web) -> None:
    hasty = Pipeline(engine, settings(request_timeout_s=0.2))
    try:
        error = await error_of(hasty, AudioSource(url=web.url + "/hang"))
    finally:
        await asyncio.to_thread(hasty.close)
    assert (error.code, error.retryable) == ("deadline_exceeded", True)
    assert "REQUEST_TIMEOUT_S" in error.message


@pytest.mark.parametrize("channels", [1, 2])
async def test_a_window_is_decoded_after_the_text_of_the_one_before(
    fake: Pipeline, engine: FakeEngine, channels: int
) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(100 * SAMPLE_RATE)).astype(np.float32)
    mode = "split" if channels > 1 else "mix"
    options = replace(ALL, prompt="First.", condition_on_previous_text=True, channels=mode)
    transcript = await fake.transcribe(upload(wav(noise, channels=channels)), options)
    assert {segment.channel for segment in transcript.segments} == ({None} if channels == 1 else {0, 1})
    for channel in {segment.channel for segment in transcript.segments}:
        text = "First."
        for window_channel, start, params in engine.admitted_windows:
            if window_channel == channel:
                assert params.prompt == text
                text += f" {start}"
        assert text.count(" ") == 4


@pytest.mark.parametrize(
    "evidence", [Evidence(-0.1, 0.0, 1.0, 0.6, 9, looped=False), Evidence(-0.1, 0.0, 9.0, 0.0, 9, looped=True)]
)
async def test_a_text_that_was_guessed_is_forgotten_for_the_next_window(
    fake: Pipeline, engine: FakeEngine, evidence: Evidence
) -> None:
    engine.evidence = evidence
    options = replace(ALL, prompt="First.", condition_on_previous_text=True)
    await fake.transcribe(upload(NOISE), options)
    assert {params.prompt for _, _, params in engine.admitted_windows} == {"First."}


async def test_a_requested_temperature_is_no_guess(fake: Pipeline, engine: FakeEngine) -> None:
    engine.evidence = Evidence(-0.1, 0.0, 1.0, 0.8, 9, looped=False)
    await fake.transcribe(upload(NOISE), replace(ALL, temperature=0.8, condition_on_previous_text=True))
    assert len({params.prompt for _, _, params in engine.admitted_windows}) >= 20


async def test_the_remaining_part_of_a_window_is_decoded_after_the_text_of_its_first_part(
    fake: Pipeline, engine: FakeEngine
) -> None:
    engine.seek_s = 10.0
    await fake.transcribe(upload(NOISE[: 44 + 25 * 2 * SAMPLE_RATE]), replace(ALL, condition_on_previous_text=True))
    assert [params.prompt.split() for _, _, params in engine.admitted_windows] == [[], ["0"], ["0", "160000"]]


async def test_closing_ends_open_requests_as_cancelled(engine: FakeEngine) -> None:
    pipeline = Pipeline(engine, settings(batch_size=2))
    engine.may_run.clear()
    task = asyncio.create_task(pipeline.transcribe(upload(NOISE), ALL))
    await window_admitted(engine)
    await asyncio.to_thread(pipeline.close)
    with pytest.raises(Cancelled):
        await task


def test_a_chunk_longer_than_the_engine_takes_is_a_bad_setting(engine: FakeEngine) -> None:
    with pytest.raises(SettingsError, match="CHUNK_LENGTH_S"):
        Pipeline(engine, settings(chunk_length_s=31))


async def test_cancelling_a_download_that_hangs_returns_at_once(fake: Pipeline, web: Web) -> None:
    task = asyncio.create_task(fake.transcribe(AudioSource(url=web.url + "/trickle"), Options()))
    await asyncio.to_thread(web.request_received.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_silence_at_the_end_of_a_partial_transcript_is_not_heard_again(fake: Pipeline) -> None:
    with Spool(10**7) as spool:
        spool.write(wav(silence(60)))  # and never its end
        transcript = await fake.transcribe(AudioSource(growing=spool), Options(partial=True), limit_s=3.0)
    assert transcript.text == ""
    assert transcript.resume_at is not None
    assert transcript.resume_at > 20
