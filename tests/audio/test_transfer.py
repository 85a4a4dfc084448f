"""Downloads that would never end: each ends at its deadline and when nobody waits for it, and leaves no thread."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from handler.audio.download_threads import DownloadThreads
from handler.audio.fetch import Fetcher
from handler.audio.spool import Spool
from handler.audio.transfer import Transfer
from handler.errors import AsrError, Cancelled, Overloaded, StorageFull
from tests.conftest import ROOT, settings
from tests.support.loopback import RawServer
from tests.support.web import Web

TIMEOUT_S = 0.3
TLS_RECORD = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"  # the beginning of a server's long answer to a TLS client


def drip(beginning: bytes, piece: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Return an answer that begins and then goes on, a piece every few milliseconds."""

    def answer(connection: socket.socket, released: threading.Event) -> None:
        connection.sendall(beginning)
        while not released.wait(0.01):
            connection.sendall(piece)

    return answer


ENDLESS = {
    "a status line": ("http", drip(b"HTTP/1.1 2", b"0")),
    "a header": ("http", drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"a")),
    "answers that say to go on": ("http", drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
    "a body": ("http", drip(b"HTTP/1.1 200 OK\r\n\r\n", b"a")),
    "trailers": ("http", drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"a: b\r\n")),
    "an answer to a client of TLS": ("https", drip(TLS_RECORD, b"a")),
    "silence": ("http", lambda connection, released: released.wait()),
    "silence for a client of TLS": ("https", lambda connection, released: released.wait()),
}


@pytest.fixture(autouse=True)
def private_addresses_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_ended_at_the_deadline(name: str) -> None:
    scheme, answer = ENDLESS[name]
    fetcher = Fetcher(settings(download_timeout_s=TIMEOUT_S))
    with RawServer(answer) as server, fetcher.spool() as spool:
        fetcher.fill(f"{scheme}://{server.address}/a", spool)
        with pytest.raises(AsrError, match=f"took longer than {TIMEOUT_S} s") as caught:
            spool.check()
    assert (caught.value.code, caught.value.retryable) == ("download_failed", True)


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_ended_when_nobody_waits_any_more(name: str) -> None:
    scheme, answer = ENDLESS[name]
    has_begun, has_ended = threading.Event(), threading.Event()

    def answer_and_report(connection: socket.socket, released: threading.Event) -> None:
        has_begun.set()
        answer(connection, released)

    def fill(url: str, spool: Spool) -> None:
        fetcher.fill(url, spool)
        has_ended.set()

    fetcher = Fetcher(settings())
    with RawServer(answer_and_report) as server, fetcher.spool() as spool:
        threading.Thread(target=fill, args=(f"{scheme}://{server.address}/a", spool)).start()
        assert has_begun.wait(30)
        spool.stop()
        assert has_ended.wait(30)


@pytest.mark.parametrize("name", ["a header", "silence"])
def test_a_download_from_a_bucket_ends_at_the_deadline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    with RawServer(ENDLESS[name][1]) as server:
        endpoint = f"http://{server.address}"
        fetcher = Fetcher(settings(download_timeout_s=TIMEOUT_S, s3_buckets=("calls",), s3_endpoint_url=endpoint))
        with fetcher.spool() as spool:
            fetcher.fill("s3://calls/a", spool)
            with pytest.raises(AsrError, match="took longer"):
                spool.check()


def test_the_body_of_a_redirect_is_not_read(web: Web) -> None:
    def answer(connection: socket.socket, released: threading.Event) -> None:
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {web.put('/a', b'here')}\r\n\r\n".encode())
        while not released.is_set():
            connection.sendall(b"endless")

    fetcher = Fetcher(settings())
    with RawServer(answer) as server, fetcher.spool() as spool:
        fetcher.fill(f"http://{server.address}/a", spool)
        spool.check()
        assert spool.reader().read() == b"here"


def test_all_redirects_share_one_deadline() -> None:
    def answer(connection: socket.socket, released: threading.Event) -> None:
        released.wait(TIMEOUT_S / 2)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /b\r\n\r\n")

    fetcher = Fetcher(settings(download_timeout_s=TIMEOUT_S))
    with RawServer(answer) as server, fetcher.spool() as spool:
        fetcher.fill(f"http://{server.address}/a", spool)
        with pytest.raises(AsrError, match="took longer"):
            spool.check()


def test_a_connection_that_is_not_accepted_is_ended() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # more than the backlog holds
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(address)
        transfer = Transfer()
        with transfer.limited_to(0.1, lambda: None), pytest.raises(Cancelled):
            transfer.connect(["127.0.0.1"], address[1], 30)
        transfer.close()
        for connection in waiting:
            connection.close()
    assert transfer.is_aborted


def test_the_addresses_of_a_host_share_the_time_and_the_first_that_answers_is_taken() -> None:
    with RawServer(lambda connection, released: connection.sendall(b"here")) as server:
        port = int(server.address.partition(":")[2])
        transfer = Transfer()
        with transfer.connect(["127.0.0.2", "::1", "127.0.0.1"], port, 30) as connection:
            assert connection.getpeername()[0] in ("127.0.0.1", "127.0.0.2")
        with pytest.raises(TimeoutError):
            transfer.connect(["127.0.0.1"] * 100, port, 0)
        transfer.close()


def test_an_aborted_transfer_opens_no_connection() -> None:
    transfer = Transfer()
    transfer.abort()
    with pytest.raises(Cancelled):
        transfer.connect(["127.0.0.1"], 9, 30)
    transfer.close()


def test_a_process_without_descriptors_blames_itself(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object) -> None:
        raise OSError(24, "Too many open files")

    fetcher = Fetcher(settings())
    with fetcher.spool() as spool:
        monkeypatch.setattr(socket, "socket", no_socket)
        fetcher.fill(web.put("/a", b"a"), spool)
        monkeypatch.undo()
        with pytest.raises(StorageFull):
            spool.check()


def test_threads_that_outlive_their_downloads_are_counted_and_limited() -> None:
    released, all_released = threading.Event(), threading.Semaphore(0)
    transfers: list[Transfer] = []

    def look_up_forever(transfer: Transfer) -> None:
        transfers.append(transfer)
        released.wait()
        all_released.release()

    threads = DownloadThreads(max_abandoned=2)
    for _ in range(3):
        threads.start(look_up_forever)
    assert threads.num_abandoned == 0
    for transfer in transfers[:2]:
        transfer.abort()
    assert threads.num_abandoned == 2
    with pytest.raises(Overloaded, match="2 downloads"):
        threads.start(look_up_forever)
    released.set()
    for _ in range(3):
        assert all_released.acquire(timeout=30)
    threads.start(lambda transfer: None)


def test_a_download_that_cannot_be_started_is_an_error_of_its_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fetcher = Fetcher(settings())
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with fetcher.spool() as spool:
        fetcher.start("http://127.0.0.1:9/a", spool)
        with pytest.raises(Overloaded):
            spool.check()
    assert fetcher.num_abandoned == 0


EXIT_CODE = """
import sys, socket, threading, types
from handler.audio.fetch import Fetcher
from tests.conftest import settings

is_waiting = threading.Event()
def lookup(*_, **__):
    is_waiting.set()
    threading.Event().wait()

Fetcher.prepare()
socket.getaddrinfo = lookup
fetcher = Fetcher(settings())
fetcher.start("http://slow.example/a", fetcher.spool())
is_waiting.wait()
"""


def test_a_lookup_that_never_ends_does_not_hold_up_the_end_of_the_process() -> None:
    assert subprocess.run([sys.executable, "-c", EXIT_CODE], cwd=ROOT, timeout=60).returncode == 0
