"""Decode the windows of one turn: quickly while it is open, and with all care once it is over. Knows no stream."""

import re
from collections.abc import Sequence
from dataclasses import replace

from handler.audio.chunking import DetectedElsewhere, SpeechChunker
from handler.live.live_audio import AudioPart
from handler.schema.capabilities import effective_options
from handler.schema.options import Options
from handler.schema.transcript import Segment, Word
from handler.schema.window import Window
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.engine_client import EngineClient
from handler.transcription.fallback import Verdict, check_thresholds
from handler.transcription.language_detector import SURE_PROBABILITY, LanguageDetector
from handler.transcription.shared_resources import SharedResources
from handler.transcription.text_context import first_prompt, hotwords_of
from handler.transcription.timeless_words import remove_timeless_repeats
from handler.transcription.window_decoder import WindowDecoder
from handler.transcription.word_edits import to_audio_time

LONGEST_S = 20.0  # an open turn is cut into windows of at most so much, so that its passes stay short
CUT_WITHIN_S = 6.0  # a window that is full is cut in its last seconds
TELLING_S, CLEAR_S = 1.0, 3.0  # seconds of speech that tell a language if it is certain, and in any case
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces
_PART = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")


def cut_windows(part: AudioPart, threshold: float) -> list[Window]:
    """Return the windows that hold the speech in a stretch of audio. All but the last are complete."""
    detector = DetectedElsewhere()
    detector.pass_on(part.probabilities)
    chunker = SpeechChunker(LONGEST_S, CUT_WITHIN_S, detector, overlaps=False, start=part.start, threshold=threshold)
    return [*chunker.push(part.samples), *chunker.finish()]


class TurnDecoder:
    """Decodes the windows of one turn. `last_language` is that of the turn before, if it is known."""

    def __init__(self, resources: SharedResources, options: Options, last_language: str | None) -> None:
        capabilities = resources.engine.capabilities
        self._options = options = effective_options(options, capabilities)
        self._engine = EngineClient(resources.runner, resources.counters, options.temperature, is_urgent=True)
        self._decoder = WindowDecoder(self._engine, options, resources.engine.max_batch_size)
        self._capabilities = capabilities
        self._last_language = last_language
        self.language: str | None = None  # of the turn, as soon as it is certain
        self._draft: tuple[int, ...] = ()  # the text of the last pass that can be trusted
        self._draft_start: int | None = None  # of the window that it is the text of
        self._params = {"prompt": first_prompt(options), "hotwords": hotwords_of(options), "task": options.task}

    async def guess(self, window: Window) -> list[Word] | None:
        """Decode a window once, as it is, and return its words. Return None if the text cannot be trusted.

        Raises AsrError.
        """
        language = self.language or await self._find_language(window)
        result = await self._engine.submit(self._prepared(window, language))
        if result.evidence is not None and check_thresholds(result.evidence, self._options) is not Verdict.ACCEPT:
            return None
        self._draft, self._draft_start = result.tokens, window.start
        result = replace(result, segments=tuple(remove_timeless_repeats(result.segments)))
        return words_of(to_audio_time(window, result))

    async def settle(self, window: Window) -> DecodedWindow:
        """Decode a window with fallback, and with all that keeps words from being lost or invented. Raises AsrError."""
        language = await self._find_language(window)
        return await self._decoder.decode(self._prepared(window, language))

    def _prepared(self, window: Window, language: str | None) -> Window:
        """Return a window with the parameters to decode it with, and the text of an earlier pass as its draft."""
        draft = self._draft if window.start == self._draft_start else ()
        return window.with_params(language=language, draft=draft, **self._params)

    def cancel(self) -> None:
        """Forget all windows that are not decoded yet, and that the turn is urgent until it has another one."""
        self._engine.cancel()

    async def _find_language(self, window: Window) -> str | None:
        """Return the language to decode a window in, or None if the engine is to find it, or needs none.

        It is that of the turn before if the window is too short to tell and does not tell it for certain.
        """
        detector = LanguageDetector.of(self._options, self._capabilities)
        if detector.is_done:
            return detector.language
        detector.add(await self._engine.submit(window.with_params(detect_only=True)), window.seconds)
        is_certain = detector.probability is None or detector.probability >= SURE_PROBABILITY
        if (is_certain and window.speech_s >= TELLING_S) or window.speech_s >= CLEAR_S:
            self.language = detector.language
        elif self._last_language is not None:
            return self._last_language
        return detector.language


def words_of(segments: Sequence[Segment]) -> list[Word]:
    """Return the words of segments.

    A model that tells no words has its text parted at spaces, or into the characters of a script without spaces.
    """
    words: list[Word] = []
    for segment in segments:
        words += segment.words or [Word(segment.start, segment.end, part, 0.0) for part in _PART.findall(segment.text)]
    return words
