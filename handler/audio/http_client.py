"""Send HTTP requests whose connections belong to a Transfer. Knows no spool, no job and no redirect of an upload."""

import os
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema
from requests.utils import default_headers, get_environ_proxies
from urllib3.connection import HTTPConnection

from handler.audio.address_guard import resolve
from handler.audio.transfer import Transfer
from handler.audio.urls import public_url
from handler.errors import AsrError, DownloadFailed, DownloadRefused, InvalidRequest

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_RETRYABLE_STATUSES = (408, 425, 429)  # and all from 500 on


class TransferAdapter(HTTPAdapter):
    """Sends requests over connections of a transfer.

    If `hosts` is not None, connects to the first of these IP addresses that answers, instead of looking up the host's
    name. The request and the check of the certificate still use the name.
    """

    def __init__(self, transfer: Transfer, hosts: Sequence[str] | None, timeout_s: float) -> None:
        super().__init__()
        self._transfer = transfer
        self._hosts = hosts
        self._timeout_s = timeout_s

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        """Return a pool of connections, as `requests` asks for it before each request."""
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = self._connection_class(pool.ConnectionCls)
        return pool

    def _connection_class(self, base: Any) -> type[HTTPConnection]:
        transfer, hosts, timeout_s = self._transfer, self._hosts, self._timeout_s

        class TransferConnection(base):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                return transfer.connect(hosts or [self._dns_host], self.port, timeout_s)

        return TransferConnection


@contextmanager
def send(
    transfer: Transfer,
    method: str,
    url: str,
    hosts: Sequence[str] | None,
    timeout_s: float,
    headers: Mapping[str, str],
    body: Any = None,
) -> Iterator[requests.Response]:
    """Send a request, and yield the response, whose body is not read yet.

    `hosts` are the IP addresses to connect to, which are reached without a proxy, or None. `timeout_s` is the longest
    wait for the connection, and for the next bytes. Redirects are not followed. Raises errors of `requests` and
    `urllib3`, UnicodeError for a URL that cannot be sent, and the errors of `Transfer.connect`.
    """
    request = requests.Request(method, url, headers={**default_headers(), **headers}, data=body).prepare()
    with send_prepared(transfer, request, hosts, timeout_s) as response:
        yield response


@contextmanager
def send_prepared(
    transfer: Transfer,
    request: requests.PreparedRequest,
    hosts: Sequence[str] | None,
    timeout_s: float,
    ca_bundle: str | None = None,
) -> Iterator[requests.Response]:
    """Send a request as it is. The arguments, the yielded response and the errors are those of `send`.

    `ca_bundle` is a file of trusted certificates, or None for the one of the environment or of `certifi`. There is no
    Session of `requests`, because it would read the whole body of a redirect into memory, and decompress it.
    """
    environment_bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    proxies = get_environ_proxies(request.url or "") if hosts is None else {}
    with (
        closing(TransferAdapter(transfer, hosts, timeout_s)) as adapter,
        adapter.send(
            request, stream=True, timeout=timeout_s, verify=ca_bundle or environment_bundle or True, proxies=proxies
        ) as response,
    ):
        yield response


@contextmanager
def get_public(transfer: Transfer, url: str, timeout_s: float) -> Iterator[requests.Response]:
    """GET a URL whose host passes the address guard, follow redirects, and yield the last response.

    The hosts of redirects have to pass the guard, too. Raises AsrError, and the errors of `send`.
    """
    safe_url = public_url(url)
    headers = {"Accept-Encoding": "identity"}
    for _ in range(MAX_REDIRECTS + 1):
        with send(transfer, "GET", url, resolve(url, safe_url), timeout_s, headers) as response:
            if response.status_code not in _REDIRECTS:
                yield response
                return
            url = _redirect_target(url, response.headers.get("Location", ""))
        if not url:
            break
    raise DownloadRefused(f"{safe_url}: expected at most {MAX_REDIRECTS} redirects, each to somewhere")


def _redirect_target(url: str, location: str) -> str:
    """Return the URL to which a response redirects, or an empty text if there is none."""
    with suppress(UnicodeError):  # http.client takes headers for Latin-1; many servers send UTF-8
        location = location.encode("latin-1").decode()
    try:
        return urljoin(url, location) if location else ""
    except ValueError:
        return ""


def is_retryable(status: int) -> bool:
    """Return whether a request that was answered with a status may succeed later."""
    return status >= 500 or status in _RETRYABLE_STATUSES


def status_error(safe_url: str, status: int) -> AsrError:
    """Return the error for a download that was answered with a status other than 200."""
    kind = DownloadFailed if is_retryable(status) else DownloadRefused
    return kind(f"{safe_url} answered with status {status}; expected 200")


def transport_error(safe_url: str, exc: Exception) -> AsrError:
    """Return the error that replaces an exception of `requests` or `urllib3`, whose message may show credentials."""
    if isinstance(exc, InvalidURL | InvalidSchema | MissingSchema | UnicodeError):
        return InvalidRequest(f"{safe_url}: expected an address that can be requested", "url")
    if is_certificate_error(exc):
        return DownloadRefused(f"{safe_url}: expected a certificate that is valid for its host")
    return DownloadFailed(f"{safe_url} did not deliver: {type(exc).__name__}")


def is_certificate_error(exc: BaseException | None) -> bool:
    """Return whether an exception was caused by a certificate that is not valid."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False
