"""Make the fields of Options: each with its default, parser and JSON schema. Knows no option."""

from dataclasses import field
from typing import Any

from handler.validators import Parser, boolean, integer, number, one_of


def option_field(default: Any, description: str, parse: Parser[Any], schema: dict[str, Any]) -> Any:
    """Return a dataclass field for an option, with the option's parser and JSON schema in the field's metadata."""
    stated_default = {} if default is None else {"default": default}
    full_schema = {**schema, **stated_default, "description": description}
    return field(default=default, metadata={"parse": parse, "schema": full_schema})


def choice_field(default: str | None, description: str, values: tuple[str, ...]) -> Any:
    """Return a field for an option that is one of some strings."""
    return option_field(default, description, one_of(values), {"type": "string", "enum": list(values)})


def float_field(default: float | None, description: str, low: float, high: float) -> Any:
    """Return a field for an option that is a number from `low` to `high`."""
    return option_field(default, description, number(low, high), {"type": "number", "minimum": low, "maximum": high})


def integer_field(default: int | None, description: str, low: int, high: int) -> Any:
    """Return a field for an option that is a whole number from `low` to `high`."""
    return option_field(default, description, integer(low, high), {"type": "integer", "minimum": low, "maximum": high})


def boolean_field(default: bool, description: str) -> Any:
    """Return a field for an option that is true or false."""
    return option_field(default, description, boolean, {"type": "boolean"})
