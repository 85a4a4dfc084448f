"""Convert values to JSON types, and encode them to bytes. Pure functions. Knows no field of the API."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_jsonable(value: Any) -> Any:
    """Convert a value to types that JSON can represent.

    NaN and infinity become None, and unpaired surrogates in strings become question marks. A NumPy value becomes a
    number or a list. A value of any other type is converted with `str`, because an answer with one odd field is better
    than no answer.
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
    """Encode a value of JSON types to the bytes that the RunPod SDK would send for it.

    The items of the outer levels are encoded one by one, because each call of json.dumps blocks all other threads until
    it returns. Source: runpod/serverless/modules/rp_http.py.
    """
    return b"".join(_encode_parts(value))


def _encode_parts(value: Any, depth: int = 3) -> list[bytes]:
    if depth and isinstance(value, dict) and value:
        fields = [_dumps(name) + b": " + b"".join(_encode_parts(item, depth - 1)) for name, item in value.items()]
        return [b"{", b", ".join(fields), b"}"]
    if depth and isinstance(value, list) and value:
        items = [b"".join(_encode_parts(item, depth - 1)) for item in value]
        return [b"[", b", ".join(items), b"]"]
    return [_dumps(value)]


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
