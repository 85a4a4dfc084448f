"""What a request wants done to final text before anybody sees it. Knows no engine and no window."""

from collections.abc import Sequence

from handler.editing.redactor import Redactor
from handler.editing.replacements import Replacements
from handler.schema.options import Options
from handler.schema.transcript import Segment


class RequestedEdits:
    """Replaces phrases, and then redacts what is sensitive, as the options ask for."""

    def __init__(self, options: Options) -> None:
        self._replacements = Replacements(dict(options.replace or ()))
        self._redactor = Redactor(options.redact) if options.redact else None

    @property
    def held_from_s(self) -> float:
        """The start of the first segment that is held back, or infinity."""
        return float("inf") if self._redactor is None else self._redactor.held_from_s

    @property
    def redacted(self) -> dict[str, int]:
        """How often each kind that is to be redacted has been. Empty if none is."""
        return {} if self._redactor is None else {kind: self._redactor.counts[kind] for kind in self._redactor.kinds}

    def push(self, segments: Sequence[Segment], *, is_last: bool) -> list[Segment]:
        """Take the next segments, and return what can be released. After the last ones, that is everything."""
        replaced = self._replacements.apply(segments)
        return replaced if self._redactor is None else self._redactor.push(replaced, is_last=is_last)
