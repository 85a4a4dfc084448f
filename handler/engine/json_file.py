"""Read JSON objects from the files of a checkpoint, which may be damaged or hostile. Knows no model."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 16 * 1024**2  # an index of several weight files takes 120 kB, a configuration a few kB


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises OSError if the file cannot be read, and ValueError if it is too large or holds no JSON object of a few levels
    and of finite numbers.
    """
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"expected at most {MAX_JSON_BYTES} bytes")
    return parse_json(text)


def parse_json(text: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises ValueError if the text is none, or has too many levels, numbers that are not finite or names that occur twice
    in an object.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError as exc:
        raise ValueError("expected JSON of a few levels") from exc
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"expected finite numbers; found {name}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        name, _ = next(pair for pair in Counter(name for name, _ in pairs).items() if pair[1] > 1)
        raise ValueError(f"expected names that differ; {name[:60]!r} occurs twice")
    return content
