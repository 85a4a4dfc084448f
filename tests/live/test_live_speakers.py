"""Speakers of live sessions: in events, in every protocol, and where there is no model for it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from websockets.asyncio.client import connect

from handler.errors import InvalidRequest
from handler.live.events import Completed, Failed, Hypothesis, Settled
from handler.live.live_session import LiveConfig
from handler.schema.options import Options
from handler.schema.speakers import SpeakerModel
from handler.schema.transcript import Segment
from handler.speakers.online_diarizer import OnlineChunkDiarizer
from handler.transcription.pipeline import Pipeline
from tests.conftest import settings
from tests.support.conversations import Conversation, converse
from tests.support.live import Listener
from tests.support.realtime_client import RealtimeClient, connected, pcm
from tests.support.serving import TIMEOUT_S, Server, serving

DIARIZE = LiveConfig(Options(timestamps="word", diarize=True))


@pytest.fixture(scope="module")
def pipeline(pipeline: Pipeline, speaker_model: SpeakerModel) -> Iterator[Pipeline]:
    """The pipeline of the tests, with a model that tells speakers apart."""
    with_speakers = Pipeline(pipeline.engine, settings(), speaker_model=speaker_model)
    yield with_speakers
    with_speakers.close()


@pytest.fixture(scope="module")
def talk() -> Conversation:
    return converse(("reader", "story"), 6, pause_s=0.9)


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline) as running_server:
        yield running_server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RealtimeClient]:
    async with connected(server) as client:
        yield client


def share_right(talk: Conversation, said: list[tuple[float, float, str | None]]) -> float:
    """Return the share of (start, end, speaker) whose speaker is whom the conversation has there; A speaks first."""
    right = 0
    for start, end, speaker in said:
        overlaps = dict.fromkeys(range(2), 0.0)
        for turn in talk.turns:
            overlaps[turn.speaker] += max(0.0, min(end, turn.end) - max(start, turn.start))
        right += speaker == "AB"[max(overlaps, key=overlaps.__getitem__)]
    return right / len(said)


def words_of(segments: tuple[Segment, ...]) -> list[tuple[float, float, str | None]]:
    return [(word.start, word.end, word.speaker) for segment in segments for word in segment.words]


async def test_each_word_has_its_speaker(pipeline: Pipeline, talk: Conversation) -> None:
    listener = Listener(pipeline, DIARIZE)
    await listener.hear(talk.samples)
    await listener.session.finish()
    completed = [event for event in listener.events if isinstance(event, Completed)]
    assert len(completed) >= 4
    said = [word for event in completed for word in words_of(event.segments)]
    assert len(said) > 40
    assert share_right(talk, said) > 0.9
    settled = [word for event in listener.events if isinstance(event, Settled) for word in words_of(event.segments)]
    assert settled == said


async def test_a_turn_does_not_wait_for_the_speakers_of_recordings(pipeline: Pipeline, talk: Conversation) -> None:
    threads, release = pipeline.resources.speaker_threads, threading.Event()
    assert threads is not None
    threads.submit(release.wait)
    listener = Listener(pipeline, DIARIZE)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await listener.hear(talk.samples[: 16 * 16_000])
            await listener.session.finish()
    finally:
        release.set()
    assert any(event.has_speakers for event in listener.events if isinstance(event, Settled))


async def test_words_are_told_before_their_speakers_are_known(pipeline: Pipeline, talk: Conversation) -> None:
    threads, release = pipeline.resources.live_speaker_threads, threading.Event()
    assert threads is not None
    threads.submit(release.wait)
    listener = Listener(pipeline, DIARIZE)
    await listener.hear(talk.samples[: 12 * 16_000])
    early = "".join(event.delta for event in listener.events if isinstance(event, Hypothesis))
    release.set()
    await listener.session.finish()
    assert len(early.split()) > 10
    assert not any(isinstance(event, Failed) for event in listener.events)


async def test_a_fault_of_the_speaker_model_costs_no_text(
    pipeline: Pipeline, talk: Conversation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OnlineChunkDiarizer, "hear", lambda *_: 1 / 0)
    listener = Listener(pipeline, DIARIZE)
    await listener.hear(talk.samples[: 12 * 16_000])
    await listener.session.finish()
    completed = next(event for event in listener.events if isinstance(event, Completed))
    assert completed.text
    assert "speakers were not told apart" in completed.warnings[0]
    assert "live_speakers_failed" in caplog.text


async def test_a_turn_that_is_cleared_leaves_the_speakers_as_they_were(pipeline: Pipeline, talk: Conversation) -> None:
    listener = Listener(pipeline, DIARIZE)
    await listener.hear(talk.samples[: 9 * 16_000])
    listener.session.clear()
    await listener.idle()
    await listener.hear(talk.samples[round(11.3 * 16_000) :])
    await listener.session.finish()
    completed = [event for event in listener.events if isinstance(event, Completed) and event.text]
    assert completed[0].segments[0].speaker == "A"  # the first one who is heard and not cleared
    assert {segment.speaker for event in completed for segment in event.segments} == {"A", "B"}


async def test_diarize_may_come_and_go_within_a_session(pipeline: Pipeline, talk: Conversation) -> None:
    listener = Listener(pipeline)
    await listener.hear(talk.samples[: 11 * 16_000])
    listener.session.config = DIARIZE
    await listener.hear(talk.samples[11 * 16_000 :])
    await listener.session.finish()
    settled = [event for event in listener.events if isinstance(event, Settled)]
    assert not settled[0].has_speakers
    assert settled[-1].has_speakers


async def test_without_diarize_nobody_is_named(pipeline: Pipeline, talk: Conversation) -> None:
    listener = Listener(pipeline)
    await listener.hear(talk.samples[: 6 * 16_000])
    await listener.session.finish()
    settled = [event for event in listener.events if isinstance(event, Settled)]
    assert not any(event.has_speakers for event in settled)
    assert {speaker for event in settled for *_, speaker in words_of(event.segments)} == {None}


@pytest.mark.parametrize("transcription", [{"diarize": True}, {"model": "gpt-4o-transcribe-diarize"}])
async def test_openai_tells_segments(
    client: RealtimeClient, talk: Conversation, transcription: dict[str, object]
) -> None:
    updated = await client.update(transcription=transcription)
    assert transcription.items() <= updated["session"]["audio"]["input"]["transcription"].items()
    await client.append(pcm(talk.samples))
    while len(client.of("completed")) < 6:
        await client.until("completed")
    segments = client.of("segment")
    assert share_right(talk, [(each["start"], each["end"], each["speaker"]) for each in segments]) == 1
    completed = client.of("completed")[0]
    own = [each for each in segments if each["item_id"] == completed["item_id"]]
    assert "".join(each["text"] for each in own).strip() == completed["transcript"]
    assert client.events.index(own[-1]) < client.events.index(completed)
    assert len({each["id"] for each in segments}) == len(segments)


async def test_openai_tells_no_segments_unless_they_are_asked_for(client: RealtimeClient, talk: Conversation) -> None:
    await client.append(pcm(talk.samples[: 16 * 16_000]))
    await client.until("completed")
    assert not client.of("segment")


@pytest.mark.parametrize("option", ["diarize=true", "diarize_model=latest"])
async def test_deepgram_numbers_the_speakers_of_words(server: Server, talk: Conversation, option: str) -> None:
    query = f"encoding=linear16&sample_rate=16000&{option}"
    async with connect(f"{server.url.replace('http', 'ws', 1)}/v1/listen?{query}") as socket:
        await socket.send(pcm(talk.samples, 16_000))
        await socket.send(json.dumps({"type": "CloseStream"}))
        results = [json.loads(message) async for message in socket]
    words = [
        word
        for result in results
        if result["type"] == "Results"
        for word in result["channel"]["alternatives"][0]["words"]
    ]
    assert share_right(talk, [(word["start"], word["end"], "AB"[word["speaker"]]) for word in words]) > 0.9


async def test_a_server_without_a_model_refuses_by_name(speaker_model: SpeakerModel, pipeline: Pipeline) -> None:
    bare = Pipeline(pipeline.engine, settings())
    with serving(bare) as server:
        async with connected(server) as client:
            await client.send(
                "session.update",
                session={"type": "transcription", "audio": {"input": {"transcription": {"diarize": True}}}},
            )
            error = (await client.until("error"))["error"]
    bare.close()
    assert error["param"] == "session.audio.input.transcription.diarize"
    assert "DIARIZE_MODEL" in error["message"]


def test_a_model_that_hears_whole_recordings_only_is_named(
    pipeline: Pipeline, speaker_model: SpeakerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(speaker_model), "hears_streams", False)
    whole = Pipeline(pipeline.engine, settings(), speaker_model=speaker_model)
    whole.check(DIARIZE.options)
    with pytest.raises(InvalidRequest, match="whole recordings only") as error:
        whole.check_live(DIARIZE.options)
    whole.close()
    assert error.value.field == "diarize"
