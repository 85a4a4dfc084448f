"""Which addresses a stranger may have fetched, and what a refusal says about the names of an internal network."""

import socket
from typing import Any

import pytest

from handler.audio.address_guard import NOT_PUBLIC, is_public, resolve
from handler.errors import AsrError, DownloadBlocked, DownloadFailed, InvalidRequest

PUBLIC = """
    1.1.1.1 8.8.8.8 192.0.1.1 100.128.0.1 198.20.0.1 223.255.255.255
    2606:4700::1111 2a00:1450:4001::1 ::ffff:1.1.1.1 2001:4860:4860::8888
"""
SPECIAL = """
    0.0.0.0 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255
    192.168.0.1 192.0.0.9 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
    224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16 161.26.0.10 166.9.1.1 192.80.8.124
    :: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:192.0.0.192 ::ffff:0:8.8.8.8
    64:ff9b::a9fe:a9fe 64:ff9b::1 64:ff9b:1::1 100::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1
    2002:a9fe:a9fe:: 2002:808:808::1 3ffe::1 3fff::1 4000:: 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254
    fe80::1 fe80::1%eth0 fec0::1 ff02::1
"""


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_host_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", SPECIAL.split())
def test_a_private_or_special_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "1.1.1", "0x7f.1", "1.1.1.1/8", "::1::", "[::1]"])
def test_a_text_that_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


def refusal(url: str) -> AsrError:
    with pytest.raises(AsrError) as caught:
        resolve(url, "the url")
    return caught.value


@pytest.mark.parametrize(
    "host",
    ["192.0.0.192", "168.63.129.16", "3232235521", "0x7f.1", "[2002:a9fe:a9fe::]", "[fec0::1]", "[::ffff:10.0.0.1]"],
)
def test_a_host_that_is_written_as_an_address_is_checked(host: str) -> None:
    assert type(refusal(f"http://{host}/latest")) is DownloadBlocked


def test_a_public_host_is_returned_as_the_addresses_to_connect_to() -> None:
    assert resolve("https://1.1.1.1/a?b", "the url") == ["1.1.1.1"]
    assert resolve("http://[2606:4700::1111]:8080/", "the url") == ["2606:4700::1111"]


def fake_lookup(monkeypatch: pytest.MonkeyPatch, hosts: dict[str, list[str] | int]) -> None:
    """Let lookups find the addresses of `hosts`, or fail with an error number. Other hosts are not known."""

    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        found = hosts.get(host, socket.EAI_NONAME)
        if isinstance(found, int):
            raise socket.gaierror(found, "no")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def test_unknown_and_internal_names_cannot_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: dict[str, list[str] | int] = {
        "internal": ["10.0.0.1"],
        "half-internal": ["1.1.1.1", "192.0.0.192"],
        "no-address": [],
        "no-data": socket.EAI_NODATA,
    }
    fake_lookup(monkeypatch, hosts)
    names = [*hosts, "unknown", "a..b", f"{'a' * 64}.example", "a\0b"]
    errors = [refusal(f"http://{name}/a") for name in names]
    assert {(type(error), error.message) for error in errors} == {(DownloadBlocked, f"the url: {NOT_PUBLIC}")}


@pytest.mark.parametrize("number", [socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY])
def test_a_name_server_that_does_not_answer_is_a_reason_to_try_again(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fake_lookup(monkeypatch, {"a.example": number})
    error = refusal("http://a.example/a")
    assert (type(error), error.retryable) == (DownloadFailed, True)


def test_a_public_name_has_its_addresses_and_a_proxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_lookup(monkeypatch, {"a.example": ["1.1.1.1", "8.8.8.8"]})
    assert resolve("http://a.example/a", "the url") == ["1.1.1.1", "8.8.8.8"]
    monkeypatch.setenv("http_proxy", "http://user:hunter2@10.0.0.1:3128")
    error = refusal("http://a.example/a")
    assert "without a proxy" in error.message
    assert "hunter2" not in error.message
    monkeypatch.setenv("RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS", "true")
    assert resolve("http://a.example/a", "the url") is None


@pytest.mark.parametrize("url", ["ftp://a/b", "http://", "http:///a", "http://[", "http://a:port/", "http://a:99999/"])
def test_another_url_is_an_invalid_request(url: str) -> None:
    assert type(refusal(url)) is InvalidRequest
