"""Requests that want speakers: what they get in every form, and what others pay for it."""

import asyncio
import base64
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile

from handler.audio.source import AudioSource
from handler.audio.spool import Spool
from handler.errors import Cancelled, DeadlineExceeded, InvalidRequest
from handler.jobs.job_handler import JobHandler
from handler.output.formats import render
from handler.schema.options import Options
from handler.schema.speakers import SpeakerActivity, SpeakerCount, SpeakerModel
from handler.schema.transcript import Transcript
from handler.transcription.pipeline import Pipeline
from tests.conftest import ROOT, TINY, settings
from tests.support.asking import upload
from tests.support.conversations import Conversation, converse, error_rates
from tests.support.fake_engine import FakeEngine
from tests.support.serving import Server, serving
from tests.support.speech import container, wav


@pytest.fixture(scope="module")
def pipeline(pipeline: Pipeline, speaker_model: SpeakerModel) -> Iterator[Pipeline]:
    """The pipeline of the tests, with a model that tells speakers apart."""
    with_speakers = Pipeline(pipeline.engine, settings(), speaker_model=speaker_model)
    yield with_speakers
    with_speakers.close()


@pytest.fixture(scope="module")
def talk() -> Conversation:
    return converse(("reader", "story"), 8)


@pytest.fixture(scope="module")
def transcript(pipeline: Pipeline, talk: Conversation) -> Transcript:
    options = Options(diarize=True, timestamps="word")
    return asyncio.run(pipeline.transcribe(upload(wav(talk.samples)), options))


def test_words_have_their_speaker(transcript: Transcript, talk: Conversation) -> None:
    words = [word for segment in transcript.segments for word in segment.words]
    inside = [
        (word.speaker, turn.speaker)
        for word in words
        for turn in talk.turns
        if turn.start <= (word.start + word.end) / 2 <= turn.end
    ]
    assert len(inside) > 0.8 * len(words)
    assert np.mean([speaker == "AB"[number] for speaker, number in inside]) >= 0.97
    assert transcript.speakers == ("A", "B")
    assert all(len({word.speaker for word in segment.words}) == 1 for segment in transcript.segments)
    assert "".join(segment.text for segment in transcript.segments).strip() == transcript.text
    assert "diarize" in transcript.timing


@pytest.mark.parametrize(
    ("format", "first", "second"),
    [("text", "A: ", "\n\nB: "), ("srt", "\nA: ", "\nB: "), ("vtt", "\n<v A>", "\n<v B>"), ("tsv", "\tA\n", "\tB\n")],
)
def test_every_text_names_the_speakers(transcript: Transcript, format: str, first: str, second: str) -> None:
    text = str(render(transcript, format))
    assert text.find(first) < text.find(second)
    assert min(text.find(first), text.find(second)) >= 0


def test_json_has_the_speakers(transcript: Transcript) -> None:
    answer: Any = render(transcript, "verbose_json")
    assert answer["speakers"] == ["A", "B"]
    assert {chunk["speaker"] for chunk in answer["chunks"]} == {"A", "B"}
    assert {word["speaker"] for word in answer["chunks"][0]["words"]} == {answer["chunks"][0]["speaker"]}
    assert {segment["speaker"] for segment in answer["segments"]} == {"A", "B"}


async def test_without_the_option_nothing_names_a_speaker(pipeline: Pipeline, talk: Conversation) -> None:
    plain = await pipeline.transcribe(upload(wav(talk.samples)), Options(timestamps="word"))
    answer: Any = render(plain, "json")
    assert "speakers" not in answer
    assert "speaker" not in answer["chunks"][0]
    assert "speaker" not in answer["chunks"][0]["words"][0]
    assert "diarize" not in plain.timing


async def test_a_number_of_speakers_is_held(pipeline: Pipeline, talk: Conversation) -> None:
    one = await pipeline.transcribe(upload(wav(talk.samples)), Options(diarize=True, speakers=(1, 1)))
    assert one.speakers == ("A",)


async def test_times_count_from_the_beginning_of_the_audio(pipeline: Pipeline, talk: Conversation) -> None:
    second = next(turn for turn in talk.turns if turn.speaker == 1)
    later = await pipeline.transcribe(
        upload(wav(talk.samples)), Options(diarize=True, timestamps="word", start_at=second.start)
    )
    turns = [(segment.speaker, segment.start) for segment in later.segments]
    change = next(start for speaker, start in turns if speaker == "B")
    assert turns[0][0] == "A"
    third = next(turn for turn in talk.turns if turn.start > second.end and turn.speaker == 0)
    assert change == pytest.approx(third.start, abs=0.6)


async def test_each_channel_has_its_speakers(pipeline: Pipeline, talk: Conversation) -> None:
    other = converse(("computer",), 3).samples
    length = min(len(talk.samples), len(other))
    stereo = np.stack((talk.samples[:length], other[:length]), 1)
    file = io.BytesIO()
    soundfile.write(file, stereo, 16_000, format="FLAC")
    file.seek(0)
    both = await pipeline.transcribe(AudioSource(file=file), Options(diarize=True, channels="split"))
    by_channel = {segment.channel: set[str | None]() for segment in both.segments}
    for segment in both.segments:
        by_channel[segment.channel].add(segment.speaker)
    assert by_channel[1] == {"C"}
    assert by_channel[0] <= {"A", "B"}


async def test_a_model_that_fails_fails_its_request_alone(pipeline: Pipeline, talk: Conversation) -> None:
    class Faulty:
        def push(self, samples: object) -> None:
            raise ZeroDivisionError

        def finish(self, count: SpeakerCount) -> SpeakerActivity:
            raise AssertionError

    class FaultyModel:
        model_id = "faulty"
        max_speakers = 2
        compares_voices = False
        hears_streams = False

        def new_diarizer(self) -> Faulty:
            return Faulty()

        def new_online_diarizer(self) -> None:
            pass

    faulty = Pipeline(FakeEngine(), settings(), speaker_model=FaultyModel())
    source = upload(wav(talk.samples))
    with pytest.raises(Exception, match="a fault of this worker: ZeroDivisionError"):
        await faulty.transcribe(source, Options(diarize=True, vad=False))
    assert (await faulty.transcribe(upload(wav(talk.samples[:160_000])), Options(vad=False))).text
    faulty.close()


async def test_a_long_recording_waits_for_the_speakers_without_holding_all_of_it(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, talk: Conversation
) -> None:
    monkeypatch.setattr("handler.transcription.diarization.BLOCK_S", 1.0)
    monkeypatch.setattr("handler.transcription.diarization.MAX_WAITING", 2)
    again = await pipeline.transcribe(upload(wav(talk.samples)), Options(diarize=True))
    assert again.speakers == ("A", "B")


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline) as running_server:
        yield running_server


def test_the_openai_client_reads_who_speaks(server: Server, talk: Conversation) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    answer: Any = client.audio.transcriptions.create(
        file=("talk.flac", wav(talk.samples, format="FLAC")),
        model="gpt-4o-transcribe-diarize",
        response_format="diarized_json",
    )
    assert type(answer).__name__ == "TranscriptionDiarized"
    assert {segment.speaker for segment in answer.segments} == {"A", "B"}
    assert [segment.type for segment in answer.segments] == ["transcript.text.segment"] * len(answer.segments)
    assert "".join(segment.text for segment in answer.segments).strip() == answer.text
    assert answer.task == "transcribe"
    assert answer.duration == pytest.approx(len(talk.samples) / 16_000, abs=0.01)


def test_the_stream_of_the_openai_client_ends_with_who_speaks(server: Server, talk: Conversation) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    stream: Any = client.audio.transcriptions.create(
        file=("talk.flac", wav(talk.samples, format="FLAC")),
        model="gpt-4o-transcribe-diarize",
        response_format="diarized_json",
        stream=True,
    )
    events = list(stream)
    segments = [event for event in events if event.type == "transcript.text.segment"]
    assert {segment.speaker for segment in segments} == {"A", "B"}
    assert events[-1].type == "transcript.text.done"
    assert "".join(segment.text for segment in segments).strip() == events[-1].text
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta").strip() == events[-1].text


def test_events_of_asr_name_speakers_at_the_end(server: Server, talk: Conversation) -> None:
    answer = httpx.post(
        f"{server.url}/asr?diarize=true",
        content=container(talk.samples, "mp3", "libmp3lame"),
        headers={"Accept": "text/event-stream"},
        timeout=120,
    )
    progress, done = answer.text.rsplit("event: done", 1)
    assert '"speaker"' not in progress
    assert '"speaker":"B"' in done.replace(" ", "")


async def test_a_streamed_job_tells_its_segments_when_their_speakers_are_known(
    pipeline: Pipeline, talk: Conversation
) -> None:
    async def discard(job_id: str, content: object) -> None:
        pass

    handler = JobHandler(pipeline, settings(), discard, lambda: None)
    audio = base64.b64encode(wav(talk.samples, format="FLAC")).decode()
    job = {"id": "j", "input": {"audio_base64": audio, "diarize": True, "speakers": "1-3"}}
    answer = await handler.answer(job)
    assert answer["speakers"] == ["A", "B"]
    parts = [part async for part in handler.stream(job)]
    assert [chunk for part in parts for chunk in part.get("chunks", [])] == answer["chunks"]
    assert parts[-1]["speakers"] == ["A", "B"]


async def test_a_partial_transcript_has_the_speakers_who_were_heard(pipeline: Pipeline, talk: Conversation) -> None:
    samples = talk.samples
    with Spool(10**8) as spool:
        spool.write(wav(samples))  # and never its end
        partly = await pipeline.transcribe(
            AudioSource(growing=spool), Options(diarize=True, partial=True, timestamps="word"), limit_s=6.0
        )
    assert partly.resume_at is not None
    assert partly.speakers == ("A", "B")
    assert "deadline_exceeded" in partly.warnings[0]


@contextmanager
def other_recording(pipeline: Pipeline) -> Iterator[None]:
    """Let the speakers of another recording take as long as the block."""
    threads = pipeline.resources.speaker_threads
    assert threads is not None
    release = threading.Event()
    threads.submit(release.wait, 60)
    try:
        yield
    finally:
        release.set()


async def test_speakers_count_towards_the_deadline(pipeline: Pipeline, talk: Conversation) -> None:
    with other_recording(pipeline), pytest.raises(DeadlineExceeded, match="the speakers were not told apart by then"):
        await pipeline.transcribe(upload(wav(talk.samples[:64_000])), Options(diarize=True), limit_s=3.0)


@pytest.mark.parametrize("seconds", [8.0, 16.0])
async def test_audio_that_ends_with_a_block_waits_its_turn(
    pipeline: Pipeline, talk: Conversation, seconds: float
) -> None:
    with other_recording(pipeline):
        task = asyncio.create_task(
            pipeline.transcribe(upload(wav(talk.samples[: round(seconds * 16_000)])), Options(diarize=True))
        )
        await asyncio.to_thread(lambda: None)
    assert (await task).speakers


async def test_a_worker_that_shuts_down_says_so(talk: Conversation, speaker_model: SpeakerModel) -> None:
    stopping = Pipeline(FakeEngine(), settings(), speaker_model=speaker_model)
    threads = stopping.resources.speaker_threads
    assert threads is not None
    release = threading.Event()
    threads.submit(release.wait, 60)
    task = asyncio.create_task(
        stopping.transcribe(upload(wav(talk.samples[:64_000])), Options(diarize=True, vad=False))
    )
    while not threads._work_queue.qsize():
        await asyncio.to_thread(lambda: None)
    await asyncio.to_thread(stopping.close)
    release.set()
    with pytest.raises(Cancelled, match="shutting down"):
        await task


async def test_diarize_without_a_model_is_refused(pipeline: Pipeline) -> None:
    without = Pipeline(pipeline.engine, settings())
    with pytest.raises(InvalidRequest, match="DIARIZE_MODEL") as refusal:
        await without.transcribe(upload(b""), Options(diarize=True))
    assert refusal.value.field == "diarize"
    assert not without.capabilities.diarization
    assert pipeline.capabilities.diarization
    without.runner.close()


def test_speakers_are_told_apart_well(pipeline: Pipeline, talk: Conversation) -> None:
    model = pipeline.resources.speaker_model
    assert model is not None
    diarizer = model.new_diarizer()
    diarizer.push(talk.samples)
    error_rate, _ = error_rates(talk.turns, diarizer.finish(SpeakerCount()).turns())
    assert error_rate < 0.06


WITHOUT = """
import sys
from handler.settings import Settings
from handler.startup.bootstrap import build
pipeline = build(Settings(model_id=sys.argv[1], device="cpu", startup_check=False))
pipeline.close()
print([name for name in sys.modules if name.startswith(("scipy", "handler.speakers"))])
"""


def test_who_wants_no_speakers_loads_nothing_for_them(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT, TINY], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip().splitlines()[-1] == "[]"
