"""Parse the values of options that are more than a number, a string or a choice. Knows no option."""

import json
import re
from contextlib import suppress
from typing import Any

from handler.validators import Unexpected, integer, number, string

MIN_TEMPERATURE_STEP = 0.05  # smallest difference between two fallback temperatures
MAX_SPEAKERS = 64
REDACTED_KINDS = ("email", "iban", "card", "phone", "digits")
MAX_KNOWN_SPEAKERS, MAX_NAME_CHARS = 10, 64
MAX_SAMPLES_CHARS = 8 * 1024**2  # of all samples of known speakers
MAX_REPLACEMENTS, MAX_PHRASE_CHARS = 500, 400
_SPEAKERS = re.compile(r"\d{1,3} *- *\d{1,3}", re.ASCII)
_JOINERS = re.compile("[\u200c\u200d]")  # parts of names in Persian and in languages of India
_TOKEN_ID = re.compile(r"-1|[0-9]{1,9}")


def listed(value: object) -> Any:
    """Return the items of text that commas separate, or any other value as it is."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def temperature_step(value: object) -> float:
    """Parse the step between two fallback temperatures."""
    step = number(0, 1)(value)
    if 0 < step < MIN_TEMPERATURE_STEP:
        raise Unexpected(f"0, or at least {MIN_TEMPERATURE_STEP:g}")
    return step


def speaker_range(value: object) -> tuple[int, int]:
    """Return the least and the greatest number of speakers."""
    text = value.strip() if isinstance(value, str) else value
    parts = text.split("-") if isinstance(text, str) and _SPEAKERS.fullmatch(text) else [text, text]
    try:
        low, high = (integer(1, MAX_SPEAKERS)(part.strip() if isinstance(part, str) else part) for part in parts)
    except Unexpected:
        low, high = 1, 0
    if low > high:
        raise Unexpected(f"a whole number from 1 to {MAX_SPEAKERS}, or two with - between them, such as 2-4")
    return low, high


def replacements(value: object) -> tuple[tuple[str, str], ...]:
    """Return the pairs of an object, which may be JSON in a string."""
    phrases: Any = value
    with suppress(ValueError, RecursionError):
        phrases = json.loads(value) if isinstance(value, str) else value
    is_object = isinstance(phrases, dict) and 0 < len(phrases) <= MAX_REPLACEMENTS
    if not is_object or not all(isinstance(text, str) for pair in phrases.items() for text in pair):
        raise Unexpected(f"an object of at most {MAX_REPLACEMENTS} phrases and what replaces them, as JSON in a string")
    pairs = tuple((string(phrase).strip(), string(other)) for phrase, other in phrases.items())
    if any(not phrase or len(phrase + other) > MAX_PHRASE_CHARS for phrase, other in pairs):
        raise Unexpected(f"phrases of 1 to {MAX_PHRASE_CHARS} characters together with what replaces them")
    return pairs


def texts(value: object, max_chars: int = MAX_SAMPLES_CHARS) -> tuple[str, ...]:
    """Return texts, which may be a list, the same as JSON in a string, or one text."""
    items: Any = value
    if isinstance(value, str):
        items = [value]
        with suppress(ValueError, RecursionError):
            items = json.loads(value) if value.startswith("[") and len(value) <= max_chars else items
    if not isinstance(items, list | tuple) or not 0 < len(items) <= MAX_KNOWN_SPEAKERS:
        raise Unexpected(f"a list of 1 to {MAX_KNOWN_SPEAKERS} texts, as JSON in a string, or one text")
    return tuple(string(item) for item in items)


def speaker_names(value: object) -> tuple[str, ...]:
    """Return the names of speakers, which are all different."""
    names = tuple(name.strip() for name in texts(value, 2 * MAX_KNOWN_SPEAKERS * MAX_NAME_CHARS))
    if len(set(names)) < len(names) or not all(map(_is_name, names)):
        raise Unexpected(f"different names of 1 to {MAX_NAME_CHARS} characters, on one line")
    return names


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_CHARS and _JOINERS.sub("", name).isprintable()


def redacted_kinds(value: object) -> tuple[str, ...]:
    """Return kinds of what is redacted, in the order of REDACTED_KINDS."""
    items = listed(value)
    if not isinstance(items, list | tuple) or not items or not all(item in REDACTED_KINDS for item in items):
        raise Unexpected(f"one or several of {', '.join(REDACTED_KINDS)}, comma-separated or as a list")
    return tuple(kind for kind in REDACTED_KINDS if kind in items)


def token_ids(value: object) -> tuple[int, ...]:
    """Parse ids of tokens, which may be a list or separated by commas."""
    items = listed(value)
    if isinstance(value, str):
        items = [int(item) if _TOKEN_ID.fullmatch(item) else item for item in items]
    if isinstance(items, list | tuple) and all(map(_is_token_id, items)):
        return tuple(items)
    raise Unexpected("token ids, comma-separated or as a list; -1 stands for the usual ones")


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 10**9
