"""The content of a file of the window cache: a decoded window as bytes, and back. Knows no folder.

An entry begins with a line that holds the version of the format and a checksum over the entry's key and content. The
content is JSON. The checksum tells damage, not forgery, because whoever can write a file can also compute its checksum.
`decode` therefore trusts nothing in the content that the rest of the program relies on, such as the type of a field.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, NoReturn, TypeVar

from handler.languages import LANGUAGES
from handler.schema.transcript import Evidence, Segment, Word
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.decoded_window import DecodedWindow

MAX_ENTRY_BYTES = 4 * 1024**2  # the words of a window take a few kilobytes
_MAGIC = b"decoded window 2 "  # the number is the version of the format
_MAX_TOKEN = 2**31 - 1
_MARGIN_S = 0.01  # times are rounded to milliseconds
_MAX_MAGNITUDE = 1e6  # of log-probabilities, temperatures and ratios
_CONTENT = ("segments", "is_accepted", "warnings")  # the other fields of a DecodedWindow are those of its window
_FOUND_LATER = ("speaker", "overlapping")  # fields of segments and words that a decoded window does not have yet
_SURROGATE = re.compile("[\ud800-\udfff]")
T = TypeVar("T")


def encode(key: str, decoded: DecodedWindow) -> bytes:
    """Return the entry for a decoded window.

    Raises ValueError if a number is not finite, if a text cannot be encoded as UTF-8, or if the entry would take more
    than MAX_ENTRY_BYTES.
    """
    values = asdict(decoded, dict_factory=_stored_fields)
    content = json.dumps({name: values[name] for name in _CONTENT}, allow_nan=False, ensure_ascii=False).encode()
    entry = seal(key, content)
    if len(entry) > MAX_ENTRY_BYTES:
        raise ValueError(f"the entry has {len(entry)} bytes, expected at most {MAX_ENTRY_BYTES}")
    return entry


def decode(key: str, entry: bytes, window: Window) -> DecodedWindow:
    """Return the decoded form of `window` that an entry holds.

    Raises ValueError if the entry is damaged, of another format or another key, or if its content is not what `encode`
    writes: each value of the expected type, numbers finite, times in order and inside the window.
    """
    content = entry[len(seal(key, b"")) :]
    if entry != seal(key, content):
        raise ValueError("expected an entry of this format whose checksum matches its key and content")
    try:
        values = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise ValueError("expected JSON of a few levels") from exc
    segments, is_accepted, warnings = _values(values, _CONTENT)
    span_s = (window.start / SAMPLE_RATE - _MARGIN_S, window.end / SAMPLE_RATE + _MARGIN_S)
    return DecodedWindow(
        window.start,
        window.end,
        window.speech,
        window.channel,
        _in_order([_segment(segment, span_s, window.channel) for segment in _list(segments)]),
        _boolean(is_accepted),
        [(_number(seconds, *span_s), _text(text)) for seconds, text in map(_pair, _list(warnings))],
    )


def seal(key: str, content: bytes) -> bytes:
    """Return the entry that has this content."""
    checksum = hashlib.sha256(key.encode() + b"\n" + content).hexdigest()
    return _MAGIC + checksum.encode() + b"\n" + content


def _segment(values: Any, span_s: tuple[float, float], channel: int | None) -> Segment:
    """Return the segment that a JSON object describes. Its times lie in `span_s`. Raises ValueError."""
    start, end, text, tokens, evidence, words, language, stored_channel = _values(values, _names(Segment))
    if stored_channel != channel or (language is not None and _text(language) not in LANGUAGES):
        raise ValueError("expected the channel of the window, and a known language")
    start = _number(start, *span_s)
    return Segment(
        start,
        _number(end, start, span_s[1]),
        _text(text),
        tuple(_integer(token, _MAX_TOKEN) for token in _list(tokens)),
        None if evidence is None else _evidence(evidence),
        tuple(_in_order([_word(word, span_s) for word in _list(words)])),
        language,
        channel,
    )


def _word(values: Any, span_s: tuple[float, float]) -> Word:
    start, end, text, probability, tokens = _values(values, _names(Word))
    start = _number(start, *span_s)
    pairs = map(_pair, _list(tokens))
    return Word(
        start,
        _number(end, start, span_s[1]),
        _text(text),
        _number(probability, 0, 1 + _MARGIN_S),
        tuple((_integer(token, _MAX_TOKEN), _number(logprob, -_MAX_MAGNITUDE, 1)) for token, logprob in pairs),
    )


def _evidence(values: Any) -> Evidence:
    avg_logprob, no_speech_prob, compression_ratio, temperature, tokens, *flags = _values(values, _names(Evidence))
    return Evidence(
        _number(avg_logprob, -_MAX_MAGNITUDE, 1),
        _number(no_speech_prob, 0, 1 + _MARGIN_S),
        _number(compression_ratio, 0, _MAX_MAGNITUDE),
        _number(temperature, 0, _MAX_MAGNITUDE),
        _integer(tokens, _MAX_TOKEN),
        *map(_boolean, flags),
    )


def _stored_fields(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if name not in _FOUND_LATER}


def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record) if field.name not in _FOUND_LATER)


def _values(value: Any, names: Sequence[str]) -> list[Any]:
    """Return the values of a JSON object in the order of `names`. Raises ValueError unless it has exactly these."""
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ValueError(f"expected an object of {', '.join(names)}")
    return [value[name] for name in names]


def _list(value: Any) -> list[Any]:
    return _checked(value, list, lambda _: True, "a list")


def _pair(value: Any) -> list[Any]:
    return _checked(value, list, lambda items: len(items) == 2, "a list of two")


def _boolean(value: Any) -> bool:
    return _checked(value, bool, lambda _: True, "true or false")


def _integer(value: Any, high: int) -> int:
    return _checked(value, int, lambda number: 0 <= number <= high, f"a whole number from 0 to {high}")


def _number(value: Any, low: float, high: float) -> float:
    kind = int if type(value) is int else float
    return _checked(value, kind, lambda number: low <= number <= high, f"a number from {low} to {high}")


def _text(value: Any) -> str:
    """Return a text. Raises ValueError if it is none, or has half of a surrogate pair, which nobody could send."""
    return _checked(value, str, lambda text: not _SURROGATE.search(text), "a text")


def _checked(value: Any, kind: type[T], accept: Callable[[T], bool], expected: str) -> T:
    """Return a value that has exactly the type `kind`, and that `accept` accepts. Raises ValueError."""
    if type(value) is not kind or not accept(value):
        raise ValueError(f"expected {expected}")
    return value


def _in_order(parts: list[T]) -> list[T]:
    """Return segments or words. Raises ValueError unless each starts where the one before it starts, or later."""
    starts = [part.start for part in parts]  # type: ignore[attr-defined]
    if starts != sorted(starts):
        raise ValueError("expected times in order")
    return parts


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"expected a finite number; found {name}")
