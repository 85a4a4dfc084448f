"""Detect text that nobody spoke, namely repeated phrases and echoes of the prompt.

Pure functions. Knows no model and no audio.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

from handler.schema.transcript import Segment, Word
from handler.transcription.word_edits import all_words, keep_words, letters_and_digits, normalize_word

MAX_PHRASE_WORDS = 8  # words of the longest phrase whose repetition is detected
MAX_REPEATS = 3  # a phrase that occurs at most this many times in a row may have been spoken
MAX_WORDS_PER_S = 7  # the fastest that a person can speak
MIN_ECHO_WORDS, MIN_ECHO_LETTERS = 4, 10  # shortest run that counts as an echo of the prompt or hotwords
MIN_SIMILARITY = 0.6  # share of letters that two decodings of the same speech have in common
WORD_TIME_TOLERANCE_S = 0.5  # largest difference between the times of one word in two results


def remove_repeats(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments without the repetitions of each phrase that occurs more than MAX_REPEATS times in a row.

    The first occurrence is kept. All occurrences are kept if they last long enough for a person to have spoken them.
    Segments without words are not changed.
    """
    words = all_words(segments)
    spellings = [normalize_word(word) for word in words]
    surplus_ids: set[int] = set()
    index = 0
    while index < len(words):
        phrase_length, num_repeats = _find_repeats(words, spellings, index)
        end = index + phrase_length * num_repeats
        surplus_ids |= {id(word) for word in words[index + phrase_length : end]}
        index = end
    return keep_words(segments, lambda word: id(word) not in surplus_ids) if surplus_ids else list(segments)


def _find_repeats(words: Sequence[Word], spellings: Sequence[str], start: int) -> tuple[int, int]:
    """Return the length in words and the number of occurrences of a phrase that repeats too often from `start` on.

    Return (1, 1) if no phrase at `start` repeats too often.
    """
    for length in range(1, MAX_PHRASE_WORDS + 1):
        phrase = spellings[start : start + length]
        num_repeats = 1
        while spellings[start + num_repeats * length : start + (num_repeats + 1) * length] == phrase:
            num_repeats += 1
        if num_repeats > MAX_REPEATS and not is_speakable(words[start : start + num_repeats * length]):
            return length, num_repeats
    return 1, 1


def is_speakable(words: Sequence[Word]) -> bool:
    """Return whether a person could have spoken the words in their summed duration."""
    return spoken_length(words) <= MAX_WORDS_PER_S * sum(word.end - word.start for word in words)


def spoken_length(words: Sequence[Word]) -> float:
    """Return the number of words, weighted by how long they take to speak.

    A word that is a single non-ASCII character, as in Chinese, counts as half a word.
    """
    return sum(0.5 if len(word.text.strip()) == 1 and not word.text.isascii() else 1.0 for word in words)


def find_prompt_echo(segments: Sequence[Segment], context: Sequence[str]) -> list[Word]:
    """Return the first run of words that also occurs in a text of `context`, or an empty list if there is none.

    `context` holds the prompt and the hotwords. If one of these texts contains all words of the segments in a row, all
    words are returned. Otherwise, a run must have at least MIN_ECHO_WORDS words, the first MIN_ECHO_WORDS of which must
    have at least MIN_ECHO_LETTERS letters in total.
    """
    words = all_words(segments)
    spellings = [normalize_word(word) for word in words]
    texts = [letters_and_digits(text) for text in context]

    def is_in_context(start: int, size: int) -> bool:
        run = "".join(spellings[start : start + size])
        return any(run in text for text in texts)

    if any(spellings) and is_in_context(0, len(words)):
        return words
    for start in range(len(words) - MIN_ECHO_WORDS + 1):
        size = MIN_ECHO_WORDS
        num_letters = sum(len(spelling) for spelling in spellings[start : start + size])
        if num_letters >= MIN_ECHO_LETTERS and is_in_context(start, size):
            while start + size < len(words) and is_in_context(start, size + 1):
                size += 1
            return words[start : start + size]
    return []


def is_spoken_in(run: Sequence[Word], segments: Sequence[Segment]) -> bool:
    """Return whether the segments contain text similar to `run` at about the same time.

    `run` must not be empty. It is compared with the words from WORD_TIME_TOLERANCE_S before to WORD_TIME_TOLERANCE_S
    after it.
    """
    start, end = run[0].start - WORD_TIME_TOLERANCE_S, run[-1].end + WORD_TIME_TOLERANCE_S
    words = [word for word in all_words(segments) if start <= (word.start + word.end) / 2 <= end]
    return similarity(run, words) >= MIN_SIMILARITY


def similarity(first: Sequence[Word], second: Sequence[Word]) -> float:
    """Return the share of letters and digits, from 0 to 1, that two runs of words have in common. 0 if one is empty."""
    spellings = ["".join(normalize_word(word) for word in words) for words in (first, second)]
    return SequenceMatcher(a=spellings[0], b=spellings[1], autojunk=False).ratio() if all(spellings) else 0.0
