"""Whatever stands in an answer can be sent, and its size is known."""

import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from handler.output.formats import to_verbose_json
from handler.output.json_encoding import encode_json, to_jsonable
from handler.schema.options import Options
from handler.schema.transcript import Coverage, Evidence, Gap, Segment, Transcript, Word

ODD: list[Any] = [
    math.nan, math.inf, -math.inf, np.float32(1.5), np.float64(math.nan), np.int64(7), np.bool_(True), np.arange(3), np.array(2.0),
    "half \ud83d a character", "\udcff", "plain", "käse 日本", None, True, 10**30, (1, 2), {3, 4}, {5: "five", "\ud800": 6}, b"bytes",
    object(),
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_an_odd_value_becomes_one_that_json_has(value: Any) -> None:
    plain = to_jsonable({"field": value, "list": [value], "next": "stays"})
    body = json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
    assert json.loads(body)["next"] == "stays"
    assert encode_json(plain) == body


def test_what_is_known_is_kept() -> None:
    assert to_jsonable([np.float32(1.5), np.int64(7), np.arange(2), math.nan, True, "日本"]) == [1.5, 7, [0, 1], None, True, "日本"]
    assert "\ufffd" in to_jsonable("a \ud83d") or "?" in to_jsonable("a \ud83d")


@pytest.mark.parametrize("odd", [math.nan, math.inf, np.float32("nan"), np.float64(1), "\ud800", np.str_("text")], ids=repr)
def test_the_whole_schema_is_sent_with_any_of_its_fields_odd(odd: Any) -> None:
    word = Word(0.0, 1.0, " word", 0.9)
    evidence = Evidence(-0.1, 0.0, 1.0, 0.0, 3, looped=False)
    segment = Segment(0.0, 1.0, " word", (1, 2), evidence, (word,), "en", 0)
    whole = Transcript(
        "word", (segment,), "en", 0.9, 1.0, "model", Options(timestamps="word", language="multi"), {"total": 1.0},
        Coverage(1.0, 1.0, (Gap(0.0, 1.0, 0),)), {"audio_s": 1.0}, 1.0, ("warning",), {"ready": 1.0},
    )  # fmt: skip
    kinds = float if not isinstance(odd, str) else str

    def spoil(one: Any) -> Any:
        """The same with every field of that kind odd."""
        if isinstance(one, kinds) and not isinstance(one, bool):
            return odd
        if isinstance(one, tuple):
            return tuple(map(spoil, one))
        if isinstance(one, dict):
            return {name: spoil(value) for name, value in one.items()}
        if isinstance(one, Options) or not hasattr(one, "__dataclass_fields__"):
            return one
        return replace(one, **{f.name: spoil(getattr(one, f.name)) for f in fields(one)})

    spoiled = spoil(whole)
    plain = to_jsonable(to_verbose_json(replace(spoiled, segments=spoiled.segments)))
    assert json.loads(encode_json(plain))["chunks"][0]["words"]
