"""Deepgram's API over real sockets, live and for files, with its public client and without."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from handler.transcription.pipeline import Pipeline
from tests.support.live import joined, quiet
from tests.support.realtime_client import pcm
from tests.support.serving import TIMEOUT_S, Server, serving
from tests.support.speech import FOX, PANGRAM, SENTENCES, say, wav
from tests.support.web import Web
from tests.support.word_errors import word_error_rate

# The public client uses old parts of its libraries.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets", "ignore::DeprecationWarning:deepgram")
KEY = "hunter2"
QUERY = "model=nova-3&encoding=linear16&sample_rate=16000"
SPEECH = joined(say(FOX), quiet(1))
FILE = wav(joined(say(FOX), quiet(1), say(PANGRAM)), format="FLAC")


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, api_keys=(KEY,)) as running_server:
        yield running_server


class Listener:
    """One connection, and the messages that have come by it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    async def until(self, kind: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), TIMEOUT_S))
            self.messages.append(message)
            if message["type"] == kind:
                return message

    async def until_final(self) -> dict[str, Any]:
        """Return the next result that ends a turn."""
        while not (result := await self.until("Results"))["speech_final"]:
            pass
        return result

    async def send(self, kind: str) -> None:
        await self.socket.send(json.dumps({"type": kind}))


@asynccontextmanager
async def listening(server: Server, query: str = QUERY, **options: Any) -> AsyncIterator[Listener]:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/listen?{query}"
    options.setdefault("additional_headers", {"Authorization": f"Token {KEY}"})
    async with connect(url, **options) as socket:
        yield Listener(socket)


def text_of(result: dict[str, Any]) -> str:
    return str(result["channel"]["alternatives"][0]["transcript"])


async def test_a_turn_ends_with_a_final_result(server: Server) -> None:
    async with listening(server) as listener:
        await listener.socket.send(pcm(SPEECH, 16_000))
        result = await listener.until_final()
    assert text_of(result) == "the quick brown fox jumps over the lazy dog"
    assert (result["is_final"], result["from_finalize"], result["channel_index"]) == (True, False, [0, 1])
    words = result["channel"]["alternatives"][0]["words"]
    assert [word["word"] for word in words] == text_of(result).split()
    assert all(word["start"] < word["end"] for word in words)
    assert "punctuated_word" not in words[0]
    assert result["start"] <= words[0]["start"]
    assert words[-1]["end"] <= result["start"] + result["duration"] + 0.1
    assert all(message["is_final"] for message in listener.messages)


@pytest.mark.parametrize("option", ["punctuate=true", "smart_format=True"])
async def test_punctuation_is_written_if_it_is_asked_for(server: Server, option: str) -> None:
    async with listening(server, f"{QUERY}&{option}") as listener:
        await listener.socket.send(pcm(SPEECH, 16_000))
        result = await listener.until_final()
    assert text_of(result).endswith("lazy dog.")
    assert result["channel"]["alternatives"][0]["words"][-1]["punctuated_word"] == "dog."


async def test_interim_results_grow(server: Server) -> None:
    async with listening(server, f"{QUERY}&interim_results=true&vad_events=true&endpointing=500") as listener:
        speech = pcm(joined(say(PANGRAM), quiet(1)), 16_000)
        for start in range(0, len(speech), 16_000):
            await listener.socket.send(speech[start : start + 16_000])
            if start == 64_000:  # two seconds
                await listener.until("Results")
        final = await listener.until_final()
    kinds = [message["type"] for message in listener.messages]
    assert kinds[0] == "SpeechStarted"
    interim = [message for message in listener.messages if message["type"] == "Results" and not message["is_final"]]
    assert interim
    assert not any(message["speech_final"] for message in interim)
    assert word_error_rate(PANGRAM, text_of(final)) == 0


async def test_utterance_end_follows_the_last_word(server: Server) -> None:
    async with listening(server, f"{QUERY}&interim_results=true&utterance_end_ms=1000") as listener:
        await listener.socket.send(pcm(SPEECH, 16_000))
        final = await listener.until_final()
        await listener.socket.send(pcm(quiet(2), 16_000))
        end = await listener.until("UtteranceEnd")
    assert end["last_word_end"] == final["channel"]["alternatives"][0]["words"][-1]["end"]


async def test_finalize_completes_what_has_been_said(server: Server) -> None:
    async with listening(server, f"{QUERY}&endpointing=false") as listener:
        await listener.socket.send(pcm(say(FOX), 16_000))
        await listener.send("Finalize")
        result = await listener.until_final()
        assert result["from_finalize"]
        assert word_error_rate(FOX, text_of(result)) == 0
        await listener.send("Finalize")  # with nothing to complete
        assert text_of(await listener.until_final()) == ""
        await listener.socket.send(pcm(say(PANGRAM), 16_000))
        await listener.send("CloseStream")
        assert word_error_rate(PANGRAM, text_of(await listener.until_final())) == 0


async def test_the_end_of_a_stream_is_a_last_result_metadata_and_a_close(server: Server) -> None:
    async with listening(server, f"{QUERY}&tag=a&extra=k:v") as listener:
        await listener.send("KeepAlive")
        await listener.socket.send(pcm(say(FOX), 16_000))
        await listener.send("CloseStream")
        metadata = await listener.until("Metadata")
        with pytest.raises(ConnectionClosed):
            await listener.socket.recv()
        assert listener.socket.close_code == 1000
    assert [message["type"] for message in listener.messages] == ["Results", "Metadata"]
    assert metadata["duration"] == pytest.approx(len(say(FOX)) / 16_000, abs=0.05)
    assert metadata["request_id"] == listener.messages[0]["metadata"]["request_id"]
    assert (metadata["tags"], metadata["extra"]) == (["a"], {"k": "v"})


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
async def test_encodings_of_telephones(server: Server, encoding: str, subtype: str) -> None:
    async with listening(server, f"encoding={encoding}&sample_rate=8000") as listener:
        await listener.socket.send(wav(say(FOX), 8_000, subtype, "RAW"))
        await listener.send("CloseStream")
        assert word_error_rate(FOX, text_of(await listener.until("Results"))) <= 0.12


@pytest.mark.parametrize("message", ["{", "[]", '{"type": "Configure"}'])
async def test_a_message_that_is_not_known_is_an_error(server: Server, message: str) -> None:
    async with listening(server) as listener:
        await listener.socket.send(message)
        assert (await listener.until("Error"))["variant"] == "SchemaError"
        await listener.socket.send(pcm(SPEECH, 16_000))  # and the stream goes on
        await listener.until_final()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("model=nova-3", "encoding"),
        (f"{QUERY}&model=nova-9", "model"),
        (f"{QUERY}&channels=2", "channels"),
        (f"{QUERY}&diarize=true", "diarize"),
        (f"{QUERY}&numerals=true", "numerals"),
        (f"{QUERY}&redact=pci", "redact is for files alone"),
        (f"{QUERY}&endpointing=x", "endpointing"),
        (f"{QUERY}&language=klingon", "language"),
        (f"{QUERY}&colour=red", "colour"),
        ("encoding=linear16", "sample_rate"),
    ],
)
async def test_an_option_that_is_not_done_is_refused_by_name(server: Server, query: str, named: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with listening(server, query):
            pass
    assert refusal.value.response.status_code in (400, 404)
    body = json.loads(refusal.value.response.body or b"")
    assert named in body["err_msg"]


async def test_options_that_are_off_may_be_named(server: Server) -> None:
    async with listening(server, f"{QUERY}&numerals=false&filler_words=false&profanity_filter=False"):
        pass


async def test_a_key_is_needed(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with listening(server, additional_headers={"Authorization": "Token wrong"}):
            pass
    assert refusal.value.response.status_code == 401
    protocols: Any = ["token", KEY]
    async with listening(server, additional_headers={}, subprotocols=protocols) as listener:
        assert listener.socket.subprotocol == "token"


async def test_keyterms_guide_the_spelling(server: Server) -> None:
    async with listening(server, f"{QUERY}&keyterm=Foks&keyterm=quick+brown+Foks&punctuate=true") as listener:
        await listener.socket.send(pcm(SPEECH, 16_000))
        assert "Foks" in text_of(await listener.until_final())


def environment_of(server: Server) -> DeepgramClientEnvironment:
    socket = server.url.replace("http", "ws", 1)
    return DeepgramClientEnvironment(base=server.url, production=socket, agent=socket, agent_rest=server.url)


def test_the_synchronous_client_live(server: Server) -> None:
    client = DeepgramClient(api_key=KEY, environment=environment_of(server))
    results: list[Any] = []
    with client.listen.v1.connect(
        model="nova-3", encoding="linear16", sample_rate=16_000, interim_results=True, punctuate=True, endpointing=300
    ) as connection:
        connection.on(EventType.MESSAGE, results.append)
        thread = threading.Thread(target=connection.start_listening)
        thread.start()
        connection.send_media(pcm(SPEECH, 16_000))
        connection.send_close_stream()
        thread.join(TIMEOUT_S)
    finals = [each for each in results if each.type == "Results" and each.is_final]
    assert word_error_rate(FOX, finals[0].channel.alternatives[0].transcript) == 0
    assert finals[0].metadata.model_info.arch == "asr-handler"
    assert results[-1].type == "Metadata"


async def test_the_asynchronous_client_live(server: Server) -> None:
    client = AsyncDeepgramClient(api_key=KEY, environment=environment_of(server))
    results: list[Any] = []
    async with client.listen.v1.connect(model="nova-3", encoding="linear16", sample_rate=16_000) as connection:
        connection.on(EventType.MESSAGE, results.append)
        listening_task = asyncio.create_task(connection.start_listening())
        await connection.send_media(pcm(SPEECH, 16_000))
        await connection.send_finalize()
        await connection.send_close_stream()
        await asyncio.wait_for(listening_task, TIMEOUT_S)
    texts = [each.channel.alternatives[0].transcript for each in results if each.type == "Results"]
    assert word_error_rate(FOX, " ".join(texts)) == 0


def test_the_client_for_files(server: Server) -> None:
    with httpx.Client(timeout=TIMEOUT_S) as http_client:
        client = DeepgramClient(api_key=KEY, environment=environment_of(server), httpx_client=http_client)
        answer: Any = client.listen.v1.media.transcribe_file(
            request=FILE, model="nova-3", smart_format=True, utterances=True, utt_split=0.4, keyterm=["fox"], tag=["a"]
        )
    content = answer.results.channels[0].alternatives[0]
    assert word_error_rate(f"{FOX} {PANGRAM}", content.transcript) == 0
    assert content.words[0].punctuated_word == "The"
    assert len(answer.results.utterances) == 2
    assert word_error_rate(PANGRAM, answer.results.utterances[1].transcript) == 0
    assert content.paragraphs.paragraphs[0].num_words == len(FOX.split()) + len(PANGRAM.split())
    assert answer.metadata.duration == pytest.approx(len(joined(say(FOX), quiet(1), say(PANGRAM))) / 16_000, abs=0.1)


def post(server: Server, query: str = "", **options: Any) -> httpx.Response:
    url = f"{server.url}/v1/listen?{query}"
    return httpx.post(url, headers={"Authorization": f"Token {KEY}"}, timeout=TIMEOUT_S, **options)


def test_a_file_by_its_address(server: Server, web: Web) -> None:
    answer = post(server, "punctuate=true", json={"url": web.put("/a.flac", FILE)})
    assert answer.status_code == 200
    assert "lazy dog." in answer.json()["results"]["channels"][0]["alternatives"][0]["transcript"]
    assert answer.headers["dg-request-id"] == answer.json()["metadata"]["request_id"]


def test_channels_of_a_file(server: Server) -> None:
    answer = post(server, "multichannel=true", content=wav(say(FOX), channels=2)).json()
    assert answer["metadata"]["channels"] == 2
    for channel in answer["results"]["channels"]:
        assert word_error_rate(FOX, channel["alternatives"][0]["transcript"]) == 0


def test_replacements_and_redaction_in_a_file(server: Server) -> None:
    query = "punctuate=true&replace=lazy dog:sleepy cat&redact=numbers"
    speech = wav(joined(say(FOX), quiet(1), say("My number is five five five one two three four.")))
    transcript = post(server, query, content=speech).json()["results"]["channels"][0]["alternatives"][0]["transcript"]
    assert "sleepy cat" in transcript
    assert "[DIGITS]" in transcript


def test_samples_without_a_header(server: Server) -> None:
    answer = post(server, "encoding=linear16&sample_rate=16000", content=pcm(say(SENTENCES[0]), 16_000)).json()
    assert word_error_rate(SENTENCES[0], answer["results"]["channels"][0]["alternatives"][0]["transcript"]) <= 0.1


@pytest.mark.parametrize(
    ("query", "options", "named"),
    [
        ("summarize=v2", {"content": FILE}, "summarize"),
        ("diarize=true", {"content": FILE}, "diarize"),
        ("replace=:x", {"content": FILE}, "replace"),
        ("redact=ssn", {"content": FILE}, "redact"),
        ("interim_results=true", {"content": FILE}, "interim_results"),
        ("", {"json": {"url": 1}}, "url"),
        ("", {"json": {"link": "a"}}, "url"),
        ("", {"content": b"no sound" * 100}, ""),
    ],
)
def test_a_file_request_that_is_not_done_says_why(
    server: Server, query: str, options: dict[str, Any], named: str
) -> None:
    answer = post(server, query, **options)
    assert answer.status_code == 400
    assert named in answer.json()["err_msg"]
    assert answer.json()["err_code"]
