"""Downloads from servers on loopback, good and bad; each refusal has its own code, and none shows a credential."""

import base64
import threading

import pytest

from handler.audio.fetch import Fetcher, public_url
from handler.audio.spool import IN_MEMORY, Spool
from handler.errors import AsrError, Cancelled, DownloadFailed, InvalidRequest, TooLarge
from tests.conftest import settings
from tests.support.web import Web


def fetch(url: str, **changes: object) -> bytes:
    fetcher = Fetcher(settings(**changes))
    with fetcher.spool() as spool:
        fetcher.fill(url, spool)
        spool.check()
        return spool.reader().read()


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
    assert "404" in refusal(web.url + "/missing").message
    for path in ("/missing", "/cut", f"/redirect?{web.url}/redirect", "/redirect?"):
        if path.startswith("/redirect?http"):
            path = f"/redirect?{web.url}{path}"
        error = refusal(web.url + path)
        assert (error.code, error.retryable) == ("download_failed", True)


def test_endless_redirects_are_a_failed_download(web: Web) -> None:
    url = web.url + "/a"
    for _ in range(8):
        url = f"{web.url}/redirect?{url}"
    assert "5 redirects" in refusal(url).message


def test_a_host_that_never_answers_is_abandoned(web: Web) -> None:
    assert refusal(web.url + "/hang", download_timeout_s=0.2).code == "download_failed"


def test_a_host_that_trickles_is_abandoned(web: Web) -> None:
    error = refusal(web.url + "/trickle", download_timeout_s=0.3)
    assert "took longer than 0.3 s" in error.message


def test_a_host_that_is_unknown_or_unreachable_is_a_failed_download(web: Web) -> None:
    assert "host is not known" in refusal("http://no-such-host.invalid/a").message
    assert refusal("http://127.0.0.1:1/a").code == "download_failed"


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
    assert "NoSuchKey" in refusal("s3://calls/none", s3_buckets=("calls",), s3_endpoint_url=s3).message
    assert refusal("s3://calls/a/b c.wav", s3_buckets=("calls",), s3_endpoint_url=s3, max_bytes=4).code == "too_large"


def test_base64_with_line_breaks_and_as_a_data_url() -> None:
    text = base64.encodebytes(bytes(range(256))).decode()
    fetcher = Fetcher(settings())
    assert fetcher.decode_base64(text).read() == bytes(range(256))
    assert fetcher.decode_base64("data:audio/wav;base64," + text).read() == bytes(range(256))


@pytest.mark.parametrize("text", ["not base64!", "AAA", "ünï", "A" * 5])
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


def test_a_waiting_reader_ends_at_a_deadline_that_is_set_later() -> None:
    with Spool(10) as spool:
        reads = list[bytes]()
        waiting_reader = threading.Thread(target=lambda: reads.append(spool.reader().read()))
        waiting_reader.start()
        spool.set_deadline(0.05, DownloadFailed("late"))
        waiting_reader.join()
        assert reads == [b""]
        with pytest.raises(DownloadFailed):
            spool.check()


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
