"""Find runs of digits in text, also of English words for digits. Pure functions. Knows no kind of number."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

MAX_WORD_CHARS = 8  # of a digit in words, with spaces
MAX_GROUPS = 19  # of one number; each has a digit at least
BETWEEN = r"[\s.,;/()_*·…\-‐-―]{0,5}"  # what may stand between two digits of a number
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_INTERJECTIONS = ("oh", "o")  # which are also said for zero
_DIGITS = {**{word: str(digit) for digit, word in enumerate(_WORDS)}, **dict.fromkeys(_INTERJECTIONS, "0")}
_TIMES = {"double": 2, "triple": 3, "treble": 3}
_DIGIT_WORD = rf"(?<![^\W\d_])(?:{'|'.join(_WORDS)}|oh|(?-i:O))(?![^\W\d_])"
_DIGIT = rf"(?:\d|{_DIGIT_WORD}|(?<![^\W\d_])(?:{'|'.join(_TIMES)})\s+(?:\d|{_DIGIT_WORD}))"  # each in one way only
_PREFIX = r"(?:\+|\bplus\b|\()?\s?\(?"
_RUN = re.compile(rf"{_PREFIX}{_DIGIT}(?:{BETWEEN}{_DIGIT})*", re.IGNORECASE)
_ONE_DIGIT = re.compile(_DIGIT, re.IGNORECASE)
_PLUS = re.compile(r"\+|plus", re.IGNORECASE)
THOUSANDS = re.compile(r"(?<!\d)[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")  # an amount, and no other number
_ENDS_WITH_NUMBER = re.compile(rf"(?:\d|\b(?:{'|'.join(_WORDS)}))\s*$", re.IGNORECASE)
_WORD_BEFORE = re.compile(r"\s*(?:plus)?", re.IGNORECASE)
# What at the end of a text may go on as a number behind it.
OPEN_NUMBER = re.compile(
    rf"{_PREFIX}(?:{_DIGIT}{BETWEEN})*(?:(?:\+|\bplus|\b(?:{'|'.join(_TIMES)})|\()\s*)?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Group:
    """Digits without anything between them."""

    start: int  # characters
    end: int
    digits: str
    before: str  # what stands between the group before and this one; of the first, what the run begins with
    is_said: bool = False  # in words, each of which is a group

    @property
    def has_plus(self) -> bool:
        """Whether a plus stands before the group."""
        return _PLUS.search(self.before) is not None


def runs(text: str) -> Iterator[list[Group]]:
    """Yield the groups of digits of each run."""
    for run in _RUN.finditer(text):
        groups: list[Group] = []
        position = run.start()
        if _ENDS_WITH_NUMBER.search(text, max(0, position - MAX_WORD_CHARS), position):  # as in "300 plus 200"
            position += len(_WORD_BEFORE.match(text, position, run.end())[0])  # type: ignore[index]
        is_number = False
        for token in _ONE_DIGIT.finditer(text, run.start(), run.end()):
            *times, word = token[0].lower().split()
            is_number = is_number or word not in _INTERJECTIONS
            digits = (_DIGITS.get(word) or str(int(word))) * (_TIMES[times[0]] if times else 1)
            before = text[position : token.start()]
            position = token.end()
            if groups and not before:
                groups[-1] = replace(groups[-1], end=position, digits=groups[-1].digits + digits)
            else:
                groups.append(Group(token.start(), position, digits, before, word in _DIGITS))
        if is_number:
            yield groups


def digits_of(groups: Sequence[Group]) -> str:
    """Return all digits of some groups."""
    return "".join(group.digits for group in groups)


def sizes_of(groups: Sequence[Group]) -> tuple[int, ...]:
    """Return the lengths of groups of digits. Single digits beside each other are one group if there are others."""
    sizes: list[int] = []
    is_single = False  # the last group is of single digits
    for group in groups:
        is_one = group.is_said or len(group.digits) == 1
        if is_one and is_single:
            sizes[-1] += len(group.digits)
        else:
            sizes.append(len(group.digits))
        is_single = is_one
    return tuple(sizes)


def are_single(groups: Sequence[Group]) -> bool:
    """Return whether all digits are told one by one."""
    return all(group.is_said or len(group.digits) == 1 for group in groups)


def span_of(groups: Sequence[Group]) -> tuple[int, int]:
    """Return where some groups begin and end, with the plus and the bracket that belong to them."""
    first, start = groups[0], groups[0].start
    begin = start - len(first.before)
    if plus := _PLUS.search(first.before):
        start = begin + plus.start()
    elif "(" in first.before and any(")" in group.before for group in groups[1:]):
        start = begin + first.before.rindex("(")
    return start, groups[-1].end


def best_parts(
    groups: Sequence[Group], edges: Sequence[int], is_wanted: Callable[[Sequence[Group]], bool]
) -> Iterator[tuple[int, int]]:
    """Yield the start and end of parts that are wanted, from left to right, each as long as can be.

    A part begins and ends at an edge, which is a number of a group, and has at most MAX_GROUPS edges inside.
    """
    number = 0
    while number < len(edges) - 1:
        first = edges[number]
        for last_number in range(min(number + MAX_GROUPS, len(edges) - 1), number, -1):
            part = groups[first : edges[last_number]]
            if is_wanted(part):
                yield span_of(part)
                number = last_number
                break
        else:
            number += 1
