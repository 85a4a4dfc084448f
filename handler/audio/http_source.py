"""Read the bytes of an audio file from a web server. Knows no format."""

from collections.abc import Iterator

from handler.audio.spool import Spool
from handler.audio.transfer import Transfer
from handler.audio.urls import public_url
from handler.errors import DownloadFailed, DownloadRefused

MAX_LENGTH_DIGITS = 18
# Values of Content-Encoding with which the bytes are the file's own. S3 clients leave `aws-chunked` behind.
_UNENCODED = ("", "identity", "aws-chunked")


def download_http(url: str, spool: Spool, transfer: Transfer, chunk_bytes: int, timeout_s: float) -> Iterator[bytes]:
    """Yield the bytes of the file at an http or https URL as they arrive, and announce their number to the spool.

    `timeout_s` is the longest wait for the next bytes. Raises AsrError, of which TooLarge is a subclass.
    """
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    from handler.audio import http_client

    safe_url = public_url(url)
    try:
        with http_client.get_public(transfer, url, timeout_s) as response:
            if response.status_code != 200:
                raise http_client.status_error(safe_url, response.status_code)
            check_encoding(safe_url, response.headers.get("Content-Encoding"))
            length = response.headers.get("Content-Length", "")
            if length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS:
                spool.expect(int(length))
            elif not (first := response.raw.read1(chunk_bytes, decode_content=False)):
                raise DownloadFailed(f"{safe_url} delivered nothing")  # it may have ended within its headers
            else:
                yield first
            # read1 returns what has arrived. It does not decompress, so a small file cannot become a large one.
            while chunk := response.raw.read1(chunk_bytes, decode_content=False):
                yield chunk
    except (RequestException, HTTPError, UnicodeError) as exc:
        raise http_client.transport_error(safe_url, exc) from None


def check_encoding(safe_url: str, encoding: str | None) -> None:
    """Raise DownloadRefused if a file comes in a Content-Encoding, which nobody has asked for."""
    if (encoding or "").strip().lower() not in _UNENCODED:
        expected = "expected the file as it is"
        raise DownloadRefused(f"{safe_url} answered with Content-Encoding {encoding!r:.50}; {expected}")
