"""Text that nobody said: phrases over and over, and the context read out. Pure functions on words. Knows no model and no audio."""

from collections.abc import Sequence
from difflib import SequenceMatcher

from handler.schema.transcript import Segment, Word
from handler.transcription.word_edits import keep_words, letters, plain, words_of

LONGEST_PHRASE = 8  # words
REPEATS = 3  # a phrase said so often running may have been said
FASTEST = 7  # words a second that somebody can say
ECHO, ECHO_LETTERS = 4, 10  # so many words and letters of the context running are taken for an echo until they are heard without it
ALIKE = 0.6  # share of letters in which two spellings of the same speech agree
NEARBY_S = 0.5  # how far apart two readings may time a word


def remove_repeats(segments: Sequence[Segment]) -> list[Segment]:
    """Segments with every phrase that comes more than REPEATS times running said once, unless there was time to say it so often.

    Segments without words are left as they are.
    """
    words = words_of(segments)
    said = [plain(word) for word in words]
    gone: set[int] = set()
    at = 0
    while at < len(words):
        for length in range(1, LONGEST_PHRASE + 1):
            times = 1
            while said[at + times * length : at + (times + 1) * length] == said[at : at + length]:
                times += 1
            if times > REPEATS and not _sayable(words[at : at + times * length]):
                gone |= {id(word) for word in words[at + length : at + times * length]}
                at += times * length - 1
                break
        at += 1
    return keep_words(segments, lambda word: id(word) not in gone) if gone else list(segments)


def _sayable(words: Sequence[Word]) -> bool:
    return spoken_length(words) <= FASTEST * sum(word.end - word.start for word in words)


def spoken_length(words: Sequence[Word]) -> float:
    """How many words it takes about as long to say; a character of a script that is timed by character is half a word."""
    return sum(0.5 if len(word.text.strip()) == 1 and not word.text.isascii() else 1.0 for word in words)


def echo(segments: Sequence[Segment], context: Sequence[str]) -> list[Word]:
    """The first run of words that stands in one of the contexts: of at least ECHO words and ECHO_LETTERS letters, or all there are."""
    words = words_of(segments)
    said = [plain(word) for word in words]
    known = [letters(text) for text in context]
    if any("".join(said) in text for text in known) and any(said):
        return words
    for at in range(len(said) - ECHO + 1):
        size = ECHO
        if any((run := "".join(said[at : at + size])) in text and len(run) >= ECHO_LETTERS for text in known):
            while at + size < len(said) and any("".join(said[at : at + size + 1]) in text for text in known):
                size += 1
            return words[at : at + size]
    return []


def is_heard_in(run: Sequence[Word], segments: Sequence[Segment]) -> bool:
    """Whether segments have, about where a run of words was, something that is spelled much like it."""
    start, end = run[0].start - NEARBY_S, run[-1].end + NEARBY_S
    there = [word for word in words_of(segments) if start <= (word.start + word.end) / 2 <= end]
    ours, theirs = ("".join(plain(word) for word in words) for words in (run, there))
    return SequenceMatcher(None, ours, theirs, autojunk=False).ratio() >= ALIKE
