"""Find card numbers. Source: ISO/IEC 7812 (card numbers and their check digit). Pure functions."""

import re
from collections.abc import Iterator, Sequence

from handler.editing.spoken_digits import THOUSANDS, Group, best_parts, digits_of, runs

# The beginnings and lengths of the large networks: Visa, Mastercard, American Express, Diners Club, JCB, Maestro, ….
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12}|35\d{14}|(?:5[06-9]|6\d)\d{11,17}",
    re.ASCII,
)


def find_cards(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each card number whose check digit is right."""
    for groups in runs(THOUSANDS.sub(lambda match: "\0" * len(match[0]), text)):
        yield from best_parts(groups, range(len(groups) + 1), _is_card)


def _is_card(groups: Sequence[Group]) -> bool:
    digits = digits_of(groups)
    if not _CARD.fullmatch(digits):
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0
