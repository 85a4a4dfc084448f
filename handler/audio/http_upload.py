"""Send a body to a web server, and translate what may go wrong. Knows no job and no transcript.

Errors of libraries are replaced by errors of this project. The libraries' messages are left out, because they may
contain credentials.
"""

import io
from collections.abc import Container, Mapping

from handler.audio.address_guard import resolve
from handler.audio.transfer import Transfer
from handler.audio.urls import public_url
from handler.errors import DownloadFailed, UploadFailed, UploadRefused

JSON_TYPE = {"Content-Type": "application/json"}


def send_body(
    transfer: Transfer,
    method: str,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    taken: Container[int],
    timeout_s: float,
    *,
    is_guarded: bool,
) -> None:
    """Send a body over a connection of `transfer`, and wait for the status of the response, which is one of `taken`.

    `timeout_s` is the longest wait for a connection, for room to send more, and for the next bytes of the response. If
    the address `is_guarded`, its host has to be public. Raises UploadFailed, UploadRefused, or DownloadBlocked by the
    address guard.
    """
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    from handler.audio.http_client import is_certificate_error, is_retryable, send

    safe_url = public_url(url)
    # The body is a file, because the time limit of a socket is for all bytes of one call, and a file is sent in blocks.
    file = io.BytesIO(body)
    try:
        hosts = resolve(url, safe_url) if is_guarded else None
        with send(transfer, method, url, hosts, timeout_s, headers, file) as response:
            status = response.status_code  # the rest of the response says nothing more
    except DownloadFailed as exc:
        raise UploadFailed(exc.message) from None
    except (RequestException, HTTPError, UnicodeError) as exc:
        if is_certificate_error(exc):
            raise UploadRefused(f"{safe_url}: expected a certificate that is valid for its host") from None
        expected = f"expected an address that takes it by {method}"
        raise UploadFailed(f"{safe_url} did not take what was sent ({type(exc).__name__}); {expected}") from None
    if status not in taken:
        kind = UploadFailed if is_retryable(status) else UploadRefused
        raise kind(f"{safe_url} answered with status {status}; expected 200")
