"""Find and replace in decoded text, whole words only. Pure functions. Knows no engine and no request."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from handler.schema.transcript import Segment, Word


class Replacements:
    """Replaces phrases by others, in any case of letters. Longer phrases come before shorter ones."""

    def __init__(self, phrases: Mapping[str, str]) -> None:
        """Take what each phrase is replaced by."""
        self._by_phrase = {" ".join(phrase.casefold().split()): other for phrase, other in phrases.items()}
        phrases_by_length = sorted(phrases, key=len, reverse=True)
        patterns = [r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases_by_length]
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", re.IGNORECASE) if patterns else None

    def apply(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments with their texts and words changed. A phrase lies in one segment."""
        pattern = self._pattern
        return [self._in_segment(segment, pattern) for segment in segments] if pattern is not None else [*segments]

    def _in_segment(self, segment: Segment, pattern: re.Pattern[str]) -> Segment:
        if not pattern.search(segment.text):
            return segment
        words = self._in_words(segment.words, pattern)
        text = "".join(word.text for word in words) if words else pattern.sub(self._other, segment.text)
        return replace(segment, text=text, words=tuple(words))

    def _in_words(self, words: Sequence[Word], pattern: re.Pattern[str]) -> list[Word]:
        """Return the words with each phrase as one word, which lasts as long as all of its words."""
        changed: list[Word] = []
        text = "".join(word.text for word in words)
        starts = [0, *accumulate(len(word.text) for word in words)]
        done = 0  # words that are behind
        for match in pattern.finditer(text):
            first = max(index for index in range(len(words)) if starts[index] <= match.start())
            last = max(index for index in range(len(words)) if starts[index] < match.end())
            if first < done:  # a second phrase in a word that has changed already
                begun = changed.pop()
                head, first = begun.text[: len(begun.text) - (starts[done] - match.start())], done - 1
            else:
                changed += words[done:first]
                begun, head = words[first], text[starts[first] : match.start()]
            tail = text[match.end() : starts[last + 1]]
            tokens = tuple(token for word in words[first : last + 1] for token in word.tokens)
            whole = replace(begun, end=words[last].end, text=head + self._other(match) + tail, tokens=tokens)
            changed.append(whole)
            done = last + 1
        return changed + list(words[done:])

    def _other(self, match: re.Match[str]) -> str:
        """Return what replaces a match. A few letters match others of which they are no other case: these stay."""
        return self._by_phrase.get(" ".join(match[0].casefold().split()), match[0])
