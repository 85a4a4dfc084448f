"""Check the head of an HTTP request for what must be refused before any route sees it. Knows no connection.

A request whose meaning is ambiguous is refused, because a proxy before this server may understand it in another way.
Sources: RFC 9110, section 5.3; RFC 9112, sections 2.3, 3.2 and 6.3.
"""

import json
from collections.abc import Sequence
from http import HTTPStatus

from handler.errors import AsrError, DeadlineExceeded, InvalidRequest, Overloaded, TooLarge

Fields = Sequence[tuple[bytes, bytes]]  # names in lower case and values of header lines
MAX_HEAD_BYTES = 65_536  # of a request line and its headers
MAX_FIELDS = 128  # header lines. Apache allows 100.
MAX_LENGTH_DIGITS = 18  # of Content-Length
_SINGLE_FIELDS = frozenset({b"authorization", b"content-length", b"content-type", b"host", b"x-api-key"})


class RefusedRequest(Exception):
    """Raised for a request that is refused before it has a route, with the status and the error to send."""

    def __init__(self, status: HTTPStatus, error: AsrError) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


def malformed(message: str) -> RefusedRequest:
    """Return the refusal of a request that does not have the expected form."""
    return RefusedRequest(HTTPStatus.BAD_REQUEST, InvalidRequest(message))


def head_too_large(expected: str) -> RefusedRequest:
    """Return the refusal of a request whose head exceeds a limit."""
    error = TooLarge(f"expected a request line and headers of at most {expected}; got more")
    return RefusedRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, error)


def head_too_slow(seconds: float) -> RefusedRequest:
    """Return the refusal of a request whose head has not arrived in full after some seconds."""
    error = DeadlineExceeded(f"expected a request line and all headers within {seconds:g} s")
    return RefusedRequest(HTTPStatus.REQUEST_TIMEOUT, error)


def too_many_connections() -> RefusedRequest:
    """Return the refusal of any request of a connection that is one too many."""
    return RefusedRequest(HTTPStatus.TOO_MANY_REQUESTS, Overloaded("expected fewer connections at once"))


def check_head(version: str, fields: Fields, is_upgrade: bool) -> int | None:
    """Return the value of Content-Length, or None if there is none. Raises RefusedRequest.

    `is_upgrade` says whether the client asks for another protocol. The request may then have no body, because the
    parser ends at its head.
    """
    if version not in ("1.0", "1.1"):
        error = InvalidRequest(f"expected HTTP/1.0 or HTTP/1.1; got HTTP/{version}")
        raise RefusedRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, error)
    single_fields: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _SINGLE_FIELDS:
            if name in single_fields:
                raise malformed(f"expected one header {name.decode()}; got several")
            single_fields[name] = value
    if b"host" not in single_fields and version == "1.1":
        raise malformed("expected a header host")
    length = content_length(single_fields.get(b"content-length"))
    has_body = length or any(name == b"transfer-encoding" for name, _ in fields)
    if is_upgrade and has_body:
        raise malformed("expected no header upgrade, because the request has a body")
    return length


def content_length(value: bytes | None) -> int | None:
    """Return the value of Content-Length as a number, or None for None. Raises RefusedRequest."""
    if value is None:
        return None
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise malformed(f"expected content-length to be a number of at most {MAX_LENGTH_DIGITS} digits")
    return int(value)


def refusal_bytes(status: HTTPStatus, error: AsrError, headers: Fields) -> bytes:
    """Return a whole HTTP response that refuses a request and announces the end of the connection.

    `headers` are added to those of the response.
    """
    body = json.dumps({"error": error.as_dict()}).encode()
    fields = [
        *headers,
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        fields.append((b"retry-after", b"1"))
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *(b": ".join(field) for field in fields)]
    return b"\r\n".join([*lines, b"", body])
