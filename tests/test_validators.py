"""Validators: each takes what JSON and query strings carry, and refuses the rest with the field's name."""

from collections.abc import Callable

import pytest

from handler.errors import InvalidRequest
from handler.validators import boolean, check, integer, number, one_of, short_repr, string

Validator = Callable[[object], object]


@pytest.mark.parametrize(
    ("validator", "value", "result"),
    [
        (one_of(("a", "b")), "b", "b"),
        (string, "", ""),
        (string, "Zürich", "Zürich"),
        (boolean, True, True),
        (boolean, "TRUE", True),
        (boolean, "1", True),
        (boolean, "0", False),
        (boolean, "false", False),
        (number(0, 1), 0.25, 0.25),
        (number(0, 1), "0.25", 0.25),
        (number(0, 1), 1, 1.0),
        (number(-2, 0), "-1e0", -1.0),
        (integer(1, 8), 8, 8),
        (integer(1, 8), "8", 8),
        (integer(1, 8), 8.0, 8),
    ],
)
def test_a_value_in_either_form_becomes_a_typed_one(validator: Validator, value: object, result: object) -> None:
    parsed = check("field", value, validator)
    assert parsed == result
    assert type(parsed) is type(result)


@pytest.mark.parametrize(
    ("validator", "value", "expected"),
    [
        (one_of(("a", "b")), "A", "one of a, b"),
        (one_of(("a", "b")), None, "one of a, b"),
        (one_of(("a", "b")), ["a"], "one of a, b"),
        (string, 5, "a string"),
        (string, b"bytes", "a string"),
        (string, "\ud800", "whole characters"),
        (boolean, 1, "true or false"),
        (boolean, "yes", "true or false"),
        (boolean, None, "true or false"),
        (number(0, 1), -0.1, "a number from 0 to 1"),
        (number(0, 1), "nan", "a number from 0 to 1"),
        (number(0, 1), "inf", "a number from 0 to 1"),
        (number(0, 1), 10**400, "a number from 0 to 1"),
        (number(0, 1), False, "a number from 0 to 1"),
        (number(0, 1), {}, "a number from 0 to 1"),
        (integer(1, 8), 0, "a whole number from 1 to 8"),
        (integer(1, 8), 2.5, "a whole number from 1 to 8"),
        (integer(1, 8), "two", "a whole number from 1 to 8"),
    ],
)
def test_a_refusal_names_the_field_what_was_expected_and_what_came(
    validator: Validator, value: object, expected: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check("field", value, validator)
    assert refusal.value.field == "field"
    assert refusal.value.message.startswith(f"field must be {expected}")


def test_a_long_value_is_shown_by_its_beginning() -> None:
    assert short_repr("short") == "'short'"
    shown = short_repr(["x" * 1000])
    assert len(shown) == 60
    assert shown.startswith("['xxx")
    assert shown.endswith("...")


def nested(depth: int) -> object:
    value: object = {}
    for _ in range(depth):
        value = {"a": value}
    return value


UNPRINTABLE = {
    "a deep object": nested(10_000),
    "a list of a deep object": [nested(10_000)],
    "a number of thousands of digits": 10**5000,
    "a list of such a number": [10**5000],
    "an object of such a number": {"a": -(10**5000)},
}


@pytest.mark.parametrize("name", UNPRINTABLE)
@pytest.mark.parametrize("validator", [one_of(("a", "b")), string, boolean, number(0, 1), integer(1, 8)])
def test_a_value_that_python_does_not_write_out_is_refused_like_any_other(validator: Validator, name: str) -> None:
    value = UNPRINTABLE[name]
    with pytest.raises(InvalidRequest) as refusal:
        check("field", value, validator)
    assert refusal.value.message.startswith("field must be ")
    assert type(value).__name__ in refusal.value.message
