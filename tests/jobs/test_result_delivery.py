"""Uploads of results to places that do not take them: each ends, and says whether to try again."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable

import pytest
import requests

from handler.audio.fetch import Fetcher
from handler.audio.transfer import Transfer
from handler.errors import UploadFailed, UploadRefused
from handler.jobs import result_delivery
from handler.jobs.job import parse_job
from handler.jobs.object_store import UploadTarget, upload
from handler.jobs.result_delivery import deliver
from tests.conftest import settings
from tests.support.loopback import RawServer

END = b"\1"  # of a body of zeros
Answer = Callable[[socket.socket, threading.Event], None]


def silence(connection: socket.socket, released: threading.Event) -> None:
    while connection.recv(65536):  # returns nothing when the client has ended the connection
        pass


def drip(connection: socket.socket, released: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
    while not released.wait(0.01):
        connection.sendall(b"a")


@pytest.fixture(autouse=True)
def private_addresses_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    Fetcher.prepare()  # the first import takes longer than the uploads below
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")


async def send_result(url: str) -> dict[str, object]:
    event = {"id": "1", "input": {"audio_base64": "AA==", "upload": "always", "upload_url": url}}
    return await deliver({"text": "a"}, parse_job(event, settings()), settings())


@pytest.mark.parametrize("job_id", ["", "..", "a/../b?c#d", "\r\n", "\ud800", "ü" * 1000])
async def test_a_result_is_stored_whatever_the_id_of_its_job(s3: str, job_id: str) -> None:
    config = {"endpointUrl": s3, "bucketName": "calls", "accessId": "test", "accessSecret": "hunter2"}
    event = {"id": job_id, "input": {"audio_base64": "AA==", "upload": "always"}, "s3Config": config}
    summary = await deliver({"text": "a"}, parse_job(event, settings()), settings())
    response = await asyncio.to_thread(requests.get, summary["result"]["url"], timeout=30)
    assert response.json() == {"text": "a"}


@pytest.mark.parametrize("answer", [silence, drip])
async def test_an_upload_that_never_ends_is_ended_with_its_connection(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_delivery, "UPLOAD_TIMEOUT_S", 0.2)
    with RawServer(answer) as server:
        with pytest.raises(UploadFailed, match=r"not taken within 0\.2 s"):
            await send_result(f"http://{server.address}/a")
        assert await asyncio.to_thread(server.disconnected.wait, 30)


async def test_the_upload_of_a_cancelled_job_is_ended() -> None:
    has_begun = threading.Event()

    def answer(connection: socket.socket, released: threading.Event) -> None:
        has_begun.set()
        silence(connection, released)

    with RawServer(answer) as server:
        task = asyncio.create_task(send_result(f"http://{server.address}/a"))
        assert await asyncio.to_thread(has_begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.disconnected.wait, 30)


@pytest.mark.parametrize(
    ("status", "error"),
    [(301, UploadRefused), (307, UploadRefused), (400, UploadRefused), (403, UploadRefused), (404, UploadRefused)]
    + [(status, UploadFailed) for status in (408, 429, 500, 503)],
)
async def test_a_place_that_will_never_take_the_result_is_not_tried_again(
    status: int, error: type[UploadFailed] | type[UploadRefused]
) -> None:
    answer = f"HTTP/1.1 {status} No\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n".encode()
    with (
        RawServer(lambda connection, released: connection.sendall(answer)) as server,
        pytest.raises(error, match=f"status {status}") as caught,
    ):
        await send_result(f"http://{server.address}/a?signature=hunter2")
    assert "hunter2" not in caught.value.message


async def test_a_result_is_taken_when_the_status_says_so_whatever_follows() -> None:
    def answer(connection: socket.socket, released: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        released.wait()

    with RawServer(answer) as server:
        summary = await send_result(f"http://{server.address}/a")
    assert summary["result"]


class RecordingSocket(socket.socket):
    """A socket that records how many bytes are sent with each call, for which a socket's time limit holds."""

    sizes: list[int]

    def sendall(self, data: bytes, flags: int = 0, /) -> None:  # type: ignore[override]
        self.sizes.append(len(data))
        super().sendall(data, flags)


class RecordingTransfer(Transfer):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def connect(self, hosts: Iterable[str], port: int, timeout_s: float) -> socket.socket:
        connection = super().connect(hosts, port, timeout_s)
        recording = RecordingSocket(fileno=connection.detach())
        recording.settimeout(timeout_s)
        recording.sizes = self.sizes
        return recording


def test_a_large_result_is_sent_in_blocks_so_that_it_may_take_long() -> None:
    body = bytes(2_000_000) + END
    transfer = RecordingTransfer()
    with RawServer(take_until_end) as server:
        url = f"http://{server.address}/a"
        upload(body, UploadTarget(url, url, is_guarded=True), transfer)
    transfer.close()
    assert sum(transfer.sizes) > len(body)
    assert max(transfer.sizes) <= 65536


def take_until_end(connection: socket.socket, released: threading.Event) -> None:
    """Read a body to its END, and answer with status 200."""
    while not connection.recv(65536).endswith(END):
        pass
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
