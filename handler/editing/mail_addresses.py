"""Find e-mail addresses, as they are written and as they are said. Pure functions. Source: RFC 5322, loosely."""

import re
from collections.abc import Iterator

_DOT = r"(?:dot|punkt|point|punto|ponto|punt)"
_AT = r"(?:\bat\s+sign\b|\bat\b|\bklammeraffe\b|\bät\b|\barobase\b|\barroba\b|\bchiocciola\b)"
_HYPHEN = r"(?:dash|hyphen|minus|bindestrich|tiret|trattino|guion)"
_IN_NAME = rf"(?:{_DOT}|{_HYPHEN}|underscore|unterstrich|plus)"
_CHARS = r"\w.+%'’-"
_NAME = rf"(?<![{_CHARS}])(?:\b\w\s){{0,40}}[{_CHARS}]++(?:\s+\d+)?(?:\s+{_IN_NAME}\s+[{_CHARS}]++){{0,9}}"
# What stands before "at" and is no name, as in "sign up at example dot com".
_OTHER_WORDS = (
    "us|me|it|him|her|them|up|out|now|here|online|available|website|site|more|work|works|working|look|looking|today|"
    "live|visit|find|is|are|was|were|be|one|only|everything|anything|people|donate|tickets|shop|shopping|register|go|head|"
    "log|login|sign|subscribe|learn|read|see|buy|order|book"
)
_SAID_NAME = rf"(?!(?:{_OTHER_WORDS})(?![\w.+-])){_NAME}"
# Addresses that are said end with one of these, lest "look at the dot on the left" is one.
_TOP_LEVELS = (
    "com|org|net|edu|gov|mil|int|info|biz|io|ai|app|dev|co|tv|eu|uk|us|ca|au|nz|ie|de|fr|es|nl|ch|se|dk|fi|"
    "pl|pt|br|mx|jp|kr|ru|cn|cz|gr|hu|ro|ua|tr|za"
)
_SAID_END = (  # of which some are English words, too
    rf"(?:\s*,?\s+(?:{_DOT}\s+(?:{_TOP_LEVELS})|(?:punkt|punto|ponto|punt)\s+(?:it|at|be|me|in)"
    rf"|{_DOT}\s+(?:it|at|be|me|in)(?=\s*(?:[.,!?;:]|$)))|\s+dotcom)\b"
)
_LABEL = rf"[\w-]+(?:\s+{_HYPHEN}\s+[\w-]+)*"
_LABELS = rf"{_LABEL}(?:(?:\.|\s+{_DOT}\s+){_LABEL})*"
_PROVIDERS = "gmail|googlemail|yahoo|outlook|hotmail|icloud|aol|gmx|proton|protonmail|yandex|qq|web"
_EMAIL = re.compile(
    "|".join(
        (
            rf"{_NAME}\s?@\s?[\w-]+(?:\.[\w-]+)*\.(?:[\w-]+|\s(?:{_TOP_LEVELS})\b)",
            rf"{_NAME}\s*@\s*{_LABELS}{_SAID_END}",
            rf"{_SAID_NAME}[\s,]+{_AT}\s+(?:{_LABELS}{_SAID_END}|(?:{_PROVIDERS})\.\s?\w+(?:\.\w+)?\b)",
            # Before another host that is written, "at" is rather a place, unless the name looks like none.
            rf"(?<![{_CHARS}])(?=[{_CHARS}]*[\d._])[{_CHARS}]++\s+{_AT}\s+[\w-]+(?:\.[\w-]+)*\.(?:{_TOP_LEVELS})\b",
        )
    ),
    re.IGNORECASE,
)
# What at the end of a text may go on as an address behind it.
OPEN_EMAIL = re.compile(
    rf"{_NAME}(?:\s+{_IN_NAME})?(?:[\s,]*(?:@|{_AT})\s*(?:{_LABELS}(?:\s+{_HYPHEN})?)?(?:\.|\s+{_DOT})?)?[\s,]*$",
    re.IGNORECASE,
)


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each address."""
    return (match.span() for match in _EMAIL.finditer(text))
