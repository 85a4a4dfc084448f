"""Many sessions that come, are cut, go on and end at random leave nothing behind; a WebSocket's head is checked."""

import asyncio
import random
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from handler.transcription.pipeline import Pipeline
from local_server.live.client_secrets import MAX_SECRETS, ClientSecrets
from local_server.live.realtime_config import RealtimeConfig
from tests.support.raw_client import RawClient
from tests.support.realtime_client import connected, pcm
from tests.support.serving import Server, read_metrics, serving, wait_until
from tests.support.speech import FOX, say

UPGRADE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, session_resume_s=1.0) as running_server:
        yield running_server


async def test_sessions_that_end_in_every_way_leave_nothing_behind(server: Server, pipeline: Pipeline) -> None:
    chance = random.Random(0)
    audio = pcm(say(FOX))

    async def visit() -> None:
        query = "intent=transcription"
        for _ in range(chance.randrange(1, 4)):
            try:
                async with connected(server, query) as client:
                    if chance.random() < 0.7:
                        await client.append(audio[: chance.randrange(len(audio)) // 2 * 2])
                    if chance.random() < 0.3:
                        await client.send("input_audio_buffer.commit")
                    if chance.random() < 0.3:
                        await client.send("input_audio_buffer.clear")
                    if chance.random() < 0.6:
                        client.cut()
            except (ConnectionClosed, InvalidStatus):  # a session that is not known to be cut yet
                continue
            query = f"session={client.events[0]['session']['id']}"

    async with httpx.AsyncClient() as http_client:
        visits = [asyncio.create_task(visit()) for _ in range(40)]
        while not all(task.done() for task in visits):
            assert (await http_client.get(f"{server.url}/hc")).status_code == 200
        await asyncio.gather(*visits)
    await asyncio.to_thread(wait_until, lambda: read_metrics(server)["asr_live_sessions"] == 0)
    wait_until(lambda: pipeline.runner.load() == (0, 0))


def test_a_websocket_on_an_unknown_path_is_refused(server: Server) -> None:
    with RawClient(server) as client:
        client.send(UPGRADE.replace(b"/v1/realtime", b"/asr"))
        assert client.receive().status in (403, 404)


@pytest.mark.parametrize("line", [b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"])
def test_a_head_that_lacks_a_line_is_refused(server: Server, line: bytes) -> None:
    with RawClient(server) as client:
        client.send(UPGRADE.replace(line, b""))
        assert client.receive().status in (400, 426)


def test_a_websocket_behind_a_request_that_is_not_answered_is_refused(server: Server) -> None:
    with RawClient(server) as client:
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n" + UPGRADE)
        assert client.receive().status == 200
        assert client.receive().status == 400


def test_a_key_is_valid_until_it_expires() -> None:
    now = 0.0
    client_secrets = ClientSecrets(lambda: now)
    secret = client_secrets.create(RealtimeConfig(), 60)
    assert client_secrets.find(secret.value) == secret
    now = 61.0
    assert client_secrets.find(secret.value) is None


def test_so_many_keys_are_known() -> None:
    client_secrets = ClientSecrets()
    first = client_secrets.create(RealtimeConfig(), 60)
    for _ in range(MAX_SECRETS):
        last = client_secrets.create(RealtimeConfig(), 60)
    assert client_secrets.find(first.value) is None
    assert client_secrets.find(last.value) is not None
