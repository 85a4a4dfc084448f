"""Read the names and values of forms and queries as clients write them. Knows no route and no body.

PHP, Ruby and several clients of mobile devices write an array as `name[]`, or as `name[0]`, `name[1]` and so on. Others
repeat the name.
"""

import json
import re
from collections.abc import Iterable

from handler.errors import InvalidRequest
from handler.schema.options import JSON_LIST_OPTIONS, LIST_OPTIONS

_ARRAY_NAME = re.compile(r"([^\[\]]+)\[([0-9]{0,4})\]")


def split_array_name(name: str) -> tuple[str, int | None]:
    """Split the name of an array's item, such as `name[]` or `name[2]`, into the array's name and the item's index.

    The index is 0 if there is none in the brackets, and None if `name` is no name of an item.
    """
    match = _ARRAY_NAME.fullmatch(name)
    return (name, None) if match is None else (match[1], int(match[2] or 0))


def join_arrays(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the values of a form or a query by name, with the items of an array joined by commas, or as JSON.

    An option that takes several values may also be repeated. Raises InvalidRequest if another one has two values.
    """
    items: dict[str, list[tuple[int, str]]] = {}
    for field, value in pairs:
        name, index = split_array_name(field)
        items.setdefault(name, []).append((index or 0, value))
    values = {name: [value for _, value in sorted(found, key=_index)] for name, found in items.items()}
    for name, found in values.items():
        if name not in (*LIST_OPTIONS, *JSON_LIST_OPTIONS) and len(set(found)) > 1:
            raise InvalidRequest(f"{name[:60]} must be given once; got {len(found)} values", name)
    return {name: _joined(name, found) for name, found in values.items()}


def _joined(name: str, found: list[str]) -> str:
    if name in LIST_OPTIONS:
        return ",".join(found)
    return json.dumps(found) if name in JSON_LIST_OPTIONS and len(found) > 1 else found[0]


def _index(item: tuple[int, str]) -> int:
    return item[0]
