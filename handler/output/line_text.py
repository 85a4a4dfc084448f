"""Make text fit for formats that have no escapes: plain text, SubRip and tables. Pure functions. Knows no transcript.

A text can hold any character, because a model's tokens can. Control characters act on terminals, line breaks end a
line or a cue, and characters that override the direction of text show it in another order.
"""

import re

_BREAKS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]+")  # tabs, line breaks and separators
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
# Players read `<i>` and `{\an8}` as markup. They show "<" before a space, a digit or a sign as it is, as in "I <3 it".
_TAG = re.compile(r"<(?=[^\W\d]|[/!?])([^<>]*)(>?)")
_OVERRIDE = re.compile(r"\{(?=\\)")
# Spreadsheets read such a cell as a formula, also in quotes, and the wide forms of the signs in some languages.
_FORMULA = re.compile('["\\s]*[=+\\-@＝＋－＠]')


def without_controls(text: str) -> str:
    """Replace line breaks and tabs by spaces, and remove control characters and overrides of the text's direction."""
    return _BREAKS.sub(" ", _CONTROLS.sub("", text))


def to_line(text: str) -> str:
    """Return a text as one line without control characters and without spaces at both ends."""
    parts = _BREAKS.split(_CONTROLS.sub("", text))
    return " ".join(part.strip() for part in parts if part.strip())


def to_cell(text: str) -> str:
    """Return a text as a cell of a tab-separated table, with single spaces.

    A cell that a spreadsheet would read as a formula gets an apostrophe before it. Source: OWASP, CSV injection.
    """
    cell = " ".join(without_controls(text).split())
    return f"'{cell}" if _FORMULA.match(cell) else cell


def without_markup(line: str) -> str:
    """Replace the brackets of what a player of SubRip would read as markup by others that look alike."""
    line = _TAG.sub(lambda tag: f"‹{tag[1]}{'›' if tag[2] else ''}", line)
    return _OVERRIDE.sub("(", line)
