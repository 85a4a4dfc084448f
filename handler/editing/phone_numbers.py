"""Find telephone numbers by their prefixes and groups. Pure functions. Source: ITU-T E.164 (up to 15 digits)."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from handler.editing.spoken_digits import THOUSANDS, Group, are_single, best_parts, digits_of, runs, sizes_of

MAX_DIGITS = 15
_ENDS_NUMBER = re.compile(r"[,;…]|\.\s")  # between two groups; one number may have them, or two numbers
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:1[89]|20)\d\d"
_TIME = r"(?:[01]\d|2[0-3])[0-5]\d"
# Numbers that are no telephone numbers: dates, years, fractions and thousands.
_OTHERS = re.compile(
    rf"(?<!\d)(?<!\d[.,'’/-])(?:{_YEAR}([-/.]){_MONTH}\1{_DAY}"
    rf"|(?:{_DAY}([-/. ]){_MONTH}|{_MONTH}([-/. ]){_DAY})[-/. ]{_YEAR}"
    rf"|{_YEAR}\s?[-–/,]\s?{_YEAR}|0[.,]\d+"
    r"|[1-9]\d{0,2}([.,'’])\d{3}(?:\4\d{3})*(?![.,'’]?\d))(?!\d)"
)
# The lengths of groups of digits in a telephone number that begins with neither `+` nor `0`.
_SIZES = {
    *((3, 4), (3, 3, 4), (1, 3, 3, 4), (3, 4, 4), (2, 5, 4), (2, 4, 4), (5, 5), (4, 6), (4, 3, 3), (4, 4)),
    *((3, 2, 2), (2, 3, 2, 2), (3, 2, 2, 2), (3, 3, 2, 2), (1, 3, 3, 2, 2), (3, 7), (4, 7)),
    *((7,), (8,), (9,), (10,), (11,)),
}
_DATE_IN_DIGITS = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
_MAX_STEPS = 0.6  # of the steps from digit to digit may be those of somebody who counts


def find_phones(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each telephone number."""
    for groups in runs(text):
        others = THOUSANDS if groups[0].has_plus else _OTHERS
        spans = [match.span() for match in others.finditer(text, groups[0].start, groups[-1].end)]
        for part in _outside(groups, [] if _has_area_code(groups) else spans):
            edges = [index for index in range(len(part)) if _may_begin(part, index)]
            yield from best_parts(part, [*edges, len(part)], _is_phone)


def _has_area_code(groups: Sequence[Group]) -> bool:
    """Return whether the first group stands in brackets, and others follow without a comma."""
    if len(groups) < 2 or "(" not in groups[0].before:
        return False
    is_year = re.fullmatch(_YEAR, groups[0].digits)
    return not is_year and groups[1].before.startswith(")") and "," not in groups[1].before


def _outside(groups: Sequence[Group], others: Sequence[tuple[int, int]]) -> Iterator[list[Group]]:
    """Yield the groups between numbers of another kind."""
    part: list[Group] = []
    for group in groups:
        if any(start <= group.start and group.end <= end for start, end in others):
            if part:
                yield part
            part = []
        else:
            part.append(group)
    if part:
        yield part


def _may_begin(groups: Sequence[Group], index: int) -> bool:
    """Return whether a number may begin with a group: a zero begins one, unless it is in the middle of a long one."""
    group = groups[index]
    if not index or group.has_plus or "(" in group.before or _ENDS_NUMBER.search(group.before):
        return True
    return group.digits[0] == "0" and len(group.digits) > 2 and len(groups[index - 1].digits) < 3


def _is_phone(groups: Sequence[Group]) -> bool:
    digits, sizes = digits_of(groups), sizes_of(groups)
    if not 7 <= len(digits) <= MAX_DIGITS:
        return False
    separators = "".join(group.before for group in groups[1:])
    if groups[0].has_plus:
        return "," not in separators or "." not in separators  # decimals in a row have both
    if _has_area_code(groups):
        return True
    if are_single(groups):
        return not _is_score(groups) and not _is_counted(digits)
    if "," in separators and _is_list(groups):
        return False
    if digits[0] == "0":
        return len(set(digits)) > 1 and not all(re.fullmatch(_TIME, group.digits) for group in groups)
    if sizes == (3, 3, 3):  # in several countries; others write a thousand thousands so
        return digits[0] in "6789" and "," not in separators
    if sizes == (4, 4) and all(re.fullmatch(r"(?:1\d|20)\d\d", group.digits) for group in groups):
        return False
    if len(sizes) == 1 and (digits.endswith("000") or _DATE_IN_DIGITS.fullmatch(digits)):
        return False
    return sizes in _SIZES


def _is_score(groups: Sequence[Group]) -> bool:
    separators = [group.before.strip() for group in groups[1:]]
    return set(separators[::2]) == {"-"} and set(separators[1::2]) == {","}


def _is_list(groups: Sequence[Group]) -> bool:
    """Return whether numbers are rather a list: round ones, or such that count up."""
    numbers = [int(group.digits) for group in groups]
    return all(number % 50 == 0 for number in numbers) or all(
        second - first == 1 for first, second in pairwise(numbers)
    )


def _is_counted(digits: str) -> bool:
    """Return whether digits that somebody says are rather those of counting, of a rhyme or of a game."""
    steps = [int(second) - int(first) for first, second in pairwise(digits)]
    return len(set(digits)) < 3 or sum(abs(step) == 1 for step in steps) > _MAX_STEPS * len(steps)
