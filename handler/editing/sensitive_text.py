"""Find what is sensitive in text: card and telephone numbers, IBANs, e-mail addresses and digits in a row.

Speech recognizers write such numbers in many ways: `4111 1111 1111 1111`, `4111, 1111, …`, `4-1-1-1-…`, or in words. So
a number here is a run of digits with little between them (`spoken_digits.py`). Pure functions on strings.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from handler.editing.card_numbers import find_cards
from handler.editing.ibans import OPEN_IBAN, find_ibans
from handler.editing.mail_addresses import OPEN_EMAIL, find_emails
from handler.editing.phone_numbers import find_phones
from handler.editing.spoken_digits import OPEN_NUMBER, digits_of, runs, span_of
from handler.schema.option_parsers import REDACTED_KINDS

MAX_OPEN_CHARS = 400  # of text at the end that may go on as something sensitive
MIN_DIGITS = 4  # digits in a row
_HIDDEN = "\0"  # is part of no number and no address
Span = tuple[int, int]  # start and end, characters


@dataclass(frozen=True, slots=True)
class Found:
    """A stretch of text that is sensitive."""

    start: int  # characters
    end: int
    kind: str  # one of REDACTED_KINDS


def find_sensitive(text: str, kinds: Collection[str]) -> list[Found]:
    """Return the stretches of these kinds in their order. None overlaps another."""
    found: list[Found] = []
    for kind in REDACTED_KINDS:
        if kind in kinds:
            searched = text
            if kind == "phone":  # a part of an IBAN or of a card number is none
                searched = _hide(_hide(text, find_ibans(text)), find_cards(text))
            spans = list(_FINDERS[kind](searched))
            found += [Found(start, end, kind) for start, end in spans]
            text = _hide(text, spans)
    return sorted(found, key=lambda each: each.start)


def open_from(text: str, kinds: Collection[str]) -> int:
    """Return where something begins that may be of one of these kinds, depending on what follows the text."""
    first = max(0, len(text) - MAX_OPEN_CHARS)
    starts = [len(text)]
    for pattern in {_OPEN[kind] for kind in kinds}:
        if match := pattern.search(text, first):
            starts.append(match.start() + len(match[0]) - len(match[0].lstrip()))
    return min(starts)


def _hide(text: str, spans: Iterable[Span]) -> str:
    for start, end in list(spans):
        text = f"{text[:start]}{_HIDDEN * (end - start)}{text[end:]}"
    return text


def _find_digits_in_a_row(text: str) -> Iterator[Span]:
    return (span_of(groups) for groups in runs(text) if len(digits_of(groups)) >= MIN_DIGITS)


_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": find_emails,
    "iban": find_ibans,
    "card": find_cards,
    "phone": find_phones,
    "digits": _find_digits_in_a_row,
}
_OPEN = {**dict.fromkeys(("card", "phone", "digits"), OPEN_NUMBER), "iban": OPEN_IBAN, "email": OPEN_EMAIL}
