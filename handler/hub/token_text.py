"""Turn timed tokens into words and segments. Knows no tensor and no model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf

from handler.hub.vocabulary import Vocabulary
from handler.schema.transcript import Evidence, Segment, Word
from handler.schema.window import SAMPLE_RATE, Window, WindowResult
from handler.tokens.repetition import compression_ratio
from handler.tokens.segmentation import split_segments
from handler.tokens.word_splitting import WordTokens, split_words


@dataclass(frozen=True, slots=True)
class TimedToken:
    """A decoded token, and the frames of the encoder's output in which it was heard."""

    id: int
    start: int  # frame
    end: int  # frame, exclusive
    logprob: float


class TextBuilder:
    """Builds the results of windows.

    `frame_s` is the length of a frame of the encoder's output in seconds. `language` is that of a checkpoint which
    knows only one.
    """

    def __init__(self, vocabulary: Vocabulary, frame_s: float, language: str | None) -> None:
        self._vocabulary = vocabulary
        self._frame_s = frame_s
        self._language = language

    def results(self, windows: Sequence[Window], tokens: Sequence[Sequence[TimedToken]]) -> list[WindowResult]:
        """Return the result of each window, whose tokens are a row of `tokens`."""
        return [self._result(window, row) for window, row in zip(windows, tokens, strict=True)]

    def _evidence(self, tokens: Sequence[TimedToken]) -> Evidence:
        """Return the evidence for the tokens of a window."""
        text = b"".join(self._vocabulary.pieces(token.id for token in tokens)).decode("utf-8", "replace")
        return Evidence(
            avg_logprob=sum(token.logprob for token in tokens) / max(1, len(tokens)),
            no_speech_prob=0.0,
            compression_ratio=compression_ratio(text),
            temperature=0.0,
            tokens=len(tokens),
            looped=False,
        )

    def _result(self, window: Window, tokens: Sequence[TimedToken]) -> WindowResult:
        """Return the result of a window: segments, each with its words."""
        told = self._vocabulary.told_language(token.id for token in tokens)
        language = told or window.params.language or self._language
        evidence = self._evidence(tokens)
        words = _in_order(list(self._words(window, tokens)))
        segments = tuple(_segment(part, evidence, language) for part in split_segments(words))
        return WindowResult(segments, evidence, language)

    def _words(self, window: Window, tokens: Sequence[TimedToken]) -> Iterator[Word]:
        """Yield each word with its time in seconds from the start of the window."""
        pieces = self._vocabulary.pieces(token.id for token in tokens)
        for word in split_words(pieces):
            if not word.text.strip():
                continue
            own = [tokens[index] for index in _tokens_of(word)]
            visible = [tokens[index] for index in _tokens_of(word) if pieces[index].strip()]
            start = min(visible[0].start * self._frame_s, window.seconds)
            end = min(visible[-1].end * self._frame_s, window.seconds)
            probability = sum(exp(token.logprob) for token in visible) / len(visible)
            logprobs = tuple((token.id, token.logprob) for token in own)
            yield Word(start, max(start, end), _spaced(word.text), probability, logprobs)


def speech_bounds(window: Window) -> tuple[float, float]:
    """Return the start of the first and the end of the last speech in a window, in seconds from its start."""
    if not window.speech:
        return 0.0, window.seconds
    return (window.speech[0][0] - window.start) / SAMPLE_RATE, (window.speech[-1][1] - window.start) / SAMPLE_RATE


def _in_order(words: Sequence[Word]) -> list[Word]:
    """Return the words, of which none ends after the next one begins: several may be heard in one frame."""
    starts = (*(word.start for word in words[1:]), inf)
    return [
        replace(word, end=min(word.end, max(word.start, start))) for word, start in zip(words, starts, strict=False)
    ]


def _tokens_of(word: WordTokens) -> range:
    """Return the numbers of a word's tokens. A token that several words share is one of each."""
    return range(int(word.start), max(ceil(word.end), int(word.start) + 1))


def _spaced(text: str) -> str:
    """Return the text of a word with one space before it, if any came with it, and none after it."""
    return f" {text.strip()}" if text[0].isspace() else text.rstrip()


def _segment(words: Sequence[Word], evidence: Evidence, language: str | None) -> Segment:
    text = "".join(word.text for word in words)
    tokens = tuple(token for word in words for token, _ in word.tokens)
    return Segment(words[0].start, words[-1].end, text, tokens, evidence, tuple(words), language)
