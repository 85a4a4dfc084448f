"""Any value in an answer can be sent as JSON, and its size is known."""

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
    *(math.nan, math.inf, -math.inf),
    *(np.float32(1.5), np.float64(math.nan), np.int64(7), np.bool_(True), np.arange(3), np.array(2.0)),
    *("half \ud83d a character", "\udcff", "plain", "käse 日本", b"bytes"),
    *(None, True, 10**30),
    *((1, 2), {3, 4}, {5: "five", "\ud800": 6}),
    object(),
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_an_odd_value_becomes_one_that_json_has(value: Any) -> None:
    plain = to_jsonable({"field": value, "list": [value], "next": "stays"})
    body = json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
    assert json.loads(body)["next"] == "stays"
    assert encode_json(plain) == body


def test_values_that_json_can_express_are_kept() -> None:
    values = [np.float32(1.5), np.int64(7), np.arange(2), math.nan, True, "日本"]
    assert to_jsonable(values) == [1.5, 7, [0, 1], None, True, "日本"]
    assert "\ufffd" in to_jsonable("a \ud83d") or "?" in to_jsonable("a \ud83d")


ODD_FIELDS: list[Any] = [math.nan, math.inf, np.float32("nan"), np.float64(1), "\ud800", np.str_("text")]


@pytest.mark.parametrize("odd", ODD_FIELDS, ids=repr)
def test_the_whole_schema_is_sent_with_any_of_its_fields_odd(odd: Any) -> None:
    word = Word(0.0, 1.0, " word", 0.9)
    evidence = Evidence(-0.1, 0.0, 1.0, 0.0, 3, looped=False)
    segment = Segment(0.0, 1.0, " word", (1, 2), evidence, (word,), "en", 0)
    transcript = Transcript(
        text="word",
        segments=(segment,),
        language="en",
        language_probability=0.9,
        duration=1.0,
        model="model",
        options=Options(timestamps="word", language="multi"),
        timing={"total": 1.0},
        coverage=Coverage(1.0, 1.0, (Gap(0.0, 1.0, 0),)),
        account={"audio_s": 1.0},
        resume_at=1.0,
        warnings=("warning",),
        cold_start={"ready": 1.0},
    )
    odd_type = float if not isinstance(odd, str) else str

    def spoil(value: Any) -> Any:
        """Return the value with every field of the odd value's type replaced by it."""
        if isinstance(value, odd_type) and not isinstance(value, bool):
            return odd
        if isinstance(value, tuple):
            return tuple(map(spoil, value))
        if isinstance(value, dict):
            return {name: spoil(item) for name, item in value.items()}
        if isinstance(value, Options) or not hasattr(value, "__dataclass_fields__"):
            return value
        return replace(value, **{field.name: spoil(getattr(value, field.name)) for field in fields(value)})

    spoiled = spoil(transcript)
    plain = to_jsonable(to_verbose_json(replace(spoiled, segments=spoiled.segments)))
    assert json.loads(encode_json(plain))["chunks"][0]["words"]
