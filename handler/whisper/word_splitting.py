"""Text tokens to words, also of scripts without spaces. Knows no time and no audio."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import category

from handler.whisper.tokenizer import Tokenizer

_SPACELESS = (
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Burmese
    ("\u1780", "\u17ff"),  # Khmer
    ("\u3005", "\u3007"),  # marks that repeat a character
    ("\u3040", "\u30ff"),  # kana
    ("\u31f0", "\u31ff"),
    ("\uff66", "\uff9d"),
    ("\u3400", "\u9fff"),  # Han
    ("\uf900", "\ufaff"),
    ("\U00020000", "\U0002ffff"),
)  # first and last character of scripts written without spaces between words


@dataclass(slots=True)
class WordTokens:
    """A word with its punctuation, and from where to where it goes in tokens; within a token where characters share it."""

    text: str
    start: float
    end: float


def split_words(tokens: Sequence[int], tokenizer: Tokenizer) -> list[WordTokens]:
    """Text tokens as words in order, punctuation with its word; what is written without spaces is parted by character.

    A word never begins in the middle of a character; characters that share a token share its time evenly.
    """
    words: list[WordTokens] = []
    for atom in _atoms(tokens, tokenizer):
        if words and _belongs(words[-1].text, atom.text):
            words[-1] = WordTokens(words[-1].text + atom.text, words[-1].start, atom.end)
        else:
            words.append(atom)
    return _without_bare_marks(words)


def _atoms(tokens: Sequence[int], tokenizer: Tokenizer) -> Iterator[WordTokens]:
    """The fewest tokens at a time that are whole characters, and those of scripts without spaces one by one."""
    held: list[int] = []
    whole, offset = tokenizer.decode(tokens), 0
    for place, token in enumerate(tokens):
        held.append(token)
        text = tokenizer.decode(held)
        if "\ufffd" in text and whole[offset : offset + len(text)] != text and place + 1 < len(tokens):
            continue
        first, count = place + 1 - len(held), len(held)
        parts = list(text) if any(map(_spaceless, text)) else [text]
        for index, part in enumerate(parts):
            yield WordTokens(part, first + count * index / len(parts), first + count * (index + 1) / len(parts))
        offset += len(text)
        held = []


def _belongs(word: str, text: str) -> bool:
    """Whether text is part of the word before it; a token may have none."""
    if not text:
        return True
    if _bare(word):
        return not text.startswith(" ")  # an opening mark, or a space that came alone
    if text[0].isspace():
        return False
    if _kind(text[0]) in "PM":  # marks and accents; an opening one begins a word where there are no spaces
        return category(text[0]) not in ("Ps", "Pi") or not _spaceless(word[-1])
    return not (_spaceless(text[0]) or _spaceless(word[-1]))


def _without_bare_marks(words: list[WordTokens]) -> list[WordTokens]:
    """Words, those that are nothing but punctuation put to the one before, the first to the one behind."""
    found: list[WordTokens] = []
    for word in words:
        if found and (_bare(word.text) or (len(found) == 1 and _bare(found[0].text))):
            found[-1] = WordTokens(found[-1].text + word.text, found[-1].start, word.end)
        else:
            found.append(word)
    return found


def _bare(text: str) -> bool:
    return all(_kind(character) == "P" for character in text.strip())


def _kind(character: str) -> str:
    return category(character)[0]


def _spaceless(character: str) -> bool:
    """Whether a character is of a script that is written without spaces between words."""
    return any(first <= character <= last for first, last in _SPACELESS)
