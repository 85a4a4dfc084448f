"""Validate untyped values, which come from JSON or as strings, for all entry points. Knows no option.

A validator is called with the name and the value of a field. It returns a typed value or raises InvalidRequest.
"""

from collections.abc import Callable

from handler.errors import InvalidRequest

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def one_of(values: tuple[str, ...]) -> Callable[[str, object], str]:
    """Return a validator that accepts the strings in `values`."""

    def parse(name: str, value: object) -> str:
        if value not in values:
            raise InvalidRequest(f"{name} must be one of {', '.join(values)}; got {short_repr(value)}", name)
        return str(value)

    return parse


def string(name: str, value: object) -> str:
    """Validate a string. Only strings without unpaired surrogates are valid, because UTF-8 can encode no others."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string; got {short_repr(value)}", name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} must be whole characters; got half of one", name) from None
    return value


def boolean(name: str, value: object) -> bool:
    """Validate a boolean, or a string that stands for one: true, false, 1 or 0."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in _BOOLEANS:
        raise InvalidRequest(f"{name} must be true or false; got {short_repr(value)}", name)
    return _BOOLEANS[value.lower()]


def number(low: float, high: float) -> Callable[[str, object], float]:
    """Return a validator that accepts numbers from `low` to `high` inclusive, and strings of such numbers."""

    def parse(name: str, value: object) -> float:
        result = _to_float(value)
        if not low <= result <= high:
            raise InvalidRequest(f"{name} must be a number from {low:g} to {high:g}; got {short_repr(value)}", name)
        return result

    return parse


def integer(low: int, high: int) -> Callable[[str, object], int]:
    """Return a validator that accepts whole numbers from `low` to `high` inclusive, and strings of such numbers."""
    parse_number = number(low, high)

    def parse(name: str, value: object) -> int:
        result = parse_number(name, value)
        if result != int(result):
            raise InvalidRequest(f"{name} must be a whole number from {low} to {high}; got {short_repr(value)}", name)
        return int(result)

    return parse


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
