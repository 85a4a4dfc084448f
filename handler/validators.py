"""Parse untyped values, which come from JSON, from strings of a query or form, or from environment variables.

A parser returns a typed value or raises Unexpected. `check` makes of that the error of a request, and `Settings` that
of a variable. Knows no option and no variable.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from handler.errors import InvalidRequest

T = TypeVar("T")
Parser = Callable[[object], T]
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_FLAGS = {**_BOOLEANS, "yes": True, "on": True, "no": False, "off": False}
_HOST = re.compile(r"\*|(\*\.)?[\w.-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.0{1,18})?")  # Python refuses to convert thousands of digits


class Unexpected(ValueError):
    """A value is not what was expected, which the message says, as in "a number from 0 to 1"."""


def check(name: str, value: object, parse: Parser[T]) -> T:
    """Return the typed value of a request's field. Raises InvalidRequest."""
    try:
        return parse(value)
    except Unexpected as exc:
        raise InvalidRequest(f"{name} must be {exc}; got {short_repr(value)}", name) from None


def one_of(values: Sequence[str]) -> Parser[str]:
    """Return a parser that accepts the strings in `values`."""
    return _word({value: value for value in values}, f"one of {', '.join(values)}")


def string(value: object) -> str:
    """Parse a string. Only strings without unpaired surrogates are valid, because UTF-8 can encode no others."""
    if not isinstance(value, str):
        raise Unexpected("a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unexpected("whole characters, not half of one") from None
    return value


def boolean(value: object) -> bool:
    """Parse a boolean, or a string that stands for one: true, false, 1 or 0."""
    if isinstance(value, bool):
        return value
    return _word(_BOOLEANS, "true or false")(value.lower() if isinstance(value, str) else value)


def flag(value: object) -> bool:
    """Parse a string that stands for a boolean in an environment variable."""
    return _word(_FLAGS, f"one of {', '.join(_FLAGS)}")(value.lower() if isinstance(value, str) else value)


def _word(meanings: Mapping[str, T], expected: str) -> Parser[T]:
    """Return a parser that accepts the strings in `meanings`."""

    def parse(value: object) -> T:
        if not isinstance(value, str) or value not in meanings:
            raise Unexpected(expected)
        return meanings[value]

    return parse


def number(low: float, high: float, unit: str = "") -> Parser[float]:
    """Return a parser that accepts numbers from `low` to `high` inclusive, and strings of such numbers."""
    expected = f"{unit}, a number from {low:g} to {high:g}" if unit else f"a number from {low:g} to {high:g}"

    def parse(value: object) -> float:
        result = _to_float(value)
        if not low <= result <= high:
            raise Unexpected(expected)
        return result

    return parse


def integer(low: int, high: int) -> Parser[int]:
    """Return a parser that accepts whole numbers from `low` to `high` inclusive, and strings of such numbers."""

    def parse(value: object) -> int:
        is_text = isinstance(value, str)
        if is_text:
            value = str(value).strip()
            value = value if _WHOLE_NUMBER.fullmatch(value) else None
        result = _to_float(value)
        if not low <= result <= high or result != int(result):
            raise Unexpected(f"a whole number from {low} to {high}")
        # Not by way of a float, which holds only whole numbers up to 2^53.
        return int(str(value).partition(".")[0]) if is_text else int(value)  # type: ignore[call-overload]

    return parse


def comma_separated(value: object) -> tuple[str, ...]:
    """Parse items that commas separate. Empty ones are left out."""
    return tuple(part.strip() for part in str(value).split(",") if part.strip())


def hosts(value: object) -> tuple[str, ...]:
    """Parse names or addresses of hosts, comma-separated."""
    names = tuple(host.removesuffix(".") for host in comma_separated(value))  # as in requests
    if not all(map(_HOST.fullmatch, names)):
        raise Unexpected("names or addresses without ports, such as a.example, *.a.example or [::1]")
    return names


def seconds(low: float, high: float) -> Parser[float]:
    """Return a parser that accepts numbers of seconds from `low` to `high` inclusive."""
    return number(low, high, "seconds")


def web_address(value: object) -> str:
    """Parse an address of HTTP or HTTPS."""
    if not str(value).startswith(("http://", "https://")):
        raise Unexpected("an address that begins with http:// or https://")
    return str(value)


def webhook_secrets(value: object) -> tuple[bytes, ...]:
    """Parse secrets in the form of Standard Webhooks, comma-separated, and return their bytes."""
    secrets = []
    for text in comma_separated(value):
        try:
            secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            secret = b""
        if not text.startswith("whsec_") or not 24 <= len(secret) <= 64:
            raise Unexpected("whsec_ and 24 to 64 random bytes in base64, or several of these, comma-separated")
        secrets.append(secret)
    return tuple(secrets)


def short_repr(value: object) -> str:
    """Return the repr of a value for an error message, shortened to 60 characters.

    A value that Python does not write out, because it is nested too deeply or is a number of thousands of digits, is
    described by its type.
    """
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    except ValueError:
        return f"a {type(value).__name__} with a number of too many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _to_float(value: object) -> float:
    """Convert a number, or a string of a number, to a float. Return NaN, which lies in no range, for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return float("nan")
    try:
        return float(value)
    except (ValueError, OverflowError):
        return float("nan")
