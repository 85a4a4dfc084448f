"""The visible characters that vocabularies of GPT-2's kind write bytes with.

Source: openai/gpt-2, src/encoder.py.
"""

from collections.abc import Sequence
from functools import cache


def visible_bytes() -> Sequence[str]:
    """Return the visible characters that GPT-2 uses for the 256 byte values, in the order of the values.

    A printable byte is represented by the Latin-1 character of the same value. The remaining bytes are represented, in
    ascending order, by the characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unprintable = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + unprintable.index(byte)) for byte in range(256)]


def bytes_of(name: str) -> bytes:
    """Return the bytes of a token that is called `name`. Characters that stand for no byte are encoded as UTF-8."""
    table = _bytes_by_character()
    return b"".join(table.get(character) or character.encode() for character in name)


@cache
def _bytes_by_character() -> dict[str, bytes]:
    return {character: bytes([byte]) for byte, character in enumerate(visible_bytes())}
