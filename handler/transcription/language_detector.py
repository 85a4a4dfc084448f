"""Find the language of a recording from its first windows. Knows no engine and no request."""

from collections.abc import Collection, Mapping

from handler.schema.capabilities import Capabilities
from handler.schema.options import MULTI, Options
from handler.schema.window import WindowResult

SURE_PROBABILITY = 0.9  # from which the language counts as found without further windows
LANGUAGE_WINDOWS = 4  # largest number of windows that are asked


class LanguageDetector:
    """Weighs what windows tell of the language by their seconds, until it is sure enough."""

    def __init__(
        self, language: str | None = None, is_needed: bool = True, allowed: Collection[str] | None = None
    ) -> None:
        """Start with a `language` that is stated, if one is.

        `is_needed` says whether windows are to be asked. Only languages of `allowed` are found, if there are any.
        """
        self.language = language  # the likeliest so far
        self.probability: float | None = None  # of that language; None if no window has told any
        self.is_done = not is_needed  # whether no further window need be asked
        self._weights: dict[str, float] = {}  # sum of probability times seconds of each language
        self._num_windows = 0
        self._allowed = allowed

    @classmethod
    def of(cls, options: Options, capabilities: Capabilities) -> "LanguageDetector":
        """Return the detector of a request, which asks no window if the language is stated or cannot be found so."""
        is_needed = options.language is None and capabilities.detects_language
        return cls(None if options.language == MULTI else options.language, is_needed, options.languages)

    def add(self, result: WindowResult, seconds: float) -> None:
        """Add the result of a window. One that tells no probabilities settles the language."""
        self._num_windows += 1
        if not result.languages:
            self.language, self.is_done = result.language, True
            return
        for language, probability in self._among_allowed(result.languages).items():
            self._weights[language] = self._weights.get(language, 0.0) + probability * seconds
        self.language = max(self._weights, key=self._weights.__getitem__)
        self.probability = self._weights[self.language] / sum(self._weights.values())
        self.is_done = self._num_windows == LANGUAGE_WINDOWS or self.probability >= SURE_PROBABILITY

    def _among_allowed(self, languages: Mapping[str, float]) -> Mapping[str, float]:
        """Return the probabilities of the languages that may be found, which then are one together."""
        if not self._allowed:
            return languages
        allowed = {language: languages.get(language, 0.0) for language in self._allowed}
        total = sum(allowed.values())
        if not total:
            return dict.fromkeys(allowed, 1 / len(allowed))
        return {language: probability / total for language, probability in allowed.items()}
