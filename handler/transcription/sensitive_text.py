"""Find card numbers, telephone numbers, IBANs, e-mail addresses and digits in a row. Pure functions on strings.

Speech recognizers write such numbers in many ways: `4111 1111 1111 1111`, `4111, 1111, …`, `4-1-1-1-…`, or in words. So
a number here is a run of digits, or of English words for digits, with little between them. Sources: ISO/IEC 7812 (card
numbers and their check digit), ISO 13616 (IBAN), ITU-T E.164 (up to 15 digits), RFC 5322 (addresses, loosely).
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from handler.schema.options import REDACTED_KINDS

MAX_OPEN_CHARS = 400  # of text at the end that may go on as something sensitive
MIN_DIGITS = 4  # digits in a row
MAX_CARD_DIGITS, MAX_PHONE_DIGITS = 19, 15
_HIDDEN = "\0"
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGITS = {**{word: str(digit) for digit, word in enumerate(_WORDS)}, "oh": "0"}
_DIGIT_WORD = rf"(?<![^\W\d_])(?:(?:double|triple)\s+)?(?:{'|'.join(_DIGITS)})(?![^\W\d_])"
_DIGIT = rf"(?:\d|{_DIGIT_WORD}|(?<![^\W\d_])(?:double|triple)\s+\d)"
_BETWEEN = r"[\s.,/()_*·\-‐-―]{0,3}"
_PREFIX = r"(?:\+|\bplus\b|\()?\s?\(?"
_PLUS, _PHONE_PREFIX = (re.compile(pattern, re.IGNORECASE) for pattern in (r"\+|plus", r"\+|plus|\("))
_ENDS_PHONE = re.compile(r"[,;]|\.\s")  # between two groups; one number may have them, or two numbers
_RUN = re.compile(rf"{_PREFIX}{_DIGIT}(?:{_BETWEEN}{_DIGIT})*", re.IGNORECASE)
_ONE_DIGIT = re.compile(_DIGIT, re.IGNORECASE)
_TIMES = {"double": 2, "triple": 3}

_DOT = r"(?:dot|punkt|point|punto|ponto|punt)"
_AT = r"(?:@|\b(?:at|ät|arobase|arroba|chiocciola)\b)"
_IN_NAME = rf"(?:{_DOT}|underscore|dash|hyphen|minus|plus|guion|tiret)"
_NO_NAME = r"(?!(?:us|me|it|them|online|available|website|site|more)\b)"  # as in "visit us at example.com"
_NAME_PART = r"[\w.+%'’-]++"
_NAME = rf"(?<![\w.+%'’-]){_NO_NAME}(?:\b\w\s){{0,40}}{_NAME_PART}(?:\s+\d+)?(?:\s+{_IN_NAME}\s+{_NAME_PART}){{0,9}}"
# Spoken addresses end with one of these, lest "look at the dot on the left" is one.
_TOP_LEVELS = "com|org|net|edu|gov|mil|int|info|biz|io|ai|app|dev|co|tv|eu|uk|us|ca|au|nz|ie|de|fr|es|nl|ch|se|dk|fi"
_TOP_LEVELS += "|pl|pt|br|mx|jp|kr|ru|cn|cz|gr|hu|ro|ua|tr|za"
_SPOKEN_DOT = rf"\s*(?:\.|\b{_DOT}\b)\s*"
_SPOKEN_HOST = rf"[\w-]+(?:{_SPOKEN_DOT}[\w-]+)*{_SPOKEN_DOT}(?:{_TOP_LEVELS})\b"
_EMAIL = re.compile(rf"{_NAME}\s?@\s?[\w-]+(?:\.[\w-]+)+|{_NAME}\s*{_AT}\s*{_SPOKEN_HOST}", re.IGNORECASE)
_IBAN_HEAD = r"(?<![^\W_])[A-Z][\s-]?[A-Z][\s-]{0,2}\d[\s-]?\d"
_IBAN_PART = r"(?:[\s.,-]{0,2}[A-Z0-9])"
_IBAN = re.compile(rf"{_IBAN_HEAD}{_IBAN_PART}{{11,30}}", re.IGNORECASE)
_SHORTEST_IBAN = 15
# What at the end of a text may go on behind it.
_OPEN_NUMBER = rf"{_PREFIX}(?:{_DIGIT}{_BETWEEN})*(?:(?:\+|\bplus|\bdouble|\btriple|\()\s*)?$"
_OPEN_IBAN = rf"(?:{_IBAN_HEAD}{_IBAN_PART}{{0,30}}|(?<![^\W_])[A-Z](?:[\s-]?[A-Z])?(?:[\s-]{{0,2}}\d)?)[\s.,-]{{0,2}}$"
_OPEN_HOST = rf"(?:[\w-]+(?:{_SPOKEN_DOT}[\w-]+)*)?(?:{_SPOKEN_DOT})?"
_OPEN_EMAIL = rf"{_NAME}(?:\s+{_IN_NAME})?(?:\s*{_AT}\s*{_OPEN_HOST})?\s*$"
_OPEN = {
    **dict.fromkeys(("card", "phone", "digits"), re.compile(_OPEN_NUMBER, re.IGNORECASE)),
    "iban": re.compile(_OPEN_IBAN, re.IGNORECASE),
    "email": re.compile(_OPEN_EMAIL, re.IGNORECASE),
}
# The beginnings and lengths of the large networks: Visa, Mastercard, American Express, Diners Club, Maestro and others.
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12}|(?:5[06-9]|6\d)\d{11,17}", re.ASCII
)
# Numbers that are no telephone numbers.
_YEAR = r"(?:1\d|20)\d\d"
_NO_PHONE = re.compile(
    rf"(?<!\d)(?:\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}|\d{{1,2}}([-/. ])\d{{1,2}}\2{_YEAR}"  # dates
    rf"|{_YEAR}\s?[-–/,]\s?{_YEAR}|0[.,]\d+"  # years, fractions
    r"|\d{1,3}([.,'’])\d{3}(?:\3\d{3})*(?![.,'’]?\d))(?!\d)"  # thousands
)
# The lengths of groups of digits in a telephone number that begins with neither `+` nor `0`.
_PHONE_GROUPS = {
    *((3, 4), (3, 3, 4), (1, 3, 3, 4), (10,), (11,), (5, 5), (4, 6), (4, 3, 3)),
    *((3, 3, 3), (3, 2, 2), (2, 3, 2, 2), (3, 2, 2, 2), (3, 3, 2, 2), (1, 3, 3, 2, 2), (4, 4), (3, 7), (4, 7)),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A stretch of text that is sensitive."""

    start: int  # characters
    end: int
    kind: str  # one of REDACTED_KINDS


@dataclass(frozen=True, slots=True)
class _Group:
    """Digits without anything between them."""

    start: int
    end: int
    digits: str
    before: str  # what stands between the group before and this one; of the first, what it begins with


def find_sensitive(text: str, kinds: Collection[str]) -> list[Found]:
    """Return the stretches of these kinds in their order. None overlaps another."""
    found: list[Found] = []
    for kind in REDACTED_KINDS:  # each kind is looked for in what the ones before have left
        for start, end in list(_FINDERS[kind](text)):
            if kind in kinds:
                found.append(Found(start, end, kind))
            if kind in kinds or kind in ("iban", "card"):  # a part of which is no telephone number
                text = f"{text[:start]}{_HIDDEN * (end - start)}{text[end:]}"
    return sorted(found, key=lambda each: each.start)


def open_from(text: str, kinds: Collection[str]) -> int:
    """Return where something begins that may be of one of these kinds, depending on what follows the text."""
    first = max(0, len(text) - MAX_OPEN_CHARS)
    starts = [len(text)]
    for pattern in {_OPEN[kind] for kind in kinds}:
        if match := pattern.search(text, first):
            starts.append(match.start() + len(match[0]) - len(match[0].lstrip()))
    return min(starts)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _EMAIL.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    position = 0
    while match := _IBAN.search(text, position):
        end = _iban_end(text, match)
        if end is not None:
            yield match.start(), end
        position = end or match.start() + 1


def _iban_end(text: str, match: re.Match[str]) -> int | None:
    """Return the end of the longest IBAN that begins where the match does, or None."""
    for end in range(match.end(), match.start() + _SHORTEST_IBAN - 1, -1):
        if not text[end - 1].isalnum() or text[end : end + 1].isalnum():
            continue
        characters = "".join(filter(str.isalnum, text[match.start() : end]))
        if len(characters) >= _SHORTEST_IBAN and _is_iban(characters):
            return end
    return None


def _is_iban(characters: str) -> bool:
    """Return whether the check digits are right. Most characters must be digits, or plain words could pass."""
    if 2 * sum(map(str.isdigit, characters)) < len(characters):
        return False
    return int("".join(str(int(each, 36)) for each in characters[4:] + characters[:4])) % 97 == 1


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for groups in _runs(text):
        yield from _best_parts(groups, range(len(groups) + 1), _is_card)


def _is_card(groups: Sequence[_Group]) -> bool:
    digits = _digits(groups)
    if not _CARD.fullmatch(digits):
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _phones(text: str) -> Iterator[tuple[int, int]]:
    text = _NO_PHONE.sub(lambda match: _HIDDEN * len(match[0]), text)
    for groups in _runs(text):
        edges = [index for index, group in enumerate(groups) if not index or _ENDS_PHONE.search(group.before)]
        yield from _best_parts(groups, [*edges, len(groups)], _is_phone)


def _is_phone(groups: Sequence[_Group]) -> bool:
    digits, sizes = _digits(groups), tuple(len(group.digits) for group in groups)
    if not 7 <= len(digits) <= MAX_PHONE_DIGITS:
        return False
    if sizes == (4, 4) and all(re.fullmatch(_YEAR, group.digits) for group in groups):
        return False
    if all(int(second) - int(first) == 1 for first, second in pairwise(digits)):  # somebody counts
        return False
    has_prefix = digits[0] == "0" or _PHONE_PREFIX.search(groups[0].before)
    return bool(has_prefix) or sizes in _PHONE_GROUPS or set(sizes) == {1}


def _digits_in_a_row(text: str) -> Iterator[tuple[int, int]]:
    for groups in _runs(text):
        if len(_digits(groups)) >= MIN_DIGITS:
            yield groups[0].start, groups[-1].end


_FINDERS = {"email": _emails, "iban": _ibans, "card": _cards, "phone": _phones, "digits": _digits_in_a_row}


def _runs(text: str) -> Iterator[list[_Group]]:
    """Yield the groups of digits of each run."""
    for run in _RUN.finditer(text):
        groups: list[_Group] = []
        position = run.start()
        for token in _ONE_DIGIT.finditer(text, run.start(), run.end()):
            *times, word = token[0].lower().split()
            digits = (_DIGITS.get(word) or str(int(word))) * (_TIMES[times[0]] if times else 1)
            before = text[position : token.start()]
            position = token.end()
            if groups and not before:
                groups[-1] = replace(groups[-1], end=position, digits=groups[-1].digits + digits)
            else:
                groups.append(_Group(token.start(), position, digits, before))
        is_bracketed = ")" in text[groups[0].end : groups[-1].start]
        if prefix := (_PHONE_PREFIX if is_bracketed else _PLUS).search(groups[0].before):
            groups[0] = replace(groups[0], start=run.start() + prefix.start())
        yield groups


def _best_parts(
    groups: Sequence[_Group], edges: Sequence[int], is_wanted: Callable[[Sequence[_Group]], bool]
) -> Iterator[tuple[int, int]]:
    """Yield the start and end of parts that are wanted, and that begin and end at edges, the longest ones first."""
    for count in range(min(len(edges) - 1, MAX_CARD_DIGITS), 0, -1):
        for number, first in enumerate(edges[:-count]):
            last = edges[number + count]
            if is_wanted(groups[first:last]):
                yield from _best_parts(groups, edges[: number + 1], is_wanted)
                yield groups[first].start, groups[last - 1].end
                yield from _best_parts(groups, edges[number + count :], is_wanted)
                return


def _digits(groups: Sequence[_Group]) -> str:
    return "".join(group.digits for group in groups)
