"""The text of the tokens of a checkpoint's vocabulary, as UTF-8 bytes. Knows no tensor and no time.

Three ways to write a space are in use: as a character of its own before a word (U+2581, of SentencePiece), as a
visible character that stands for the byte (of GPT-2), and as a token that stands between words (of wav2vec2).
"""

import re
from collections.abc import Iterable
from typing import Any

from handler.languages import language_code
from handler.tokens.byte_level import bytes_of

_SENTENCEPIECE_SPACE, _BYTE_LEVEL_SPACE = "\u2581", "\u0120"
# A token that tells the language of the text before it, such as <en-US>, of NVIDIA's multilingual models.
_LANGUAGE_TAG = re.compile(r"<([a-z]{2,3})(-[A-Z]{2})?>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte of a character that has no token


class Vocabulary:
    """The tokens of a tokenizer of `transformers`."""

    def __init__(self, tokenizer: Any) -> None:
        self.size = len(tokenizer)
        names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(range(self.size)))]
        specials = {*tokenizer.all_special_ids, *_added_specials(tokenizer)}
        delimiter = getattr(tokenizer, "word_delimiter_token", None)
        is_byte_level = delimiter is None and _uses_byte_level(names)
        is_lower_case = bool(getattr(tokenizer, "do_lower_case", False)) and delimiter is not None
        self._languages = {token: tag[1] for token, name in enumerate(names) if (tag := _LANGUAGE_TAG.fullmatch(name))}
        if is_lower_case:
            names = [name.lower() for name in names]
        unspoken = {token for token in specials if names[token] != delimiter} | set(self._languages)
        self._pieces = [
            b"" if token in unspoken else _piece(name, delimiter, is_byte_level) for token, name in enumerate(names)
        ]

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a token, which may be only part of a character. Those of special tokens are empty.

        A word begins with a space, but for the first one where the vocabulary has a token between words.
        """
        return self._pieces[token] if token < self.size else b""

    def told_language(self, tokens: Iterable[int]) -> str | None:
        """Return the code of the language that the last of the tokens which tell one says, or None."""
        told = [self._languages[token] for token in tokens if token in self._languages]
        return language_code(told[-1]) if told else None

    def pieces(self, tokens: Iterable[int]) -> list[bytes]:
        """Return the UTF-8 bytes of each token."""
        return [self.token_bytes(token) for token in tokens]


def _added_specials(tokenizer: Any) -> set[int]:
    """Return the ids of tokens that were added to a vocabulary as special ones."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token for token, entry in added.items() if entry.special}


def _uses_byte_level(names: list[str]) -> bool:
    """Return whether the names of tokens are bytes, each written as a visible character."""
    return not any(_SENTENCEPIECE_SPACE in name for name in names) and any(
        name.startswith(_BYTE_LEVEL_SPACE) for name in names
    )


def _piece(name: str, delimiter: str | None, is_byte_level: bool) -> bytes:
    """Return the bytes of a token that is called `name`. `delimiter` is the token between words, or None."""
    if name == delimiter:
        return b" "
    if is_byte_level:
        return bytes_of(name)
    if byte := _BYTE.fullmatch(name):
        return bytes([int(byte[1], 16)])
    return name.replace(_SENTENCEPIECE_SPACE, " ").encode()
