"""Read from a checkpoint's model card (README.md) which languages the checkpoint knows.

Source: huggingface.co/docs/hub/model-cards (the metadata at the start of the card).
"""

import re
from contextlib import suppress
from pathlib import Path

from handler.languages import language_code

_MAX_BYTES = 1024**2
_HEAD = re.compile(r"\A---\r?\n(.*?)\n---", re.DOTALL)
_LANGUAGE = re.compile(r"^language:[ \t]*(?P<line>[^\n]*)(?P<items>(?:\n[ \t]*-[ \t][^\n]*)*)", re.MULTILINE)


def stated_languages(folder: Path) -> tuple[str, ...]:
    """Return the codes of the languages that the model card states, in its order. Return () if it states none.

    What is no language that this server has a code for is left out.
    """
    text = ""
    with suppress(OSError), (folder / "README.md").open("rb") as file:
        text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    head = _HEAD.search(text)
    field = _LANGUAGE.search(head[1]) if head else None
    if field is None:
        return ()
    values = [*field["line"].strip().strip("[]").split(","), *(item.strip()[1:] for item in field["items"].split("\n"))]
    codes = (language_code(value.strip().strip("'\"").lower()) for value in values)
    return tuple(dict.fromkeys(code for code in codes if code is not None))
