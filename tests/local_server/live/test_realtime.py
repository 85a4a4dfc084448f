"""OpenAI's realtime API over real sockets: sessions, turns, errors, keys, cuts, and the real client."""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from handler.transcription.pipeline import Pipeline
from tests.conftest import TINY
from tests.support.live import joined, quiet
from tests.support.realtime_client import RealtimeClient, connected, pcm
from tests.support.serving import Server, read_metrics, serving, spawn_server, wait_until
from tests.support.speech import FOX, PANGRAM, say, wav
from tests.support.word_errors import word_error_rate

KEY = "hunter2"
HEADERS: dict[str, Any] = {"additional_headers": {"Authorization": f"Bearer {KEY}"}}
SPEECH = joined(say(FOX), quiet(1))
LOGPROBS = "item.input_audio_transcription.logprobs"


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def locked_server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, api_keys=(KEY,)) as running_server:
        yield running_server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RealtimeClient]:
    async with connected(server) as client:
        yield client


async def test_a_session_begins_with_its_configuration(client: RealtimeClient) -> None:
    session = client.events[0]["session"]
    assert session["type"] == "transcription"
    assert session["id"].startswith("sess_")
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    detection = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
    assert session["audio"]["input"]["turn_detection"] == detection


async def test_a_turn_is_told_in_the_order_of_openai(client: RealtimeClient) -> None:
    await client.append(pcm(SPEECH))
    completed = await client.until("completed")
    assert word_error_rate(FOX, completed["transcript"]) == 0
    assert client.told() == completed["transcript"]
    kinds = [event["type"].rpartition("input_audio_transcription.")[2] for event in client.events]
    order = list(dict.fromkeys(kind for kind in kinds if kind != "delta"))
    assert order == [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "completed",
    ]
    assert len({event["item_id"] for event in client.events if "item_id" in event}) == 1
    ids = [event["event_id"] for event in client.events]
    assert ids == [f"event_{number}" for number in range(1, len(ids) + 1)]
    assert completed["usage"] == {"type": "duration", "seconds": 4}
    assert [word["word"].lower() for word in completed["words"]][:2] == ["the", "quick"]


@pytest.mark.parametrize(
    ("format", "rate"),
    [({"type": "audio/pcm", "rate": 24_000}, 24_000), ({"type": "audio/pcm", "rate": 16_000}, 16_000)],
)
async def test_rates(client: RealtimeClient, format: dict[str, Any], rate: int) -> None:
    updated = await client.update(format=format, turn_detection=None)
    assert updated["session"]["audio"]["input"]["format"] == format
    await client.append(pcm(say(FOX), rate), rate)
    await client.send("input_audio_buffer.commit")
    assert word_error_rate(FOX, (await client.until("completed"))["transcript"]) == 0


@pytest.mark.parametrize(("name", "subtype"), [("audio/pcmu", "ULAW"), ("audio/pcma", "ALAW")])
async def test_encodings_of_telephones(client: RealtimeClient, name: str, subtype: str) -> None:
    await client.update(format={"type": name}, turn_detection=None)
    audio = base64.b64encode(wav(say(FOX), 8_000, subtype, "RAW")).decode()
    await client.send("input_audio_buffer.append", audio=audio)
    await client.send("input_audio_buffer.commit")
    assert word_error_rate(FOX, (await client.until("completed"))["transcript"]) <= 0.12


async def test_commits_and_items_refer_to_the_ones_before(client: RealtimeClient) -> None:
    await client.update(turn_detection=None)
    for text in (FOX, PANGRAM):
        await client.append(pcm(say(text)))
        await client.send("input_audio_buffer.commit")
        assert word_error_rate(text, (await client.until("completed"))["transcript"]) == 0
    first, second = client.of("input_audio_buffer.committed")
    assert first["previous_item_id"] is None
    assert second["previous_item_id"] == first["item_id"]


async def test_what_is_cleared_is_not_told(client: RealtimeClient) -> None:
    await client.update(turn_detection=None)
    await client.append(pcm(say(FOX)))
    await client.send("input_audio_buffer.clear")
    await client.until("input_audio_buffer.cleared")
    await client.append(pcm(say(PANGRAM)))
    await client.send("input_audio_buffer.commit")
    assert word_error_rate(PANGRAM, (await client.until("completed"))["transcript"]) == 0


async def test_log_probabilities_come_if_they_are_asked_for(client: RealtimeClient) -> None:
    updated = await client.update(include=[LOGPROBS], turn_detection=None)
    assert updated["session"]["include"] == [LOGPROBS]
    await client.append(pcm(say(FOX)))
    await client.send("input_audio_buffer.commit")
    completed = await client.until("completed")
    raw = b"".join(bytes(entry["bytes"]) for entry in completed["logprobs"])
    assert raw.decode().strip() == completed["transcript"]
    assert all(entry["logprob"] <= 0 for entry in completed["logprobs"])
    assert client.of("delta")[-1]["logprobs"]


async def test_keywords_and_a_prompt_guide_the_spelling(client: RealtimeClient) -> None:
    await client.update(transcription={"keywords": ["Foks"], "prompt": "The quick brown Foks."}, turn_detection=None)
    await client.append(pcm(say(FOX)))
    await client.send("input_audio_buffer.commit")
    assert "Foks" in (await client.until("completed"))["transcript"]


async def test_an_update_changes_what_it_has_and_keeps_the_rest(client: RealtimeClient) -> None:
    def transcription(updated: dict[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = updated["session"]["audio"]["input"]["transcription"]
        return {name: value for name, value in fields.items() if name not in ("model", "prompt")}

    await client.update(transcription={"keywords": ["Foks"], "language": "en"}, turn_detection=None)
    updated = await client.update(transcription={"delay": "high", "language": None})
    assert transcription(updated) == {"keywords": ["Foks"], "delay": "high", "language": None}
    assert updated["session"]["audio"]["input"]["turn_detection"] is None
    updated = await client.update(transcription={"keywords": None})
    assert transcription(updated) == {"delay": "high", "language": None}


async def test_one_language_takes_the_place_of_several_and_a_rate_stays(client: RealtimeClient) -> None:
    pcm_16 = {"type": "audio/pcm", "rate": 16_000}
    await client.update(transcription={"language": "en"}, format=pcm_16)
    several = await client.update(transcription={"languages": ["en"]}, format={"type": "audio/pcm"})
    assert several["session"]["audio"]["input"]["transcription"]["languages"] == ["en"]
    assert several["session"]["audio"]["input"]["format"] == pcm_16
    one = await client.update(transcription={"language": "en"}, format={"type": "audio/pcmu"})
    assert one["session"]["audio"]["input"]["transcription"]["language"] == "en"
    assert "languages" not in one["session"]["audio"]["input"]["transcription"]
    assert one["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    error = (await client.update(transcription={"language": "en", "languages": ["en"]}))["error"]
    assert error["param"] == "session.audio.input.transcription.languages"


async def test_the_delay_xhigh_tells_text_at_the_end_only(client: RealtimeClient) -> None:
    await client.update(transcription={"delay": "xhigh"}, turn_detection=None)
    await client.append(pcm(say(FOX)))
    await client.send("input_audio_buffer.commit")
    completed = await client.until("completed")
    assert [event["delta"] for event in client.of("delta")] == [completed["transcript"]]


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        ({"type": "nope"}, "invalid_value", "type"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
        ({"type": "input_audio_buffer.commit", "x": 1}, "unknown_parameter", "x"),
        ({"type": "input_audio_buffer.append"}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "a!"}, "invalid_request", "audio"),
        ({"type": "session.update"}, "invalid_value", "session"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "invalid_value", "session.type"),
    ],
)
async def test_an_event_that_is_not_done_is_an_error_that_names_it(
    client: RealtimeClient, event: dict[str, Any], code: str, param: str | None
) -> None:
    await client.send(event_id="mine", kind=event["type"], **{k: v for k, v in event.items() if k != "type"})
    error = (await client.until("error"))["error"]
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "mine")
    assert error["type"] == "invalid_request_error"
    await client.append(pcm(SPEECH))  # and the session goes on
    await client.until("completed")


@pytest.mark.parametrize("message", ["{", "[]", "1", "[" * 100_000])
async def test_a_message_that_is_no_json_object_is_an_error(client: RealtimeClient, message: str) -> None:
    await client.socket.send(message)
    assert (await client.until("error"))["error"]["code"] == "invalid_json"


async def test_a_binary_message_is_an_error(client: RealtimeClient) -> None:
    await client.socket.send(b"\0\0")
    assert (await client.until("error"))["error"]["code"] == "invalid_event"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("intent=conversation", 400),
        ("model=gpt-9", 404),
        ("temperature=1", 400),
        ("session=sess_1", 404),
        ("last_event_id=event_1", 400),
    ],
)
async def test_a_request_for_another_session_is_refused(server: Server, query: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with connected(server, query):
            pass
    assert refusal.value.response.status_code == status
    body = refusal.value.response.body
    assert body is not None
    assert json.loads(body)["error"]["message"]


@pytest.mark.parametrize("query", ["", "model=whisper-1", "intent=transcription&model=gpt-4o-transcribe"])
async def test_both_orders_of_connecting(server: Server, query: str) -> None:
    async with connected(server, query) as client:
        assert client.events[0]["type"] == "session.created"


async def test_a_key_is_needed_where_the_server_has_keys(locked_server: Server) -> None:
    refused: list[dict[str, Any]] = [{}, {"additional_headers": {"Authorization": "Bearer wrong"}}]
    for options in refused:
        with pytest.raises(InvalidStatus) as refusal:
            async with connected(locked_server, **options):
                pass
        assert refusal.value.response.status_code == 401
    async with connected(locked_server, **HEADERS):
        pass


async def test_a_browser_offers_its_key_as_a_subprotocol(locked_server: Server) -> None:
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    async with connected(locked_server, subprotocols=protocols, origin="https://a.example") as client:
        assert client.socket.subprotocol == "realtime"


async def test_a_page_of_another_origin_cannot_use_an_open_server(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with connected(server, origin="https://a.example"):
            pass
    assert refusal.value.response.status_code == 400
    async with connected(server, origin=server.url):
        pass


async def test_a_client_secret_opens_sessions_with_its_configuration(locked_server: Server) -> None:
    session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    api = openai.OpenAI(base_url=f"{locked_server.url}/v1", api_key=KEY)
    secret = api.realtime.client_secrets.create(
        session=session,  # type: ignore[arg-type]
        expires_after={"anchor": "created_at", "seconds": 60},
    )
    assert secret.value.startswith("ek_")
    protocols = ["realtime", f"openai-insecure-api-key.{secret.value}"]
    async with connected(locked_server, subprotocols=protocols) as client:
        assert client.events[0]["session"]["audio"]["input"]["turn_detection"] is None
    with pytest.raises(openai.AuthenticationError):  # it is for sessions only
        openai.OpenAI(base_url=f"{locked_server.url}/v1", api_key=secret.value).models.list()


@pytest.mark.parametrize(
    "body",
    [
        {"expires_after": {"seconds": 5}},
        {"expires_after": {"anchor": "now"}},
        {"session": {"type": "realtime"}},
        {"x": 1},
    ],
)
def test_a_client_secret_of_another_kind_is_refused(server: Server, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{server.url}/v1/realtime/client_secrets", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@asynccontextmanager
async def connected_again(server: Server, session_id: str, last_event_id: str) -> AsyncIterator[RealtimeClient]:
    """Connect to a session once the server has noticed that the last connection was cut."""
    query = f"session={session_id}&last_event_id={last_event_id}"
    while True:
        try:
            async with connected(server, query) as client:
                yield client
            return
        except InvalidStatus as exc:
            if exc.response.status_code != 404:
                raise


async def test_a_cut_session_goes_on_where_it_was(server: Server) -> None:
    data = pcm(joined(say(PANGRAM), quiet(1)))
    half = len(data) // 4 * 2
    async with connected(server) as client:
        await client.append(data[:half])
        await client.until("input_audio_buffer.speech_started")
        client.cut()
    session_id, last = client.events[0]["session"]["id"], client.events[-1]["event_id"]
    async with connected_again(server, session_id, last) as client:
        received = client.events[0]["session"]["received_bytes"]
        assert 0 < received <= half
        await client.append(data[received:])
        completed = await client.until("completed")
    assert word_error_rate(PANGRAM, completed["transcript"]) == 0
    assert client.told() == completed["transcript"]


async def test_events_that_got_lost_come_again(server: Server) -> None:
    async with connected(server) as client:
        await client.append(pcm(SPEECH))
        completed = await client.until("completed")
        client.cut()
    async with connected_again(server, client.events[0]["session"]["id"], "event_1") as again:
        assert (await again.until("completed")) == completed
        assert again.events[1:] == client.events[1:]


async def test_an_event_that_is_no_longer_held_cannot_be_gone_back_to(server: Server) -> None:
    async with connected(server) as client:
        client.cut()
    session_id = client.events[0]["session"]["id"]
    with pytest.raises(InvalidStatus) as refusal:
        async with connected_again(server, session_id, "event_99"):
            pass
    assert refusal.value.response.status_code == 400
    async with connected_again(server, session_id, "event_1"):  # the session still waits
        pass


async def test_a_session_that_its_client_closed_is_over(server: Server) -> None:
    async with connected(server) as client:
        pass
    with pytest.raises(InvalidStatus) as refusal:
        async with connected(server, f"session={client.events[0]['session']['id']}"):
            pass
    assert refusal.value.response.status_code == 404


async def test_there_is_room_for_so_many_sessions(pipeline: Pipeline) -> None:
    with serving(pipeline, max_sessions=1) as small_server:
        async with connected(small_server) as first:
            with pytest.raises(InvalidStatus) as refusal:
                async with connected(small_server):
                    pass
            assert refusal.value.response.status_code == 429
            assert read_metrics(small_server)["asr_live_sessions"] == 1
            await first.append(pcm(SPEECH))
            await first.until("completed")
        await asyncio.to_thread(wait_until, lambda: read_metrics(small_server)["asr_live_sessions"] == 0)
        async with connected(small_server):
            pass


@pytest.mark.parametrize("limit", [{"session_idle_s": 1.0}, {"session_limit_s": 1.0}])
async def test_a_session_whose_time_is_over_completes_its_text(pipeline: Pipeline, limit: dict[str, float]) -> None:
    with serving(pipeline, **limit) as hasty_server:
        async with connected(hasty_server) as client:
            await client.append(pcm(say(FOX)))
            error = (await client.until("error"))["error"]
            assert error["code"] == "session_expired"
            assert word_error_rate(FOX, client.of("completed")[0]["transcript"]) == 0
            with pytest.raises(ConnectionClosed):
                await client.until("none")
            assert client.socket.close_code == 1001


async def test_a_server_that_stops_completes_the_text_of_its_sessions() -> None:
    with spawn_server(DTYPE="float32") as (process, spawned):
        async with connected(spawned) as client:
            await client.append(pcm(say(FOX)))
            assert (await client.update())["type"] == "session.updated"  # so all audio before it has arrived
            process.send_signal(signal.SIGTERM)
            completed = await client.until("completed")
            assert word_error_rate(FOX, completed["transcript"]) == 0
            assert (await client.until("error"))["error"]["code"] == "session_expired"
            with pytest.raises(ConnectionClosed):
                await client.until("none")
            assert client.socket.close_code == 1001
        assert await asyncio.to_thread(process.wait) == 0


async def test_the_asynchronous_client_of_openai(locked_server: Server) -> None:
    api = openai.AsyncOpenAI(base_url=f"{locked_server.url}/v1", api_key=KEY)
    async with api.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        transcription = {"model": TINY, "language": "en"}
        audio = {"input": {"transcription": transcription, "turn_detection": {"type": "server_vad"}}}
        session: Any = {"type": "transcription", "audio": audio}
        await connection.session.update(session=session)
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm(SPEECH)).decode())
        told = transcript = ""
        async for event in connection:
            assert event.type != "error"
            if event.type == "conversation.item.input_audio_transcription.delta":
                told += event.delta or ""
            if event.type == "conversation.item.input_audio_transcription.completed":
                transcript = event.transcript
                break
        assert word_error_rate(FOX, transcript) == 0
        assert told == transcript
    await api.close()


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")  # of the client
def test_the_synchronous_client_of_openai(locked_server: Server) -> None:
    with (
        openai.OpenAI(base_url=f"{locked_server.url}/v1", api_key=KEY) as api,
        api.realtime.connect(model="gpt-4o-transcribe", extra_query={"intent": "transcription"}) as connection,
    ):
        assert connection.recv().type == "session.created"
        connection.input_audio_buffer.append(audio=base64.b64encode(pcm(say(FOX))).decode())
        connection.input_audio_buffer.commit()
        for event in connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                assert word_error_rate(FOX, event.transcript) == 0
                return
    raise AssertionError("the text did not come")


async def test_metrics_tell_of_sessions(server: Server) -> None:
    before = read_metrics(server)
    async with connected(server) as client:
        assert read_metrics(server)["asr_live_sessions"] >= 1
        await client.append(pcm(SPEECH))
        await client.until("completed")
    after = read_metrics(server)
    words = "asr_live_words_total"
    assert after[words] - before.get(words, 0) == len(FOX.split())
    assert after["asr_live_word_seconds_count"] - before["asr_live_word_seconds_count"] == len(FOX.split())
    assert after["asr_live_turn_seconds_count"] - before["asr_live_turn_seconds_count"] == 1
