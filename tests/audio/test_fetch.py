"""Downloads from servers on loopback, good and bad; each refusal has its own code, and none shows a credential."""

import base64
import errno
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import boto3
import pytest

from handler.audio.address_guard import resolve
from handler.audio.fetch import Fetcher
from handler.audio.spool import IN_MEMORY, Spool
from handler.audio.urls import public_url
from handler.errors import AsrError, Cancelled, InvalidRequest, StorageFull, TooLarge
from tests.conftest import settings
from tests.support.loopback import Loopback, QuietHandler, RawServer
from tests.support.tls import make_certificate, server_context
from tests.support.web import Web


def fetch(url: str, **changes: object) -> bytes:
    fetcher = Fetcher(settings(**changes))
    with fetcher.spool() as spool:
        fetcher.fill(url, spool)
        spool.check()
        return spool.reader().read()


@contextmanager
def raw_answer(answer: bytes) -> Iterator[str]:
    """Serve some bytes as the answer to every request, and yield the URL."""
    with RawServer(lambda connection, released: connection.sendall(answer)) as server:
        yield f"http://{server.address}/a"


def refusal_of(answer: bytes) -> AsrError:
    with pytest.MonkeyPatch.context() as monkeypatch, raw_answer(answer) as url:
        monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
        return refusal(url)


def refusal(url: str, **changes: object) -> AsrError:
    with pytest.raises(AsrError) as caught:
        fetch(url, **changes)
    return caught.value


@pytest.mark.parametrize("query", ["", "?chunked"])
def test_a_file_arrives_complete(web: Web, query: str) -> None:
    body = bytes(range(256)) * 5000
    assert fetch(web.put("/a.bin", body) + query) == body


def test_a_redirect_is_followed(web: Web) -> None:
    assert fetch(f"{web.url}/redirect?{web.put('/a', b'here')}") == b"here"


def test_a_file_over_the_cap_is_too_large_whether_its_length_is_announced_or_not(web: Web) -> None:
    url = web.put("/a", bytes(5000))
    assert refusal(url, max_bytes=4999).code == "too_large"
    assert refusal(url + "?chunked", max_bytes=4999).code == "too_large"
    assert len(fetch(url, max_bytes=5000)) == 5000


def test_a_fault_of_the_server_is_a_failed_download(web: Web) -> None:
    error = refusal(web.url + "/cut")
    assert (error.code, error.retryable) == ("download_failed", True)


@pytest.mark.parametrize("path", ["/missing", "/redirect?", "/redirect?/missing"])
def test_a_server_that_will_never_have_the_file_refuses_it(web: Web, path: str) -> None:
    error = refusal(web.url + path)
    assert (error.code, error.retryable) == ("download_refused", False)


@pytest.mark.parametrize(
    ("status", "is_retryable"),
    [(status, False) for status in (201, 204, 206, 300, 304, 400, 401, 403, 404, 405, 410, 416, 451)]
    + [(status, True) for status in (408, 425, 429, 500, 502, 503, 504, 520)],
)
def test_only_a_status_that_may_change_is_a_reason_to_try_again(status: int, is_retryable: bool) -> None:
    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    error = refusal_of(answer)
    assert (error.code, error.retryable) == (
        "download_failed" if is_retryable else "download_refused",
        is_retryable,
    )
    assert f"status {status}" in error.message


def test_endless_redirects_are_refused(web: Web) -> None:
    url = web.url + "/a"
    for _ in range(8):
        url = f"{web.url}/redirect?{url}"
    error = refusal(url)
    assert (error.code, "5 redirects" in error.message) == ("download_refused", True)


def test_a_host_that_never_answers_is_abandoned(web: Web) -> None:
    assert refusal(web.url + "/hang", download_timeout_s=0.2).code == "download_failed"


def test_a_host_that_trickles_is_abandoned(web: Web) -> None:
    error = refusal(web.url + "/trickle", download_timeout_s=0.3)
    assert "took longer than 0.3 s" in error.message


def test_a_host_that_is_not_reached_is_a_failed_download(web: Web) -> None:
    assert refusal("http://127.0.0.1:1/a").code == "download_failed"


@pytest.mark.parametrize("encoding", ["br", "gzip", "x-gzip", "deflate", "zstd", "GZIP, br", "identity, gzip", "a\tb"])
def test_a_file_in_an_encoding_that_was_not_asked_for_is_refused(encoding: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: 3\r\n\r\n"
    error = refusal_of(head.encode() + b"abc")
    assert (error.code, error.retryable) == ("download_refused", False)
    assert repr(encoding) in error.message


@pytest.mark.parametrize(
    "head", [b"Content-Encoding: identity", b"Content-Encoding:", b"Content-Encoding: aws-chunked"]
)
def test_a_file_in_no_encoding_arrives(web: Web, head: bytes) -> None:
    with raw_answer(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\nsound") as url:
        assert fetch(url) == b"sound"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + bytes(70_000) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000,
        b"SSH-2.0-OpenSSH\r\n",
    ],
    ids=lambda answer: answer[:70].decode(errors="replace"),
)
def test_an_answer_that_is_broken_off_or_malformed_is_a_failed_download(answer: bytes) -> None:
    error = refusal_of(answer)
    assert (error.code, error.retryable) == ("download_failed", True)


@contextmanager
def tls_server(certificate: Path) -> Iterator[str]:
    """Serve one file by https with a certificate, and yield its URL."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.headers["Host"].encode())

    server = Loopback(Handler)
    server.socket = server_context(certificate).wrap_socket(server.socket, server_side=True)
    server.start()
    yield f"https://localhost:{server.server_port}/a"
    server.stop()


def test_a_certificate_is_checked_for_the_name_of_the_host(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    with tls_server(certificate) as url:
        error = refusal(url)
        assert (error.code, error.retryable) == ("download_refused", False)
        assert "certificate" in error.message
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert fetch(url) == url.removeprefix("https://").removesuffix("/a").encode()
        assert refusal(url.replace("localhost", "127.0.0.1")).code == "download_refused"


def test_a_redirect_to_no_address_is_refused(web: Web) -> None:
    assert refusal_of(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n").code == "download_refused"


def test_a_redirect_in_utf_8_is_followed(web: Web) -> None:
    web.put("/%C3%BC", b"here")
    with raw_answer(f"HTTP/1.1 302 Found\r\nLocation: {web.url}/ü\r\n\r\n".encode()) as url:
        assert fetch(url) == b"here"


def test_a_redirect_to_a_private_address_is_blocked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def allow_first(url: str, safe_url: str) -> list[str] | None:
        if url.startswith(web.url):
            return ["127.0.0.1"]
        monkeypatch.delenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS")
        return resolve(url, safe_url)

    monkeypatch.setattr("handler.audio.http_client.resolve", allow_first)
    error = refusal(f"{web.url}/redirect?http://192.0.0.192/latest")
    assert error.code == "download_blocked"
    assert "192.0.0.192" not in error.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1", "[::1]", "0.0.0.0"])
def test_a_private_address_is_blocked(host: str) -> None:
    assert refusal(f"http://{host}:9/latest/meta-data").code == "download_blocked"


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/a", "file:///etc/passwd", "/etc/passwd", "", "http://", "http://[", "data:audio/wav;base64,AA"],
)
def test_another_scheme_is_an_invalid_request(url: str) -> None:
    error = refusal(url)
    assert error.code == "invalid_request"
    assert "http" in error.message


def test_no_error_shows_a_credential(web: Web) -> None:
    secret = "hunter2"
    for url in (
        f"http://user:{secret}@127.0.0.1:1/a?token={secret}",
        f"{web.url}/missing?key={secret}#{secret}",
        f"ftp://x:{secret}@h/",
        f"s3://key:{secret}@bucket/a",
        f"user:{secret}@host/a",
        f"http://user:{secret}/{secret}@host:99999/a",
    ):
        assert secret not in str(refusal(url))
    assert public_url(f"https://user:{secret}@host:8443/a/b?x={secret}#y") == "https://host:8443/a/b"


def test_a_file_in_a_named_bucket_arrives(s3: str) -> None:
    assert fetch("s3://calls/a/b c.wav", s3_buckets=("calls",), s3_endpoint_url=s3) == b"sound"


def test_a_bucket_that_is_not_named_is_blocked(s3: str) -> None:
    assert refusal("s3://calls/a/b c.wav", s3_endpoint_url=s3).code == "download_blocked"


def test_a_missing_key_and_a_file_over_the_cap(s3: str) -> None:
    error = refusal("s3://calls/none", s3_buckets=("calls",), s3_endpoint_url=s3)
    assert (error.code, error.retryable) == ("download_refused", False)
    assert "NoSuchKey" in error.message
    assert refusal("s3://calls/a/b c.wav", s3_buckets=("calls",), s3_endpoint_url=s3, max_bytes=4).code == "too_large"


@pytest.mark.parametrize(
    ("code", "status", "is_retryable"),
    [
        ("AccessDenied", 403, False),
        ("NoSuchBucket", 404, False),
        ("InvalidObjectState", 403, False),
        ("SlowDown", 503, True),
        ("RequestTimeout", 400, True),
        ("ExpiredToken", 400, True),
        ("RequestTimeTooSkewed", 403, True),
    ],
)
def test_an_error_of_the_service_is_a_reason_to_try_again_if_it_may_pass(
    monkeypatch: pytest.MonkeyPatch, code: str, status: int, is_retryable: bool
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    body = f"<Error><Code>{code}</Code></Error>".encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)  # between attempts
    with RawServer(lambda connection, released: connection.sendall(head + body)) as server:
        error = refusal("s3://calls/a", s3_buckets=("calls",), s3_endpoint_url=f"http://{server.address}")
    assert error.retryable is is_retryable
    assert code in error.message
    assert error.code == ("download_failed" if is_retryable else "download_refused")


@pytest.mark.parametrize("url", ["s3://calls", "s3://calls/", "s3://calls/\ud800"])
def test_an_address_without_a_key_is_an_invalid_request(s3: str, url: str) -> None:
    assert refusal(url, s3_buckets=("calls",), s3_endpoint_url=s3).code == "invalid_request"


@pytest.mark.parametrize("key", ["a/../b", "a//b", "./a", "a b+c&d=ü%20?#"])
def test_every_key_is_requested_as_it_is(s3: str, key: str) -> None:
    with closing(boto3.client("s3", endpoint_url=s3)) as client:
        client.put_object(Bucket="calls", Key=key, Body=b"sound of this key")
    assert fetch(f"s3://calls/{key}", s3_buckets=("calls",), s3_endpoint_url=s3) == b"sound of this key"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOENT])
def test_a_disk_that_takes_no_more_is_no_fault_of_the_other_side(
    web: Web, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def write(self: Spool, data: bytes) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(Spool, "write", write)
    error = refusal(web.put("/a", b"a"))
    assert (type(error), error.retryable) == (StorageFull, True)


@pytest.mark.parametrize("url", ["http://a b/", "http://127.0.0.1:port/", "http://127.0.0.1:99999/"])
def test_an_address_that_cannot_be_requested_is_not_tried_again(web: Web, url: str) -> None:
    assert refusal(url).code in ("invalid_request", "download_blocked")


def test_half_a_character_and_control_characters_in_a_path_reach_no_header(web: Web) -> None:
    assert refusal(f"{web.url}/\ud800\r\nX-A: b\0").code == "download_refused"
    assert list(web.counts) == ["/%ED%A0%80%0D%0AX-A:%20b%00"]


def test_base64_with_line_breaks_and_as_a_data_url() -> None:
    text = base64.encodebytes(bytes(range(256))).decode()
    fetcher = Fetcher(settings())
    assert fetcher.decode_base64(text).read() == bytes(range(256))
    assert fetcher.decode_base64("data:audio/wav;base64," + text).read() == bytes(range(256))


@pytest.mark.parametrize("text", ["not base64!", "ünï", "A" * 5])
def test_text_that_is_not_base64_is_an_invalid_request(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Fetcher(settings()).decode_base64(text)


def test_base64_over_the_cap_is_too_large() -> None:
    with pytest.raises(TooLarge):
        Fetcher(settings(max_bytes=100)).decode_base64("A" * 1000)


def test_a_reader_waits_for_bytes_that_have_not_arrived_and_may_seek() -> None:
    def write(spool: Spool) -> None:
        spool.write(b"abc")
        spool.write(b"def")
        spool.finish()

    with Spool(IN_MEMORY * 2) as spool:
        spool.expect(6)
        reader = spool.reader()
        threading.Thread(target=write, args=(spool,)).start()
        reader.seek(4)
        assert reader.read() == b"ef"
        reader.seek(-6, 2)
        assert reader.read(3) == b"abc"


def test_a_file_too_big_for_memory_reads_the_same() -> None:
    piece = bytes(range(256)) * 4096
    with Spool(10**9) as spool:
        for _ in range(12):
            spool.write(piece)
        spool.finish()
        reader = spool.reader()
        reader.seek(11 * len(piece))
        assert reader.read() == piece


def test_closing_ends_a_waiting_reader_and_stops_the_writer() -> None:
    spool = Spool(10)
    reads = list[bytes]()
    waiting_reader = threading.Thread(target=lambda: reads.append(spool.reader().read()))
    waiting_reader.start()
    spool.close()
    waiting_reader.join()
    assert reads == [b""]
    with pytest.raises(Cancelled):
        spool.write(b"a")
