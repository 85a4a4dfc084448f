"""Find the code that a checkpoint brings, by what its files name. Knows no network, and runs nothing.

Classes are named under `auto_map`, each as MODULE.CLASS of a Python file beside it, or as REPOSITORY--MODULE.CLASS.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from handler.engine.json_file import read_json

_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
_OWN = re.compile(r"(\w+)\.\w+")  # a module and a class


def named_code(folder: Path) -> list[str]:
    """Return the names of all classes of its own that the checkpoint in a folder has, sorted."""
    names: set[str] = set()
    for file in _FILES:
        with suppress(OSError, ValueError):  # such a file is reported by whoever needs it
            names |= set(_names(read_json(folder / file).get("auto_map")))
    return sorted(names)


def foreign_code(folder: Path) -> str | None:
    """Return the name of a class that lies anywhere but in a file beside the checkpoint, or None."""
    return next((name for name in named_code(folder) if not _OWN.fullmatch(name)), None)


def lacks_code(folder: Path) -> bool:
    """Return whether a Python file is missing that the checkpoint in a folder names."""
    modules = (match[1] for name in named_code(folder) if (match := _OWN.fullmatch(name)))
    return any(not (folder / f"{module}.py").is_file() for module in modules)


def _names(value: object) -> Iterator[str]:
    """Yield the names in an `auto_map`, whose values may be lists with None in them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)
