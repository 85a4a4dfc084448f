"""One request through the whole house: real weights for its text, a fake engine for its behaviour under failure and cancel."""

import asyncio
import base64
import gc
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handler.audio.source import AudioSource
from handler.errors import Cancelled, OutOfMemory
from handler.schema.options import Options
from handler.schema.transcript import Evidence, Progress, Transcript
from handler.schema.window import SAMPLE_RATE, DecodingParams, Window
from handler.settings import SettingsError
from handler.startup.bootstrap import build
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.asking import STORY, refused, upload
from tests.support.fake_engine import FakeEngine
from tests.support.speech import FOX, PANGRAM, SENTENCES, container, say, silence, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate


def assert_times_are_sane(transcript: Transcript) -> None:
    edges = [edge for segment in transcript.segments for edge in (segment.start, segment.end)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= transcript.duration + 1e-3 for edge in edges)


async def test_speech_becomes_its_words(pipeline: Pipeline) -> None:
    got = await pipeline.transcribe(upload(wav(say(FOX))), Options())
    assert word_error_rate(FOX, got.text) == 0
    assert got.language == "en"
    assert got.duration == pytest.approx(len(say(FOX)) / SAMPLE_RATE, abs=0.01)
    assert got.timing["total"] > 0
    assert_times_are_sane(got)


async def test_a_long_file_keeps_every_sentence_in_order(pipeline: Pipeline) -> None:
    got = await pipeline.transcribe(upload(wav(STORY)), Options())
    assert word_error_rate(" ".join(SENTENCES * 2), got.text) <= 0.05
    assert_times_are_sane(got)


async def test_short_windows_give_the_same_words(pipeline: Pipeline, tiny_folder: Path) -> None:
    other = build(settings(chunk_length_s=8, batch_size=3))
    try:
        got = await other.transcribe(upload(wav(STORY)), Options())
    finally:
        other.close()
    assert word_error_rate(" ".join(SENTENCES * 2), got.text) <= 0.08
    assert_times_are_sane(got)


async def test_every_kind_of_source_gives_the_same_text(pipeline: Pipeline, web: Web) -> None:
    data = wav(say(PANGRAM), format="FLAC")
    sources = [upload(data), AudioSource(base64=base64.b64encode(data).decode()), AudioSource(url=web.put("/a", data)),
               AudioSource(url=web.put("/b", data) + "?chunked")]  # fmt: skip
    texts = {(await pipeline.transcribe(source, Options())).text for source in sources}
    assert len(texts) == 1
    assert word_error_rate(PANGRAM, texts.pop()) <= 0.06


async def test_an_m4a_with_its_index_at_the_end_is_read_from_an_address(pipeline: Pipeline, web: Web) -> None:
    url = web.put("/a.m4a", container(say(FOX), "ipod", "aac", 44_100, "stereo"))
    assert word_error_rate(FOX, (await pipeline.transcribe(AudioSource(url=url), Options())).text) == 0


async def test_many_requests_at_once_give_each_its_own_text(pipeline: Pipeline) -> None:
    texts = [*SENTENCES, FOX, PANGRAM]
    got = await asyncio.gather(*(pipeline.transcribe(upload(wav(say(text))), Options()) for text in texts))
    alone = [await pipeline.transcribe(upload(wav(say(text))), Options()) for text in texts]
    assert [transcript.text for transcript in got] == [transcript.text for transcript in alone]


@pytest.mark.parametrize("seconds", [0.01, 3, 65])
async def test_silence_is_a_success_without_text(pipeline: Pipeline, seconds: float) -> None:
    got = await pipeline.transcribe(upload(wav(silence(seconds))), Options())
    assert (got.text, got.segments) == ("", ())
    assert got.duration == pytest.approx(seconds)


async def test_a_cut_file_gives_its_beginning_and_a_warning(pipeline: Pipeline) -> None:
    data = wav(np.concatenate([say(FOX), silence(1), say(PANGRAM)]))
    cut = len(wav(say(FOX))) + SAMPLE_RATE
    got = await pipeline.transcribe(upload(data[:cut]), Options())
    assert word_error_rate(FOX, got.text) == 0
    assert any("cut off" in warning for warning in got.warnings)


async def test_progress_runs_to_the_end(pipeline: Pipeline) -> None:
    seen = list[Progress]()
    got = await pipeline.transcribe(upload(wav(STORY)), Options(), seen.append)
    assert [p.done_s for p in seen] == sorted(p.done_s for p in seen)
    assert seen[-1].done_s == pytest.approx(got.duration, abs=1.0)
    assert seen[-1].total_s == pytest.approx(got.duration, abs=0.1)


async def test_bad_requests_are_refused_and_the_next_one_works(pipeline: Pipeline, web: Web) -> None:
    codes = [
        (await refused(pipeline, source)).code
        for source in (
            upload(b"text " * 100),
            upload(container(None, "mp4", picture=True)),
            AudioSource(url=web.url + "/none"),
            AudioSource(url=web.url + "/cut"),
            AudioSource(url="gopher://a/b"),
            AudioSource(base64="?"),
        )
    ]
    assert codes == ["unsupported_media", "no_audio_stream", "download_failed", "download_failed", "invalid_request", "invalid_request"]
    assert word_error_rate(FOX, (await pipeline.transcribe(upload(wav(say(FOX))), Options())).text) == 0


async def test_a_language_or_task_that_the_model_does_not_know_is_refused(pipeline: Pipeline) -> None:
    assert "'de'" in (await refused(pipeline, upload(b""), Options(language="de"))).message
    assert "multilingual" in (await refused(pipeline, upload(b""), Options(task="translate"))).message


async def test_the_language_of_a_long_file_is_settled_by_its_beginning(base_folder: Path) -> None:
    base = build(settings(model_id=str(base_folder), dtype="auto"))
    try:
        got = await base.transcribe(upload(wav(STORY)), Options())
    finally:
        base.close()
    assert got.language == "en"
    assert got.language_probability is not None
    assert got.language_probability > 0.9
    assert word_error_rate(" ".join(SENTENCES * 2), got.text) <= 0.05


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def fake(engine: FakeEngine) -> Iterator[Pipeline]:
    made = Pipeline(engine, settings(batch_size=2, max_requests=3))
    yield made
    engine.go.set()
    made.close()


ALL = Options(vad=False)
NOISE = wav((0.1 * np.random.default_rng(0).standard_normal(600 * SAMPLE_RATE)).astype(np.float32))


async def admitted(engine: FakeEngine) -> None:
    await asyncio.to_thread(engine.admitted.acquire)


async def test_cancelling_frees_the_slots_and_leaves_other_requests_alone(fake: Pipeline, engine: FakeEngine) -> None:
    engine.go.clear()
    long = asyncio.create_task(fake.transcribe(upload(NOISE), ALL))
    await admitted(engine)
    await admitted(engine)
    other = asyncio.create_task(fake.transcribe(upload(wav(say(FOX))), ALL))
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    await admitted(engine)
    assert len(engine.dropped) == 2
    engine.go.set()
    assert (await other).text == "4320"


async def test_a_long_file_is_not_read_ahead_of_the_engine(fake: Pipeline, engine: FakeEngine) -> None:
    engine.go.clear()
    file = io.BytesIO(NOISE)
    task = asyncio.create_task(fake.transcribe(AudioSource(file=file), ALL))
    await admitted(engine)
    for _ in range(3):  # eight windows may wait, of twenty
        await asyncio.to_thread(fake.threads.submit(lambda: None).result)
    assert file.tell() < len(NOISE) / 2
    engine.go.set()
    assert len((await task).segments) >= 20
    assert file.tell() >= len(NOISE)


async def test_a_failing_engine_fails_what_runs_and_takes_the_next(fake: Pipeline, engine: FakeEngine) -> None:
    engine.failure = OutOfMemory("expected less")
    assert (await refused(fake, upload(NOISE), ALL)).code == "out_of_memory"
    engine.failure = RuntimeError("boom")
    assert (await refused(fake, upload(NOISE), ALL)).code == "internal"
    engine.failure = None
    assert (await fake.transcribe(upload(wav(say(FOX))), ALL)).text == "4320"


async def test_a_device_out_of_memory_goes_on_with_half_of_the_rows_and_loses_nothing(engine: FakeEngine) -> None:
    expected = Pipeline(FakeEngine(), settings())
    engine.max_batch_size = engine.encode_batch_size = 8
    engine.holds = 2
    made = Pipeline(engine, settings())
    try:
        engine.go.clear()
        task = asyncio.create_task(made.transcribe(upload(NOISE), ALL))
        while engine.max_batch_size > 2:
            await admitted(engine)
        engine.go.set()
        got = await task
        assert got.text == (await expected.transcribe(upload(NOISE), ALL)).text
        assert engine.max_batch_size == 2
        engine.holds = 0
        wide = await refused(made, upload(NOISE), replace(ALL, beam_size=2))
        assert (wide.code, wide.retryable) == ("out_of_memory", True)
        assert engine.max_batch_size == 1
        with pytest.raises(OutOfMemory):  # asked for when there were more rows
            made.runner.submit("late", Window(0, say(FOX), params=DecodingParams(num_hypotheses=2)))
        engine.holds = 1
        assert (await made.transcribe(upload(NOISE), ALL)).text == got.text
    finally:
        made.close()
        expected.close()


async def test_more_requests_than_allowed_are_overloaded(fake: Pipeline, engine: FakeEngine) -> None:
    engine.go.clear()
    tasks = [asyncio.create_task(fake.transcribe(upload(wav(say(FOX))), ALL)) for _ in range(3)]
    await admitted(engine)
    error = await refused(fake, upload(wav(say(FOX))), ALL)
    assert (error.code, error.retryable) == ("overloaded", True)
    engine.go.set()
    assert len(await asyncio.gather(*tasks)) == 3


async def test_what_an_engine_leaves_of_a_window_is_decoded_next(fake: Pipeline, engine: FakeEngine) -> None:
    engine.seek_s = 10.0
    got = await fake.transcribe(upload(NOISE[: 44 + 25 * 2 * SAMPLE_RATE]), ALL)
    assert [segment.start for segment in got.segments] == [0, 10, 20]


async def test_a_repetition_that_was_cut_is_told_in_words(fake: Pipeline, engine: FakeEngine) -> None:
    engine.evidence = Evidence(-0.1, 0.0, 9.0, 0.0, 99, looped=True)
    got = await fake.transcribe(upload(NOISE[: 44 + 5 * 2 * SAMPLE_RATE]), ALL)
    assert len(got.warnings) == 1 + 1  # the file is cut off, too
    assert "repeat itself" in got.warnings[1]


async def test_a_device_that_fails_again_and_again_is_lost_and_says_so_at_once(fake: Pipeline, engine: FakeEngine) -> None:
    engine.failure = RuntimeError("boom")
    codes = [(await refused(fake, upload(NOISE), ALL)).code for _ in range(3)]
    assert codes == ["internal", "internal", "device_lost"]
    assert fake.runner.fault is not None
    engine.failure = None
    assert "the device is lost" in (await refused(fake, upload(NOISE), ALL)).message


async def test_windows_are_not_kept_when_they_are_done(fake: Pipeline, engine: FakeEngine) -> None:
    await fake.transcribe(upload(NOISE), ALL)
    gc.collect()
    assert sum(type(item) is Window for item in gc.get_objects()) <= 2


async def test_closing_ends_a_request_that_waits_for_a_download(engine: FakeEngine, web: Web) -> None:
    house = Pipeline(engine, settings())
    task = asyncio.create_task(house.transcribe(AudioSource(url=web.url + "/hang"), Options()))
    await asyncio.to_thread(web.asked.wait)
    await asyncio.to_thread(house.close)
    with pytest.raises(Cancelled):
        await task


async def test_audio_over_the_cap_is_too_long(engine: FakeEngine) -> None:
    short = Pipeline(engine, settings(max_duration_s=60))
    assert (await refused(short, upload(NOISE), ALL)).code == "too_long"
    short.close()


async def test_a_request_that_takes_too_long_ends(engine: FakeEngine, web: Web) -> None:
    hasty = Pipeline(engine, settings(request_timeout_s=0.2))
    try:
        late = await refused(hasty, AudioSource(url=web.url + "/hang"))
    finally:
        await asyncio.to_thread(hasty.close)
    assert (late.code, late.retryable) == ("deadline_exceeded", True)
    assert "REQUEST_TIMEOUT_S" in late.message


@pytest.mark.parametrize("channels", [1, 2])
async def test_a_window_is_decoded_after_the_text_of_the_one_before(fake: Pipeline, engine: FakeEngine, channels: int) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(100 * SAMPLE_RATE)).astype(np.float32)
    options = replace(ALL, prompt="First.", condition_on_previous_text=True, channels="split" if channels > 1 else "mix")
    got = await fake.transcribe(upload(wav(noise, channels=channels)), options)
    assert {segment.channel for segment in got.segments} == ({None} if channels == 1 else {0, 1})
    for channel in {segment.channel for segment in got.segments}:
        said = "First."
        for start, how in ((start, how) for of, start, how in engine.taken if of == channel):
            assert how.prompt == said
            said += f" {start}"
        assert said.count(" ") == 4


@pytest.mark.parametrize("evidence", [Evidence(-0.1, 0.0, 1.0, 0.6, 9, looped=False), Evidence(-0.1, 0.0, 9.0, 0.0, 9, looped=True)])
async def test_a_text_that_was_guessed_is_forgotten_for_the_next_window(fake: Pipeline, engine: FakeEngine, evidence: Evidence) -> None:
    engine.evidence = evidence
    options = replace(ALL, prompt="First.", condition_on_previous_text=True)
    await fake.transcribe(upload(NOISE), options)
    assert {how.prompt for _, _, how in engine.taken} == {"First."}


async def test_a_temperature_that_was_asked_for_is_no_guess(fake: Pipeline, engine: FakeEngine) -> None:
    engine.evidence = Evidence(-0.1, 0.0, 1.0, 0.8, 9, looped=False)
    await fake.transcribe(upload(NOISE), replace(ALL, temperature=0.8, condition_on_previous_text=True))
    assert len({how.prompt for _, _, how in engine.taken}) >= 20


async def test_what_is_left_of_a_window_is_decoded_after_what_was_said_of_it(fake: Pipeline, engine: FakeEngine) -> None:
    engine.seek_s = 10.0
    await fake.transcribe(upload(NOISE[: 44 + 25 * 2 * SAMPLE_RATE]), replace(ALL, condition_on_previous_text=True))
    assert [how.prompt.split() for _, _, how in engine.taken] == [[], ["0"], ["0", "160000"]]


async def test_closing_ends_open_requests_as_cancelled(engine: FakeEngine) -> None:
    house = Pipeline(engine, settings(batch_size=2))
    engine.go.clear()
    task = asyncio.create_task(house.transcribe(upload(NOISE), ALL))
    await admitted(engine)
    await asyncio.to_thread(house.close)
    with pytest.raises(Cancelled):
        await task


def test_a_chunk_longer_than_the_engine_takes_is_a_bad_setting(engine: FakeEngine) -> None:
    with pytest.raises(SettingsError, match="CHUNK_LENGTH_S"):
        Pipeline(engine, settings(chunk_length_s=31))


async def test_cancelling_a_download_that_hangs_returns_at_once(fake: Pipeline, web: Web) -> None:
    task = asyncio.create_task(fake.transcribe(AudioSource(url=web.url + "/trickle"), Options()))
    await asyncio.to_thread(web.asked.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
