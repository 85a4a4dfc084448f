"""Find and replace in decoded text, whole words only. Pure functions. Knows no engine and no request."""

import re
from collections.abc import Mapping, Sequence

from handler.editing.edits import Edit, apply_edits, text_of_words
from handler.schema.transcript import Segment


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
        return [each for segment in segments for each in self._in_segment(segment, pattern)] if pattern else [*segments]

    def _in_segment(self, segment: Segment, pattern: re.Pattern[str]) -> list[Segment]:
        edits = [Edit(*match.span(), self._other(match)) for match in pattern.finditer(text_of_words(segment))]
        return apply_edits([segment], edits, keeps_tokens=True)

    def _other(self, match: re.Match[str]) -> str:
        """Return what replaces a match. A few letters match others of which they are no other case: these stay."""
        return self._by_phrase.get(" ".join(match[0].casefold().split()), match[0])
