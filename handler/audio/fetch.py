"""Bytes of an audio source: http(s) behind the address guard, s3, base64. Knows no format and no request.

Foreign errors are mapped here and their texts never passed on: they carry whole addresses.
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

CHUNK = 256 * 1024  # bytes asked for at a time
READ_TIMEOUT_S = 30.0  # longest silence of the other side
BLANK = b" \t\r\n"
GUARD = "runpod.serverless.utils.rp_ssrf"


class Fetcher:
    """Downloads into spools, under the caps of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @staticmethod
    def prepare() -> None:
        """Import what the first download would have to wait for."""
        import_sdk(GUARD)

    def spool(self) -> Spool:
        """An empty spool under the cap on bytes."""
        return Spool(self._settings.max_bytes)

    def decode_base64(self, text: str) -> BinaryIO:
        """The bytes of base64, of a data: URL too. Raises InvalidRequest, TooLarge."""
        body = text.partition(",")[2] if text.startswith("data:") else text
        if len(body) * 3 // 4 > self._settings.max_bytes + len(BLANK):
            raise TooLarge(f"expected at most {self._settings.max_bytes} bytes; got more")
        try:
            return io.BytesIO(base64.b64decode(body.encode("ascii").translate(None, BLANK), validate=True))
        except (binascii.Error, UnicodeEncodeError):
            raise InvalidRequest("audio_base64 must be a file's bytes in base64", "audio_base64") from None

    def fill(self, url: str, spool: Spool) -> None:
        """Write all of what an address holds into a spool, whose readers meet whatever goes wrong. Runs in a thread of its own."""
        error: AsrError | None = None
        try:
            for chunk in self._chunks(url, spool):
                spool.write(chunk)
        except AsrError as exc:
            error = exc
        except Exception as exc:
            logs.error("download_crashed", exc, url=public_url(url))
            error = DownloadFailed(f"{public_url(url)} could not be read: {type(exc).__name__}")
        spool.finish(error)

    def _chunks(self, url: str, spool: Spool) -> Iterator[bytes]:
        scheme = urlsplit(url).scheme.lower() if _is_parsable(url) else ""
        if scheme == "s3":
            return self._s3(url, spool)
        if scheme in ("http", "https"):
            return self._http(url, spool)
        raise InvalidRequest(f"url must begin with http://, https:// or s3://; got {public_url(url) or 'none of them'}", "url")

    def _limit(self, spool: Spool, shown: str) -> None:
        seconds = self._settings.download_timeout_s
        spool.limit(seconds, DownloadFailed(f"{shown} took longer than {seconds:g} s"))

    def _http(self, url: str, spool: Spool) -> Iterator[bytes]:
        from requests import RequestException
        from urllib3.exceptions import HTTPError

        guard = import_sdk(GUARD)
        shown = public_url(url)
        self._limit(spool, shown)  # from here on: the client's first import takes longer than many a download
        timeout = min(READ_TIMEOUT_S, self._settings.download_timeout_s)
        try:
            with guard.safe_get(
                url, timeout=timeout, max_bytes=self._settings.max_bytes, headers={"Accept-Encoding": "identity"}
            ) as response:
                if response.status_code != 200:
                    raise DownloadFailed(f"{shown} answered with status {response.status_code}; expected 200")
                spool.on_stop(response.raw.shutdown)
                length = response.headers.get("Content-Length", "")
                if length.isdigit() and "Content-Encoding" not in response.headers:
                    spool.expect(int(length))
                while chunk := response.raw.read1(CHUNK, decode_content=True):  # whatever has come: a host that trickles is seen
                    yield chunk
        except guard.SSRFError as exc:
            raise refusal(str(exc), shown, self._settings.max_bytes) from None
        except (RequestException, HTTPError, ValueError) as exc:  # ValueError: an address that only the client finds malformed
            raise DownloadFailed(f"{shown} did not deliver: {type(exc).__name__}") from None

    def _s3(self, url: str, spool: Spool) -> Iterator[bytes]:
        bucket, _, key = url.partition("://")[2].partition("/")
        bucket = bucket.rpartition("@")[2]
        if bucket not in self._settings.s3_buckets:
            raise DownloadBlocked(f"bucket {bucket!r} is not among those that S3_BUCKETS names")
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        self._limit(spool, f"s3://{bucket}/{key}")
        timeout = min(READ_TIMEOUT_S, self._settings.download_timeout_s)
        config = Config(connect_timeout=timeout, read_timeout=timeout, retries={"max_attempts": 2})
        try:
            with closing(boto3.client("s3", endpoint_url=self._settings.s3_endpoint_url, config=config)) as client:
                answer = client.get_object(Bucket=bucket, Key=key)
                with closing(answer["Body"]) as body:
                    spool.on_stop(body._raw_stream.shutdown)
                    spool.expect(answer["ContentLength"])
                    yield from body.iter_chunks(CHUNK)
        except ClientError as exc:
            reason = exc.response.get("Error", {}).get("Code", "an error")
            raise DownloadFailed(f"s3://{bucket}/{key} was answered with {reason}") from None
        except BotoCoreError as exc:
            raise DownloadFailed(f"s3://{bucket}/{key} did not arrive: {type(exc).__name__}") from None


def public_url(url: str) -> str:
    """An address without what may be a credential: nothing up to the last @, no query, no fragment."""
    scheme, mark, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"[:200] if mark else scheme.rpartition("@")[2][:200]


def _is_parsable(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


_REFUSALS: tuple[tuple[tuple[str, ...], type[AsrError], str], ...] = (
    (("download exceeds size cap",), TooLarge, "expected at most {cap} bytes; got more"),
    (("could not resolve host", "no addresses resolved"), DownloadFailed, "its host is not known"),
    (("exceeded maximum redirects", "redirect without"), DownloadFailed, "expected at most 5 redirects, each to somewhere"),
    (("blocked URL scheme", "URL has no host"), InvalidRequest, "expected http:// or https:// and a host, also where it redirects to"),
    (("refusing to fetch",), DownloadBlocked, "expected an address that is reached without a proxy"),
)


def refusal(text: str, shown: str, cap: int) -> AsrError:
    """The address guard says all it has to say by one exception; told apart by how its text begins."""
    for beginnings, kind, message in _REFUSALS:
        if text.startswith(beginnings):
            return kind(f"{shown}: {message.format(cap=cap)}")
    return DownloadBlocked(f"{shown}: expected a host whose addresses are all public")
