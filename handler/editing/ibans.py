"""Find IBANs. Source: ISO 13616, and its registry of countries. Pure functions."""

import re
from collections.abc import Iterator

from handler.editing.spoken_digits import BETWEEN

_COUNTRIES = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18
FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20
LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24
SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""  # each with the length of its IBANs
_LENGTHS = {each[:2]: int(each[2:]) for each in _COUNTRIES.split()}
_HEAD = rf"(?<![^\W_])[A-Za-z]{BETWEEN}[A-Za-z]{BETWEEN}[0-9]{BETWEEN}[0-9]"
_PART = rf"(?:{BETWEEN}[A-Za-z0-9])"
_IBAN = re.compile(rf"{_HEAD}{_PART}{{11,30}}")
# What at the end of a text may go on as an IBAN behind it.
OPEN_IBAN = re.compile(
    rf"(?:{_HEAD}{_PART}{{0,30}}|(?<![^\W_])[A-Za-z](?:{BETWEEN}[A-Za-z])?(?:{BETWEEN}[0-9])?){BETWEEN}$"
)


def find_ibans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each IBAN whose check digits are right."""
    position = 0
    while match := _IBAN.search(text, position):
        end = _end(text, match)
        if end is not None:
            yield match.start(), end
        position = end or match.start() + 1


def _end(text: str, match: re.Match[str]) -> int | None:
    """Return the end of the IBAN that begins where the match does, or None if there is none."""
    places = [place for place in range(match.start(), match.end()) if text[place].isalnum()]
    length = _LENGTHS.get((text[places[0]] + text[places[1]]).upper(), len(places) + 1)
    if length > len(places):
        return None
    end = places[length - 1] + 1
    characters = "".join(text[place] for place in places[:length])
    # Most characters must be digits, or plain words could pass.
    if text[end : end + 1].isalnum() or 2 * sum(map(str.isdigit, characters)) < length:
        return None
    number = int("".join(str(int(each, 36)) for each in characters[4:] + characters[:4]))
    return end if number % 97 == 1 else None
