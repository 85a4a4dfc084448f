"""Fetch the bytes of an audio source from http(s), S3 or base64 text. Knows no format and no request.

Addresses with http(s) are fetched through the address guard, a module of the RunPod SDK that refuses hosts with
private addresses. Exceptions of other libraries are converted to subclasses of AsrError. The messages of the
original exceptions are never passed on, because they contain full URLs, which may hold credentials.
"""

import base64
import binascii
import io
import re
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO
from urllib.parse import urlsplit

from handler import logs
from handler.audio.spool import Spool
from handler.errors import AsrError, DownloadBlocked, DownloadFailed, InvalidRequest, TooLarge
from handler.runpod_sdk import import_sdk
from handler.settings import Settings

CHUNK = 256 * 1024  # largest number of bytes read at a time
READ_TIMEOUT_S = 30.0  # longest wait for the next bytes
WHITESPACE = b" \t\r\n"
GUARD = "runpod.serverless.utils.rp_ssrf"


class Fetcher:
    """Downloads files into spools, within the limits on size and time that the settings give."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @staticmethod
    def prepare() -> None:
        """Import the address guard in advance, so that the first download does not have to wait for the import."""
        import_sdk(GUARD)

    def spool(self) -> Spool:
        """Return an empty spool that accepts at most as many bytes as the settings allow."""
        return Spool(self._settings.max_bytes)

    def decode_base64(self, text: str) -> BinaryIO:
        """Decode base64 text, which may be a data: URL, and return the bytes as a binary file.

        Raises InvalidRequest, TooLarge.
        """
        body = text.partition(",")[2] if text.startswith("data:") else text
        if len(body) * 3 // 4 > self._settings.max_bytes + len(WHITESPACE):
            raise TooLarge(f"expected at most {self._settings.max_bytes} bytes; got more")
        try:
            encoded = body.encode("ascii").translate(None, WHITESPACE)
            return io.BytesIO(base64.b64decode(encoded, validate=True))
        except (binascii.Error, UnicodeEncodeError):
            raise InvalidRequest("audio_base64 must be a file's bytes in base64", "audio_base64") from None

    def fill(self, url: str, spool: Spool) -> None:
        """Download a file into a spool, and mark the spool as finished.

        An error of the download is not raised here. It is stored in the spool, whose `check` raises it. This blocks
        until the download ends, so call it in a thread of its own.
        """
        error: AsrError | None = None
        try:
            for chunk in self._download(url, spool):
                spool.write(chunk)
        except AsrError as exc:
            error = exc
        except Exception as exc:
            logs.error("download_crashed", exc, url=public_url(url))
            error = DownloadFailed(f"{public_url(url)} could not be read: {type(exc).__name__}")
        spool.finish(error)

    def _download(self, url: str, spool: Spool) -> Iterator[bytes]:
        scheme = urlsplit(url).scheme.lower() if _is_parsable(url) else ""
        if scheme == "s3":
            return self._download_s3(url, spool)
        if scheme in ("http", "https"):
            return self._download_http(url, spool)
        prefix = public_url(url) or "none of them"
        raise InvalidRequest(f"url must begin with http://, https:// or s3://; got {prefix}", "url")

    def _set_deadline(self, spool: Spool, safe_url: str) -> None:
        seconds = self._settings.download_timeout_s
        spool.set_deadline(seconds, DownloadFailed(f"{safe_url} took longer than {seconds:g} s"))

    def _download_http(self, url: str, spool: Spool) -> Iterator[bytes]:
        from requests import RequestException
        from urllib3.exceptions import HTTPError

        guard = import_sdk(GUARD)
        safe_url = public_url(url)
        # The deadline is set after the imports, because the first import takes longer than many downloads.
        self._set_deadline(spool, safe_url)
        timeout = min(READ_TIMEOUT_S, self._settings.download_timeout_s)
        try:
            with guard.safe_get(
                url,
                timeout=timeout,
                max_bytes=self._settings.max_bytes,
                headers={"Accept-Encoding": "identity"},
            ) as response:
                if response.status_code != 200:
                    raise DownloadFailed(f"{safe_url} answered with status {response.status_code}; expected 200")
                spool.on_stop(response.raw.shutdown)
                length = response.headers.get("Content-Length", "")
                if length.isdigit() and "Content-Encoding" not in response.headers:
                    spool.expect(int(length))
                # read1 returns what has arrived, so the deadline also ends a download that trickles.
                while chunk := response.raw.read1(CHUNK, decode_content=True):
                    yield chunk
        except guard.SSRFError as exc:
            raise refusal(str(exc), safe_url, self._settings.max_bytes) from None
        except (RequestException, HTTPError, ValueError) as exc:
            # A ValueError means that requests rejects an address that the guard accepts.
            raise DownloadFailed(f"{safe_url} did not deliver: {type(exc).__name__}") from None

    def _download_s3(self, url: str, spool: Spool) -> Iterator[bytes]:
        bucket, _, key = url.partition("://")[2].partition("/")
        bucket = bucket.rpartition("@")[2]
        if bucket not in self._settings.s3_buckets:
            raise DownloadBlocked(f"bucket {bucket!r} is not among those that S3_BUCKETS names")
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        self._set_deadline(spool, f"s3://{bucket}/{key}")
        timeout = min(READ_TIMEOUT_S, self._settings.download_timeout_s)
        config = Config(connect_timeout=timeout, read_timeout=timeout, retries={"max_attempts": 2})
        try:
            with closing(boto3.client("s3", endpoint_url=self._settings.s3_endpoint_url, config=config)) as client:
                response = client.get_object(Bucket=bucket, Key=key)
                with closing(response["Body"]) as body:
                    spool.on_stop(body._raw_stream.shutdown)
                    spool.expect(response["ContentLength"])
                    yield from body.iter_chunks(CHUNK)
        except ClientError as exc:
            reason = exc.response.get("Error", {}).get("Code", "an error")
            raise DownloadFailed(f"s3://{bucket}/{key} was answered with {reason}") from None
        except BotoCoreError as exc:
            raise DownloadFailed(f"s3://{bucket}/{key} did not arrive: {type(exc).__name__}") from None


def public_url(url: str) -> str:
    """Return a URL without the parts that may hold credentials, cut at 200 characters.

    These parts are the query, the fragment, and everything between :// and the last @.
    """
    scheme, separator, location = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    if not separator:
        return scheme.rpartition("@")[2][:200]
    return f"{scheme}{separator}{location.rpartition('@')[2]}"[:200]


def _is_parsable(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


# Beginnings of the address guard's messages, with the class and the message of the error that replaces them.
_REFUSALS: tuple[tuple[tuple[str, ...], type[AsrError], str], ...] = (
    (
        ("download exceeds size cap",),
        TooLarge,
        "expected at most {max_bytes} bytes; got more",
    ),
    (
        ("could not resolve host", "no addresses resolved"),
        DownloadFailed,
        "its host is not known",
    ),
    (
        ("exceeded maximum redirects", "redirect without"),
        DownloadFailed,
        "expected at most 5 redirects, each to somewhere",
    ),
    (
        ("blocked URL scheme", "URL has no host"),
        InvalidRequest,
        "expected http:// or https:// and a host, also where it redirects to",
    ),
    (
        ("refusing to fetch",),
        DownloadBlocked,
        "expected an address that is reached without a proxy",
    ),
)


def refusal(text: str, safe_url: str, max_bytes: int) -> AsrError:
    """Return the error that replaces an exception of the address guard.

    The guard raises the same exception class for every reason, so the reason is recognised by its message, `text`.
    The message of the returned error contains `safe_url`, which must be free of credentials.
    """
    for beginnings, error, message in _REFUSALS:
        if text.startswith(beginnings):
            return error(f"{safe_url}: {message.format(max_bytes=max_bytes)}")
    return DownloadBlocked(f"{safe_url}: expected a host whose addresses are all public")
