"""Split text tokens into words, even in scripts without spaces. Knows no time and no audio."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import category

# First and last character of scripts that are written without spaces between words.
_SPACELESS_RANGES = (
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
)


@dataclass(slots=True)
class WordTokens:
    """A word with its punctuation, and its start and end as positions in a sequence of tokens.

    Position 0 is the start of the first token, and the end is exclusive. A position is a fraction where several words
    share a token.
    """

    text: str
    start: float
    end: float


def split_words(pieces: Sequence[bytes]) -> list[WordTokens]:
    """Split text tokens into words, each with its punctuation. `pieces` are the UTF-8 bytes of each token.

    In scripts without spaces, every character with its combining marks is a word. No word begins in the middle of a
    character. Characters of such a script that share a token divide the token evenly, so their positions are fractions.
    """
    words: list[WordTokens] = []
    for fragment in _fragments(pieces):
        if words and _continues_word(words[-1].text, fragment.text):
            words[-1] = _join(words[-1], fragment)
        else:
            words.append(fragment)
    return _attach_punctuation(words)


def _fragments(pieces: Sequence[bytes]) -> Iterator[WordTokens]:
    """Split tokens into the shortest runs that decode to complete characters, and yield each run's text with its span.

    Bytes that are no character, such as one that was cut, are a replacement character, as tokenizers have it. A
    run of several characters of a script without spaces is split further: each character gets an equal share of the
    run's span.
    """
    characters = deque(_characters(b"".join(pieces)))
    position = 0  # of the end of the current token, in bytes
    first, text, text_end = 0, "", 0  # first token of the current run, its text so far and the end of that text
    for index, piece in enumerate(pieces):
        position += len(piece)
        while characters and characters[0][1] <= position:
            character, text_end = characters.popleft()
            text += character
        if text_end == position:
            yield from _split_run(text, first, index + 1 - first)
            first, text = index + 1, ""


def _characters(data: bytes) -> Iterator[tuple[str, int]]:
    """Yield the characters that UTF-8 bytes decode to, each with the position of its end in bytes."""
    position = 0
    while position < len(data):
        try:
            valid, invalid_bytes = data[position:].decode(), 0
        except UnicodeDecodeError as exc:
            valid, invalid_bytes = data[position : position + exc.start].decode(), exc.end - exc.start
        for character in valid:
            position += len(character.encode())
            yield character, position
        if invalid_bytes:
            position += invalid_bytes
            yield "\ufffd", position


def _split_run(text: str, first: int, count: int) -> Iterator[WordTokens]:
    """Yield the `text` of a run with its span. The run has `count` tokens and begins with token number `first`.

    The text is yielded character by character if any character is of a script without spaces, and whole otherwise.
    """
    parts = list(text) if any(map(_is_spaceless, text)) else [text]
    for index, part in enumerate(parts):
        yield WordTokens(part, first + count * index / len(parts), first + count * (index + 1) / len(parts))


def _continues_word(word: str, text: str) -> bool:
    """Return whether `text` continues the preceding `word`. Empty text, which a token may have, always does."""
    if not text:
        return True
    if _is_punctuation(word):
        return not text.startswith(" ")  # the word is an opening mark, or a lone space
    if text[0].isspace():
        return False
    if _major_category(text[0]) in "PM":  # an opening mark after a script without spaces begins a word
        return category(text[0]) not in ("Ps", "Pi") or not _is_spaceless(word[-1])
    return not (_is_spaceless(text[0]) or _is_spaceless(word[-1]))


def _attach_punctuation(words: list[WordTokens]) -> list[WordTokens]:
    """Join every all-punctuation word to the word before. An all-punctuation first word is joined to the second."""
    merged: list[WordTokens] = []
    for word in words:
        follows_opening_mark = len(merged) == 1 and _is_punctuation(merged[0].text)
        if merged and (follows_opening_mark or _is_punctuation(word.text)):
            merged[-1] = _join(merged[-1], word)
        else:
            merged.append(word)
    return merged


def _join(first: WordTokens, second: WordTokens) -> WordTokens:
    return WordTokens(first.text + second.text, first.start, second.end)


def _is_punctuation(text: str) -> bool:
    return all(_major_category(character) == "P" for character in text.strip())


def _major_category(character: str) -> str:
    """Return the first letter of a character's Unicode category."""
    return category(character)[0]


def _is_spaceless(character: str) -> bool:
    """Return whether a character belongs to a script that is written without spaces between words."""
    return any(first <= character <= last for first, last in _SPACELESS_RANGES)
