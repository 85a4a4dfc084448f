"""Test the addresses of results: which are accepted, what they show, and how those of a bucket are signed."""

import hashlib
import hmac
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest

from handler.errors import InvalidRequest
from handler.jobs.object_store import URL_LIFETIME_S, Bucket, UploadTarget, parse_upload_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "read_url"),
    [
        ("https://a.example/results/1.json", "https://a.example/results/1.json"),
        ("http://a", "http://a"),
        ("HTTPS://A.example/B", "https://A.example/B"),
        ("https://a:8443/b?X-Amz-Signature=hunter2", "https://a:8443/b"),
        ("https://user:hunter2@a/b", "https://a/b"),
        ("https://user:hunter2@hunter2@a:1/b#hunter2", "https://a:1/b"),
        ("http://[2001:db8::1]:80/b?hunter2", "http://[2001:db8::1]:80/b"),
        ("https://a/%20b/ü?hunter2", "https://a/%20b/ü"),
    ],
)
def test_a_result_is_put_to_the_whole_address_and_read_without_what_may_be_secret(url: str, read_url: str) -> None:
    assert parse_upload_url(url) == UploadTarget(url, read_url, is_guarded=True)
    assert SECRET not in read_url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example/b",
        "//a.example/b",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://user:hunter2@a/b",
        "s3://bucket/key",
        "javascript:hunter2",
        "https://",
        "https:///b",
        "https://:443/b",
        "https://user:hunter2@/b",
        "https://a:0/b",
        "https://a:65536/hunter2",
        "https://a:port/hunter2",
        "https://a:-1/b",
        "https://[::1/hunter2",
        "https://[hunter2]/b",
        "https://a b/hunter2",
        "https://a\0b/hunter2",
        "https://.a/hunter2",
        "https://a/\ud800hunter2",
    ],
)
def test_an_address_that_takes_no_put_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidRequest, match="must be an http:// or https:// address") as caught:
        parse_upload_url(url)
    assert caught.value.field == "upload_url"
    assert SECRET not in caught.value.message


def signature(url: str, method: str, secret: str) -> str:
    """Return the signature of a presigned URL. Source: AWS, Signature Version 4, query parameters, in its steps."""

    def digest(key: bytes, text: str) -> bytes:
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    parts = urlsplit(url)
    query = {name: value for name, value in parse_qsl(parts.query) if name != "X-Amz-Signature"}
    assert query["X-Amz-SignedHeaders"] == "host"
    sorted_query = "&".join(f"{quote(name, '')}={quote(query[name], '')}" for name in sorted(query))
    request = [method, parts.path, sorted_query, f"host:{parts.netloc}", "", "host", "UNSIGNED-PAYLOAD"]
    scope = query["X-Amz-Credential"].partition("/")[2]
    request_hash = hashlib.sha256("\n".join(request).encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for name in scope.split("/"):
        key = digest(key, name)
    return digest(key, "\n".join(["AWS4-HMAC-SHA256", query["X-Amz-Date"], scope, request_hash])).hex()


@pytest.mark.parametrize("endpoint", ["https://s3.eu-west-1.amazonaws.com", "http://127.0.0.1:9000"])
@pytest.mark.parametrize("key", ["a.json", "job 1/ü.json", "a+b&c=d?e#f%20.json", "~-_./sub//x"])
@pytest.mark.parametrize("is_guarded", [True, False])
def test_addresses_of_a_bucket_are_signed_for_one_method_and_a_week(endpoint: str, key: str, is_guarded: bool) -> None:
    target = Bucket(endpoint, "calls", "an id", SECRET).sign_target(key, is_guarded)
    assert target.is_guarded is is_guarded
    for method, url in (("PUT", target.put_url), ("GET", target.read_url)):
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        assert f"{parts.scheme}://{parts.netloc}" == endpoint
        assert unquote(parts.path) == f"/calls/{key}"
        assert query["X-Amz-Expires"] == str(URL_LIFETIME_S) == "604800"
        assert query["X-Amz-Credential"].startswith("an id/")
        assert query["X-Amz-Signature"] == signature(url, method, SECRET)
        assert SECRET not in url


@pytest.mark.parametrize(
    "bucket",
    [
        Bucket("no address", "calls", "an id", SECRET),
        Bucket("ftp://a", "calls", "an id", SECRET),
        Bucket("https://a:port", "calls", "an id", SECRET),
        Bucket("https://a", "hunter2/b c", "an id", SECRET),
        Bucket("https://a", "", "an id", SECRET),
        Bucket("https://a", "calls", "an id", SECRET, "no region: hunter2"),
    ],
    ids=repr,
)
def test_a_bucket_that_cannot_be_addressed_is_refused_without_its_secret(bucket: Bucket) -> None:
    with pytest.raises(InvalidRequest, match="address or name cannot be used") as caught:
        bucket.sign_target("a.json", is_guarded=True)
    assert SECRET not in caught.value.message


def test_a_bucket_shows_its_name_only() -> None:
    bucket = Bucket("https://user:hunter2@a", "calls", "an id", SECRET)
    assert (repr(bucket), f"{bucket}") == ("Bucket(calls)", "Bucket(calls)")
