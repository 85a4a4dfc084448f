"""Values as doors get them, JSON or strings, to typed ones: each reader takes a name and a value. Knows no option."""

from collections.abc import Callable

from handler.errors import InvalidRequest


def one_of(values: tuple[str, ...]) -> Callable[[str, object], str]:
    """One of some words."""

    def parse(name: str, value: object) -> str:
        if value not in values:
            raise InvalidRequest(f"{name} must be one of {', '.join(values)}; got {short_repr(value)}", name)
        return str(value)

    return parse


def string(name: str, value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string; got {short_repr(value)}", name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} must be whole characters; got half of one", name) from None
    return value


def boolean(name: str, value: object) -> bool:
    """True or false, also as 1 or 0."""
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in known:
        raise InvalidRequest(f"{name} must be true or false; got {short_repr(value)}", name)
    return known[value.lower()]


def number(low: float, high: float) -> Callable[[str, object], float]:
    """A number from `low` to `high`."""

    def parse(name: str, value: object) -> float:
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else float("nan")
        except (ValueError, OverflowError):
            number = float("nan")
        if not low <= number <= high:
            raise InvalidRequest(f"{name} must be a number from {low:g} to {high:g}; got {short_repr(value)}", name)
        return number

    return parse


def integer(low: int, high: int) -> Callable[[str, object], int]:
    """A whole number from `low` to `high`."""
    read = number(low, high)

    def parse(name: str, value: object) -> int:
        found = read(name, value)
        if found != int(found):
            raise InvalidRequest(f"{name} must be a whole number from {low} to {high}; got {short_repr(value)}", name)
        return int(found)

    return parse


def short_repr(value: object) -> str:
    """A value as an error shows it: short, whatever came."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
