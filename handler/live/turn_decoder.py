"""Decode the windows of one turn: quickly while it is open, and with all care once it is over. Knows no stream."""

from collections.abc import Sequence
from dataclasses import replace

from handler.audio.chunking import DetectedElsewhere, SpeechChunker
from handler.live.live_audio import AudioPart
from handler.schema.options import MULTI, Options
from handler.schema.transcript import Segment, Word
from handler.schema.window import Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.engine_client import EngineClient
from handler.transcription.fallback import Verdict, check_thresholds
from handler.transcription.language_detector import LanguageDetector
from handler.transcription.shared_resources import SharedResources
from handler.transcription.text_context import first_prompt
from handler.transcription.timeless_words import remove_timeless_repeats
from handler.transcription.window_decoder import MAX_CONTEXT_CHARS, WindowDecoder
from handler.transcription.word_edits import to_audio_time

LONGEST_S = 20.0  # an open turn is cut into windows of at most so much, so that its passes stay short
CUT_WITHIN_S = 6.0  # a window that is full is cut in its last seconds


def cut_windows(part: AudioPart, threshold: float, longest_s: float = LONGEST_S) -> list[Window]:
    """Return the windows that hold the speech in a stretch of audio. All but the last are complete."""
    detector = DetectedElsewhere()
    detector.pass_on(part.probabilities)
    chunker = SpeechChunker(longest_s, CUT_WITHIN_S, detector, overlaps=False, start=part.start, threshold=threshold)
    return [*chunker.push(part.samples), *chunker.finish()]


class TurnDecoder:
    """Decodes the windows of one turn. `last_language` is that of the turn before, if it is known."""

    def __init__(self, resources: SharedResources, options: Options, last_language: str | None) -> None:
        self._options = options
        self._engine = EngineClient(resources.runner, resources.counters, options.temperature, is_urgent=True)
        self._decoder = WindowDecoder(self._engine, options, resources.engine.max_batch_size)
        self._detector = LanguageDetector.of(options, resources.engine.capabilities)
        self._last_language = last_language
        self._continues_text = resources.engine.capabilities.continues_text
        hotwords = options.hotwords.strip()[:MAX_CONTEXT_CHARS]
        self._params = {"prompt": first_prompt(options), "hotwords": hotwords, "task": options.task}

    @property
    def language(self) -> str | None:
        """The language of the turn as far as it is known."""
        return self._detector.language or self._last_language

    async def guess(self, window: Window, kept: Sequence[Word]) -> list[Word] | None:
        """Decode a window once, as it is, and return its words. Return None if the text cannot be trusted.

        The text begins with the words in `kept` if the model can go on from there. Raises AsrError.
        """
        window = await self._with_language(window)
        if self._continues_text:
            window = window.with_params(prefix=tuple(token for word in kept for token in word.tokens))
        result = await self._engine.submit(window)
        if not self._detector.is_done and result.languages:
            self._detector.add(result, window.seconds)
        if result.evidence is not None and check_thresholds(result.evidence, self._options) is not Verdict.ACCEPT:
            return None
        result = replace(result, segments=tuple(remove_timeless_repeats(result.segments)))
        return words_of(to_audio_time(window, result))

    async def settle(self, window: Window) -> DecodedWindow:
        """Decode a window with fallback, and with all that keeps words from being lost or invented. Raises AsrError."""
        return await self._decoder.decode(await self._with_language(window))

    def cancel(self) -> None:
        """Forget all windows that are not decoded yet."""
        self._engine.cancel()

    async def _with_language(self, window: Window) -> Window:
        """Return the window with all parameters. Ask the engine for its language where only some are allowed."""
        if self._options.languages is not None and not self._detector.is_done:
            self._detector.add(await self._engine.submit(window.with_params(detect_only=True)), window.seconds)
        is_known = self._detector.is_done or self._options.languages is not None
        language = self._detector.language if is_known else self._last_language
        return window.with_params(language=None if self._options.language == MULTI else language, **self._params)


def words_of(segments: Sequence[Segment]) -> list[Word]:
    """Return the words of segments. A model that tells no words has its text parted at spaces."""
    words: list[Word] = []
    for segment in segments:
        words += segment.words or [Word(segment.start, segment.end, f" {text}", 1.0) for text in segment.text.split()]
    return words
