"""Follow one turn: tell its text while it grows, and decode it for good once it is over. Knows no protocol."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from handler import logs
from handler.audio.chunking import MAX_PAUSE_S
from handler.errors import AsrError, Cancelled, Internal
from handler.live.events import Completed, Failed, Hypothesis, LiveEvent, Settled
from handler.live.latency import LiveLatency
from handler.live.live_audio import LiveAudio, to_samples
from handler.live.live_speakers import LiveSpeakers
from handler.live.stable_text import Agreement, StableText, Told
from handler.live.turn_decoder import TurnDecoder, cut_windows, words_of
from handler.schema.transcript import Segment, Word, text_of
from handler.schema.window import SAMPLE_RATE, Window
from handler.transcription.coverage import describe_interval
from handler.transcription.decoded_window import DecodedWindow
from handler.transcription.merge import dominant_language, gap_warnings, measure_coverage
from handler.transcription.usage import Counters

STEP_S = 0.3  # new audio before the open window is decoded again
# After so much silence, the window is decoded as if the turn were over. If it is, its text is there at once.
CLOSING_S = 0.2
LONGEST_SILENCE_S = MAX_PAUSE_S + 0.5  # in an open turn, before what was said is settled
LOOK_BACK_S = 4.0  # seconds for which it may turn out later that somebody spoke
RESTS_AFTER_S = 2.0  # seconds without audio after which the turn has no claim on the batch


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What the turns of a session share."""

    audio: LiveAudio
    emit: Callable[[LiveEvent], None]
    counters: Counters
    latency: LiveLatency


@dataclass(frozen=True, slots=True)
class TurnConfig:
    """How a turn is decoded and told."""

    threshold: float  # probability from which on a frame is speech
    agreement: Agreement
    speakers: LiveSpeakers | None = None  # if they are to be told apart


class Turn:
    """One turn, from its first sample until its text is complete. Call `run` once, and `follow` when audio arrives."""

    def __init__(self, number: int, start: int, context: TurnContext, decoder: TurnDecoder, config: TurnConfig) -> None:
        """Create a turn that begins at the sample `start`."""
        self.number = number
        self.start = start
        self.end: int | None = None  # once the turn is over
        self.needs_from = start  # no earlier audio is needed any more
        self._context = context
        self._audio = context.audio
        self._decoder = decoder
        self._config = config
        self._changed = asyncio.Event()
        self._stable = StableText(config.agreement)
        self._has_told = False
        self._decoded: list[DecodedWindow] = []
        self._guessed_until = start  # the end of the audio of the last pass
        self._closing: tuple[Window, DecodedWindow] | None = None  # decoded as if the turn were over

    @property
    def language(self) -> str | None:
        """The language of the turn, or None if it is not certain."""
        return self._decoder.language

    def follow(self) -> None:
        """Take notice of audio that has arrived."""
        self._changed.set()

    def close(self, end: int) -> None:
        """End the turn before a sample: no more audio belongs to it."""
        self.end = end
        self._changed.set()

    async def run(self) -> None:
        """Tell the text of the turn, until it is complete or has failed."""
        try:
            while self.end is None:
                await self._wait()
                if self.end is None:
                    await self._advance()
            windows = self._windows()
            for window in windows:
                await self._settle(window, is_last=window is windows[-1])
            self._complete(self.end)
        except AsrError as exc:
            self._context.emit(Failed(self.number, exc))
        except Exception as exc:
            logs.error("live_turn_crashed", exc)
            self._context.emit(Failed(self.number, Internal(f"a fault of this worker: {type(exc).__name__}")))
        finally:
            self._decoder.cancel()
            if self._config.speakers is not None:
                self._config.speakers.cancel()

    async def _wait(self) -> None:
        """Wait until audio has arrived, or the turn is over. Meanwhile the turn may lose its claim on the batch."""
        try:
            async with asyncio.timeout(RESTS_AFTER_S):
                await self._changed.wait()
        except TimeoutError:
            self._decoder.cancel()  # nothing is being decoded
            await self._changed.wait()
        self._changed.clear()

    def _windows(self) -> list[Window]:
        """Return the windows of the audio that is not settled yet. All but the last are complete."""
        end = self._audio.heard if self.end is None else self.end
        return cut_windows(self._audio.part(self.needs_from, end), self._config.threshold)

    async def _advance(self) -> None:
        """Decode what there is to decode while the turn is open."""
        windows = self._windows()
        if not windows:  # only its end may turn out to be speech
            self.needs_from = max(self.needs_from, self._audio.heard - to_samples(LOOK_BACK_S))
            return
        silence = self._audio.heard - windows[0].speech[-1][1]
        if len(windows) > 1 or silence >= to_samples(LONGEST_SILENCE_S):
            await self._settle(windows[0], is_last=False)
            self._changed.set()
        elif silence >= to_samples(CLOSING_S):
            await self._decode_closing(windows[0])
        elif self._audio.heard - self._guessed_until >= to_samples(STEP_S):
            self._guessed_until = self._audio.heard
            words = await self._decoder.guess(windows[0])
            if words is not None:
                self._tell_stable(words)

    async def _decode_closing(self, window: Window) -> None:
        """Decode a window that may be the last, unless that is done already."""
        if self._closing is not None and _has_same_speech(self._closing[0], window):
            return
        self._guessed_until = self._audio.heard
        self._closing = await self._decode_for_good(window)
        self._tell_stable(words_of(self._closing[1].segments))

    async def _decode_for_good(self, window: Window) -> tuple[Window, DecodedWindow]:
        """Decode a window, and have its speakers heard meanwhile. Return it, and what was decoded."""
        if self._config.speakers is not None:
            self._config.speakers.listen(window)
        return window, await self._decoder.settle(window)

    async def _name_speakers(self, window: Window, decoded: DecodedWindow) -> None:
        """Say who says each word of a window that is settled. What goes wrong costs no text."""
        if self._config.speakers is None:
            return
        try:
            decoded.segments = await self._config.speakers.name_speakers(window, decoded.segments)
        except Cancelled:
            raise
        except Exception as exc:
            logs.error("live_speakers_failed", exc)
            start_s, end_s = window.start / SAMPLE_RATE, window.end / SAMPLE_RATE
            decoded.warnings.append(
                (start_s, f"{describe_interval(start_s, end_s, None)} speakers were not told apart")
            )

    def _tell_stable(self, words: list[Word]) -> None:
        """Tell the words that passes agree on, and the others as a guess."""
        told = self._stable.revise(words, self._guessed_until / SAMPLE_RATE)
        delta = self._count(told)
        self._context.emit(Hypothesis(self.number, delta, told.words, told.rest))

    async def _settle(self, window: Window, *, is_last: bool) -> None:
        """Decode a window for good, and tell the rest of its text."""
        closing = self._closing
        if closing is None or not _has_same_speech(closing[0], window):
            closing = await self._decode_for_good(window)
        _, decoded = closing
        await self._name_speakers(*closing)
        told = self._stable.end(words_of(decoded.segments))
        delta = self._count(told)
        self._decoded.append(decoded)
        self._closing, self._stable = None, StableText(self._config.agreement)
        self.needs_from = self._guessed_until = window.end
        if delta:
            self._context.emit(Hypothesis(self.number, delta, told.words))
        start_s, end_s = window.start / SAMPLE_RATE, window.end / SAMPLE_RATE
        has_speakers = self._config.speakers is not None
        self._context.emit(Settled(self.number, start_s, end_s, tuple(decoded.segments), has_speakers, is_last))

    def _count(self, told: Told) -> str:
        """Count what is told and how long it took, and return its text."""
        self._context.counters.add(live_words=len(told.words), live_words_contradicted=told.contradicted)
        for word in told.words:
            self._context.latency.word.observe(self._audio.waited_s(round(word.end * SAMPLE_RATE)))
        text = told.text if self._has_told else told.text.lstrip()
        self._has_told = self._has_told or bool(text)
        return text

    def _complete(self, end: int) -> None:
        segments = self._segments()
        coverage = measure_coverage(self._decoded, segments)
        start_s, end_s = self.start / SAMPLE_RATE, end / SAMPLE_RATE
        self._context.counters.add(
            audio_s=end_s - start_s,
            speech_s=coverage.speech_s,
            covered_s=coverage.covered_s,
            gaps=len(coverage.gaps),
        )
        doubts = sorted(warning for window in self._decoded for warning in window.warnings)
        warnings = (*(warning for _, warning in doubts), *gap_warnings(coverage))
        if self._decoded and self._decoded[-1].speech:
            self._context.latency.turn.observe(self._audio.waited_s(self._decoded[-1].speech[-1][1]))
        text, language = text_of(segments), dominant_language(segments) or self.language
        has_speakers = self._config.speakers is not None
        self._context.emit(
            Completed(self.number, start_s, end_s, text, tuple(segments), language, has_speakers, tuple(warnings))
        )

    def _segments(self) -> list[Segment]:
        return [segment for window in self._decoded for segment in window.segments]


def _has_same_speech(first: Window, second: Window) -> bool:
    """Return whether two windows differ in the silence behind their speech only."""
    return first.start == second.start and first.speech == second.speech
