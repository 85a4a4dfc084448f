"""The entries of the window cache: whatever a file says, a window that can be answered with comes out, or none."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from handler.output.formats import render
from handler.schema.options import FORMATS, Options
from handler.schema.transcript import Evidence, Transcript, Word, text_of
from handler.schema.window import Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.merge import gap_warnings, measure_coverage, merge_windows
from handler.transcription.window_entry import decode, encode, seal
from tests.support.segments import make_segment

WINDOW = Window(16_000, np.zeros(32_000, np.float32), ((16_000, 40_000),), channel=1)
WORD = Word(1.0, 1.5, " decoded", 0.9, ((5, -0.1), (6, -0.2)))
SEGMENTS = [
    replace(make_segment("decoded before", 1.0), words=(WORD, Word(1.5, 2.0, " before", 0.8)), channel=1),
    replace(make_segment("and after", 2.0, 0.2), tokens=(1, 2), language="en", channel=1),
]
SEGMENTS[1] = replace(SEGMENTS[1], evidence=Evidence(-0.1, 0, 1, 0.2, 3, False))
DECODED = DecodedWindow(16_000, 48_000, WINDOW.speech, 1, SEGMENTS, False, [(1.0, "cut")])
CONTENT = json.loads(encode("key", DECODED).partition(b"\n")[2])


def read_back(content: object) -> DecodedWindow:
    """Return the decoded window of an entry that has this content and the right checksum."""
    return decode("key", seal("key", json.dumps(content).encode()), WINDOW)


def test_a_window_comes_back_as_it_was() -> None:
    assert read_back(CONTENT) == DECODED


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), []),
        (("segments",), {}),
        (("segments", 0), None),
        (("segments", 0, "start"), 0.5),  # before the window
        (("segments", 0, "end"), 3.5),  # after it
        (("segments", 1, "end"), 1.9),  # before the start
        (("segments", 0, "start"), 2.5),  # after the next segment
        (("segments", 0, "start"), "1.0"),
        (("segments", 0, "start"), True),
        (("segments", 0, "start"), 10**400),
        (("segments", 0, "end"), float("nan")),
        (("segments", 0, "text"), 5),
        (("segments", 0, "text"), "\ud800"),
        (("segments", 0, "channel"), 0),
        (("segments", 0, "words", 0, "start"), 1.8),  # after the next word
        (("segments", 0, "words", 0, "probability"), 1.5),
        (("segments", 0, "words", 0, "tokens"), [[1, 2, 3]]),
        (("segments", 0, "words", 0, "tokens", 0), [1, 1e300]),
        (("segments", 1, "tokens", 0), -1),
        (("segments", 1, "tokens", 0), 2**40),
        (("segments", 1, "tokens", 0), 1.0),
        (("segments", 1, "language"), "klingon"),
        (("segments", 1, "language"), ["en"]),
        (("segments", 1, "evidence", "avg_logprob"), float("-inf")),
        (("segments", 1, "evidence", "looped"), 0),
        (("segments", 1, "evidence", "surprise"), 0),
        (("is_accepted",), "yes"),
        (("warnings", 0), [1.0, "cut", "twice"]),
        (("warnings", 0, 1), None),
    ],
)
def test_a_value_that_cannot_be_is_refused(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_back(with_value(CONTENT, path, value))


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        read_back({name: value for name, value in CONTENT.items() if name != "warnings"})


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'{"segments":' * 100_000, b"9" * 100_000])
def test_content_that_is_no_json_of_a_few_levels_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        decode("key", seal("key", content), WINDOW)


def with_value(content: Any, path: tuple[str | int, ...], value: object) -> Any:
    """Return a copy of a JSON value in which the value at `path` is another one."""
    if not path:
        return value
    items = dict(content) if isinstance(content, dict) else dict(enumerate(content))
    items[path[0]] = with_value(items.get(path[0]), path[1:], value)
    return items if isinstance(content, dict) else list(items.values())


def paths_in(content: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside of a JSON value, its own first."""
    yield ()
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for name, value in items:
            yield from ((name, *path) for path in paths_in(value))


STRANGE_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2,
    1e-300,
    2**63,
    10**400,
    1.7,
    "",
    " ",
    "a\n-->\0",
    "\u202e",
    "de",
    [],
    [[]],
    {},
    [1, 2],
)


def test_a_window_with_strange_values_is_answered_in_every_format_or_refused() -> None:
    num_answered = 0
    for path in paths_in(CONTENT):
        for value in STRANGE_VALUES:
            try:
                window = read_back(with_value(CONTENT, path, value))
            except ValueError:
                continue
            answer(window)
            num_answered += 1
    assert num_answered > 50


def answer(window: DecodedWindow) -> None:
    """Render a transcript of a single window in every format."""
    segments = merge_windows([window])
    coverage = measure_coverage([window], segments)
    for format in FORMATS:
        options = Options(format=format, timestamps="word", channels="split")
        warnings = (*gap_warnings(coverage), *(text for _, text in window.warnings))
        transcript = Transcript(
            text_of(segments), tuple(segments), "en", None, 3.0, "m", options, {}, coverage, warnings=warnings
        )
        json.dumps(render(transcript, format), allow_nan=False, ensure_ascii=False).encode()
