"""What is sensitive in a text, and what only looks so. The numbers are test numbers that belong to nobody."""

import pytest

from handler.editing.sensitive_text import find_sensitive, open_from
from handler.schema.option_parsers import REDACTED_KINDS

RULES = ("email", "iban", "card", "phone")  # all but digits in a row, which takes years and amounts along
SENSITIVE = [
    ("My card is 4111 1111 1111 1111, expiring 12/27.", "My card is [CARD], expiring 12/27."),
    ("Card 5555-5555-5555-4444.", "Card [CARD]."),
    ("4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1", "[CARD]"),
    ("four one one one one one one one one one one one one one one one", "[CARD]"),
    ("It is 3782 822463 10005, the Amex", "It is [CARD], the Amex"),
    ("4111 1111 1111 1111 and 5555 5555 5555 4444", "[CARD] and [CARD]"),
    ("4111 1111 1111 1111, 5555 5555 5555 4444", "[CARD], [CARD]"),
    ("٤١١١ ١١١١ ١١١١ ١١١١", "[CARD]"),
    ("Call 555-1234 or (212) 555-0199 now.", "Call [PHONE] or [PHONE] now."),
    ("At +49 30 1234567, please", "At [PHONE], please"),
    ("plus four nine, three zero, one two three four five", "[PHONE]"),
    ("0172 5551234 anrufen", "[PHONE] anrufen"),
    ("au 06 12 34 56 78.", "au [PHONE]."),
    ("1-800-555-0199", "[PHONE]"),
    ("Call 555.123.4567.", "Call [PHONE]."),
    ("oh one seven two double five five", "[PHONE]"),
    ("five five five, one two three four", "[PHONE]"),
    ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [IBAN]."),
    ("de 89 37 04 00 44 05 32 01 30 00 genau", "[IBAN] genau"),
    ("GB29 NWBK 6016 1331 9268 19 thanks", "[IBAN] thanks"),
    ("D-E-8-9-3-7-0-4-0-0-4-4-0-5-3-2-0-1-3-0-0-0", "[IBAN]"),
    ("Write to john.smith@example.com!", "Write to [EMAIL]!"),
    ("john dot smith at example dot co dot uk please", "[EMAIL] please"),
    ("j o h n @ gmail.com", "[EMAIL]"),
    ("an anna punkt meier at web punkt de", "an [EMAIL]"),
    ("3530 1113 3330 0000 is JCB", "[CARD] is JCB"),
    ("4111... 1111... 1111... 1111", "[CARD]"),
    ("it is 76 4111 1111 1111 1111", "it is 76 [CARD]"),
    ("+49 30 23 1234 oder 0664.123.456", "[PHONE] oder [PHONE]"),
    ("0172 55 12 1999, (030) 12 34 1567", "[PHONE], [PHONE]"),
    ("+65-1234-1567 or +48 601.234.567", "[PHONE] or [PHONE]"),
    ("138 1234 5678", "[PHONE]"),
    ("ve 12 0532 123 45 67", "ve 12 [PHONE]"),
    ("DE89 - 3704 - 0044 - 0532 - 0130 - 00", "[IBAN]"),
    ("D, E, 8, 9, 3, 7, 0, 4, 0, 0, 4, 4, 0, 5, 3, 2, 0, 1, 3, 0, 0, 0", "[IBAN]"),
    ("IBAN TR33 0006 1005 1978 6457 8413 26 sıra", "IBAN [IBAN] sıra"),
    ("me@example.com, us.sales@example.com, it@company.de", "[EMAIL], [EMAIL], [EMAIL]"),
    ("jo chiocciola esempio punto it", "[EMAIL]"),
    ("five double five, four one two, double oh nine nine", "[PHONE]"),
    ("415 five five five 0132, four one five, 555-0132", "[PHONE], [PHONE]"),
    ("call (030) 12 34 56 7", "call [PHONE]"),
    ("mario at libero dot it.", "[EMAIL]."),
    ("bob at gmail dotcom, or jdoe at sign example dot com", "[EMAIL], or [EMAIL]"),
    ("max.mustermann@ gmx. de", "[EMAIL]"),
    ("jo_99 at example.com", "[EMAIL]"),
    ("It's john.smith, at gmail.com", "It's [EMAIL]"),
    ("anna at t minus online punkt de", "[EMAIL]"),
    ("an@example.org, 555-1234, 4111 1111 1111 1111", "[EMAIL], [PHONE], [CARD]"),
]
HARMLESS = [
    "4111 1111 1111 1112 fails the check digit",
    "DE89 3704 0044 0532 0130 01 fails as well",
    "In 1914, 1918 and 1939.",
    "from 1939-1945",
    "It cost 1,000,000 dollars",
    "1.234.567 Euro",
    "3.14159 is less than 22/7",
    "on 2024-11-27, or 12/05/2024, or 27.11.2024",
    "the host 192.168.100.200",
    "lottery 4 8 15 16 23 42",
    "count 1, 2, 3, 4, 5, 6, 7, 8",
    "take 10, 20, 30, 40",
    "is 20 years since 1234 people",
    "visit us at example.com",
    "look at the dot on the wall",
    "nine one one",
    "Oh, oh, oh, oh, oh, oh, oh",
    "5 6 7 8, 5 6 7 8",
    "One, two, one, two, one, two, one, two",
    "6-4, 3-6, 7-6, 6-2",
    "331 002 651 or 100 000 000",
    "Bus lines 100, 200, 300, 400",
    "Sign up at example.com today.",
    "I work at Amazon.com",
    "The event is at Stadium. Us fans came.",
    "sold at 10. US stocks fell",
    "on the 05.06.2024, file 20241127",
    "World War II (1939–1945), in (1984), 1985",
    "(2019), 12,345,678 people",
    "plus 1,250,000 dollars, 300 plus 1,500,000, 5 plus 1000000",
    "a gain of +1.25, 2.50, 3.75",
    "He won the 800, 1500 and 3000 metres before 5000, 6000 people",
    "from 20000 to 30000, 40000; 100, 200, 1500",
    "James Bond 007, 008, 009 at 0730 0830",
    "GDP per capita 65,000, 70,000, 75,000",
    "donate at unicef dot org",
    "the A320 and B2B in 2024",
]


def redacted(text: str, kinds: tuple[str, ...]) -> str:
    for found in reversed(find_sensitive(text, kinds)):
        text = f"{text[: found.start]}[{found.kind.upper()}]{text[found.end :]}"
    return text


@pytest.mark.parametrize(("text", "expected"), SENSITIVE)
def test_what_is_sensitive_goes_and_nothing_else(text: str, expected: str) -> None:
    assert redacted(text, RULES) == expected


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_sensitive_stays(text: str) -> None:
    assert redacted(text, RULES) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PIN 4321.", "PIN [DIGITS]."),
        ("double four one three", "[DIGITS]"),
        ("(1234) and 123", "([DIGITS]) and 123"),
        ("10, 20, 30 in 2024", "[DIGITS] in [DIGITS]"),
        ("one or two", "one or two"),
    ],
)
def test_four_digits_in_a_row(text: str, expected: str) -> None:
    assert redacted(text, ("digits",)) == expected


def test_only_the_kinds_that_are_asked_for_go() -> None:
    text = "an@example.org, 555-1234, 4111 1111 1111 1111, DE89 3704 0044 0532 0130 00"
    assert redacted(text, ("phone",)) == text.replace("555-1234", "[PHONE]")
    assert redacted("my card is 4111 1111 1111 1111", ("digits",)) == "my card is [DIGITS]"
    assert redacted(text, ("card",)) == text.replace("4111 1111 1111 1111", "[CARD]")
    assert redacted(text, REDACTED_KINDS) == "[EMAIL], [PHONE], [CARD], [IBAN]"


@pytest.mark.parametrize(
    ("text", "kinds", "open_part"),
    [
        ("my card is 4111", ("card",), "4111"),
        ("call plus", ("phone",), "plus"),
        ("a double", ("digits",), "double"),
        ("I said DE89 3704", ("iban",), "DE89 3704"),
        ("mail to john dot", ("email",), "john dot"),
        ("mail to john at gmail", ("email",), "john at gmail"),
        ("that is the end.", ("card", "phone", "digits"), ""),
        ("that is it!", REDACTED_KINDS, ""),
    ],
)
def test_what_may_go_on_behind_the_end_is_open(text: str, kinds: tuple[str, ...], open_part: str) -> None:
    assert text[open_from(text, kinds) :] == open_part


@pytest.mark.parametrize(
    "part",
    ["a", "1 ", "D1 ", "a1_", "555, ", "a b ", "a@", "x.", "8, 9, ", "one ", "double ", "DE89 ", "a dot ", "a at b "],
)
def test_long_texts_take_no_time(part: str) -> None:
    text = part * 3000
    for end in ("", "end!", " A", "@", "+"):
        find_sensitive(text + end, REDACTED_KINDS)
        open_from(text + end, REDACTED_KINDS)
