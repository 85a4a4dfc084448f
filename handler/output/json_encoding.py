"""Anything to what JSON can carry, and how many bytes that is on its way to the queue. Pure; knows no field."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_jsonable(value: Any) -> Any:
    """The same in JSON's types: a number that is none becomes null, half a character the mark that stands for one.

    What has no counterpart becomes its text: an answer with one odd field is better than none.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {to_jsonable(str(name)): to_jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_jsonable(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_jsonable(value.tolist())
    return to_jsonable(str(value))


def encode_json(value: Any) -> bytes:
    """JSON as the SDK encodes it. Item by item, since the interpreter does nothing else while it encodes one.

    Source: runpod/serverless/modules/rp_http.py.
    """
    return b"".join(_parts(value))


def _parts(value: Any, depth: int = 3) -> list[bytes]:
    if depth and isinstance(value, dict) and value:
        fields = [b", ".join([_plain(name) + b": " + b"".join(_parts(item, depth - 1))]) for name, item in value.items()]
        return [b"{", b", ".join(fields), b"}"]
    if depth and isinstance(value, list) and value:
        return [b"[", b", ".join(b"".join(_parts(item, depth - 1)) for item in value), b"]"]
    return [_plain(value)]


def _plain(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
