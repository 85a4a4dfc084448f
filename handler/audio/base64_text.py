"""Decode base64 text in either alphabet. Knows no request. Source: RFC 4648."""

import base64
import binascii
import re

from handler.errors import InvalidRequest

_WHITESPACE = b" \t\r\n"
_STANDARD = bytes.maketrans(b"-_", b"+/")  # from the URL-safe alphabet
_UNEXPECTED = re.compile(r"[^A-Za-z0-9+/_=\- \t\r\n]|=(?=[ \t\r\n]*[^= \t\r\n])")


def decode_base64(text: str, field: str) -> bytes:
    """Return the bytes that base64 text stands for, in the standard or the URL-safe alphabet.

    Whitespace is left out, and the padding at the end may be missing. A data: URL is decoded without its head. Raises
    InvalidRequest, which names `field` and the first wrong character with its position.
    """
    start = text.find(",") + 1 if text.startswith("data:") else 0
    try:
        digits = text[start:].encode("ascii").translate(_STANDARD, _WHITESPACE).rstrip(b"=")
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidRequest(f"{field} must be a file's bytes in base64; {_fault(text, start)}", field) from None


def decoded_size(text: str) -> int:
    """Return how many bytes `decode_base64` would return at most, without decoding the text."""
    start = text.find(",") + 1 if text.startswith("data:") else 0
    return (len(text) - start - sum(text.count(character, start) for character in " \t\r\n=")) * 3 // 4


def _fault(text: str, start: int) -> str:
    """Say why text from position `start` on is not base64."""
    unexpected = _UNEXPECTED.search(text, start)
    if unexpected is None:
        return "it is cut off, as the number of its characters shows"
    return f"character {unexpected.start() + 1} is {unexpected[0]!a}"
