"""Turn a stream of samples into turns and their text. Knows no protocol and no connection."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from handler import logs
from handler.audio.chunking import PAD_S
from handler.errors import InvalidRequest
from handler.live.events import Cleared, Committed, LiveEvent, SpeechStarted, SpeechStopped
from handler.live.latency import LiveLatency
from handler.live.live_audio import LiveAudio, to_samples
from handler.live.live_speakers import LiveSpeakers
from handler.live.stable_text import Agreement
from handler.live.turn import LOOK_BACK_S, Turn, TurnConfig, TurnContext
from handler.live.turn_decoder import TurnDecoder
from handler.live.turn_detection import SpokenTurn, TurnDetection, find_turn
from handler.schema.options import Options
from handler.schema.window import SAMPLE_RATE, Samples
from handler.transcription.shared_resources import SharedResources

HEARD_AT_ONCE_S = 1.0  # of audio; more is heard in parts, so that other work is not held up
MAX_BACKLOG_S = 60.0  # audio that is not decoded yet; more is not taken before some is
MIN_COMMIT_S = 0.1
ONSET_S = 0.35  # after an onset, until it is clear whether the speech began earlier (see VoiceActivity)


@dataclass(frozen=True, slots=True)
class LiveConfig:
    """How the turns of a session are found and decoded. Changes hold from the next turn on."""

    options: Options
    detection: TurnDetection | None = TurnDetection()  # None: only `commit` ends a turn
    agreement: Agreement = Agreement()


class LiveSession:
    """One stream of speech. Call its methods in one event loop, `push`, `commit` and `clear` in the order of the audio.

    `listener` is called with what happens, in the event loop, when it happens.
    """

    def __init__(
        self,
        resources: SharedResources,
        config: LiveConfig,
        latency: LiveLatency,
        listener: Callable[[LiveEvent], None],
    ) -> None:
        self.config = config
        self._listener = listener
        self._resources = resources
        self._audio = LiveAudio()
        self._context = TurnContext(self._audio, self._emit, resources.counters, latency)
        self._committed_until = 0  # the end of the last turn
        self._free_from = 0  # where the next turn may begin: speech is detected late, so that may lie before it
        self._open: Turn | None = None  # the turn to which audio is being added
        self._open_detection: TurnDetection | None = None  # by which it ends
        self._speech_end = 0  # of the open turn
        self._unfinished: list[Turn] = []  # all whose text is not complete, in their order
        self._task: asyncio.Task[None] | None = None  # decodes the first of them
        self._num_turns = 0
        self._last_language: str | None = None
        self._speakers: LiveSpeakers | None = None  # once a turn asks for them
        self._progress = asyncio.Event()
        self._is_closed = False

    @property
    def received_s(self) -> float:
        """How many seconds of audio have arrived."""
        return self._audio.end / SAMPLE_RATE

    @property
    def uncommitted_s(self) -> float:
        """How many seconds of audio belong to no turn that is over."""
        return (self._audio.end - self._committed_until) / SAMPLE_RATE

    @property
    def last_unfinished(self) -> int | None:
        """The number of the last turn whose text is not complete, or None."""
        return self._unfinished[-1].number if self._unfinished else None

    @property
    def backlog_s(self) -> float:
        """How many seconds of audio wait to be decoded."""
        first = self._unfinished[0].needs_from if self._unfinished else self._audio.end
        return (self._audio.end - first) / SAMPLE_RATE

    async def push(self, samples: Samples) -> None:
        """Add the samples that follow, then wait while too many are not decoded yet. Without effect after `close`.

        Where the caller is cancelled, up to HEARD_AT_ONCE_S of samples are added all the same.
        """
        size = round(HEARD_AT_ONCE_S * SAMPLE_RATE)
        for first in range(0, len(samples), size):
            if self._is_closed:
                return
            self._audio.push(samples[first : first + size])
            self._find_turns()
            await asyncio.sleep(0)
            await self._wait_until(lambda: self.backlog_s <= MAX_BACKLOG_S)

    def commit(self) -> int:
        """End the turn here, and return its number. Raises InvalidRequest if there is nothing to end.

        That is so if hardly any audio would belong to it, or if turns are detected and nobody has spoken.
        """
        self._find_turns()
        turn = self._open
        if turn is None:
            if self.config.detection is not None or self.uncommitted_s < MIN_COMMIT_S:
                expected = f"at least {MIN_COMMIT_S:g} s of audio that belong to no turn"
                if self.config.detection is not None:
                    expected = "speech that belongs to no turn"
                raise InvalidRequest(f"expected {expected}; there are {self.uncommitted_s:.3f} s of audio")
            turn = self._open_turn(self._committed_until)
        self._close_turn(turn, self._audio.heard)
        return turn.number

    def clear(self) -> None:
        """Drop the audio that belongs to no turn that is over."""
        turn, self._open = self._open, None
        if turn is not None and turn in self._unfinished:
            if turn is self._unfinished[0] and self._task is not None:
                self._task.cancel()
            else:
                self._unfinished.remove(turn)  # it waits behind others
        self._free_from = self._committed_until = self._audio.heard
        self._emit(Cleared(None if turn is None else turn.number))

    async def finish(self) -> None:
        """End the turn that is open, if one is, and wait until the text of all turns is complete."""
        self._audio.pad()
        self._find_turns(is_last=True)
        if self._open is not None:
            self._close_turn(self._open, self._audio.heard)
        await self._wait_until(lambda: not self._unfinished)

    def close(self) -> None:
        """Stop all work, and tell nothing any more."""
        self._is_closed = True
        self._open = None
        del self._unfinished[1:]
        if self._task is not None:
            self._task.cancel()
        self._progress.set()

    def _find_turns(self, *, is_last: bool = False) -> None:
        """Open and close turns as the audio has them, and let the open one follow."""
        while (detection := self._detection) is not None and self._find_turn(detection, is_last=is_last):
            pass
        if detection is None and self._open is None:
            part = self._audio.part(self._free_from, self._audio.heard)
            if find_turn(part, TurnDetection()) is not None:
                self._open_turn(max(self._free_from, part.start))
        if self._open is not None:
            self._open.follow()
        self._release()

    @property
    def _detection(self) -> TurnDetection | None:
        """How the open turn ends, or how the next one is found."""
        return self._open_detection if self._open is not None else self.config.detection

    def _find_turn(self, detection: TurnDetection, *, is_last: bool) -> bool:
        """Open or close a turn. Return whether one was closed, so that there may be another."""
        first = self._free_from if self._open is None else max(self._free_from, self._open.needs_from)
        spoken = find_turn(self._audio.part(first, self._audio.heard), detection)
        silence = to_samples(detection.silence_duration_s)
        if spoken is not None and (is_last or self._is_of_turn(spoken, silence)):
            self._speech_end = spoken.speech_end
            if self._open is None:
                start = max(self._free_from, spoken.speech_start - to_samples(detection.prefix_padding_s))
                turn = self._open_turn(max(start, self._audio.start))
                self._emit(SpeechStarted(turn.number, turn.start / SAMPLE_RATE))
        if self._open is None or self._audio.heard - self._speech_end < silence:
            return False
        turn, end = self._open, self._speech_end + silence
        self._emit(SpeechStopped(turn.number, end / SAMPLE_RATE))
        self._close_turn(turn, end)
        self._free_from = min(end, self._speech_end + to_samples(PAD_S))
        return True

    def _is_of_turn(self, spoken: SpokenTurn, silence: int) -> bool:
        """Return whether speech belongs to the open turn, or begins one that can be opened."""
        if self._open is not None:
            return spoken.speech_start - self._speech_end < silence
        return self._audio.heard - spoken.speech_start >= to_samples(ONSET_S)

    def _open_turn(self, start: int) -> Turn:
        config = self.config
        decoder = TurnDecoder(self._resources, config.options, self._last_language)
        threshold = (config.detection or TurnDetection()).threshold
        if self._speakers is None:
            self._speakers = LiveSpeakers.of(self._resources, config.options)
        speakers = self._speakers if config.options.diarize else None
        turn = Turn(self._num_turns, start, self._context, decoder, TurnConfig(threshold, config.agreement, speakers))
        self._num_turns += 1
        self._open, self._open_detection = turn, config.detection
        self._unfinished.append(turn)
        self._start_next()
        return turn

    def _close_turn(self, turn: Turn, end: int) -> None:
        self._open = None
        self._free_from = self._committed_until = end
        self._emit(Committed(turn.number))
        turn.close(end)

    def _start_next(self) -> None:
        """Decode the first turn that is not complete, unless that is being done."""
        if self._task is None and self._unfinished and not self._is_closed:
            turn = self._unfinished[0]
            self._task = asyncio.create_task(turn.run())
            self._task.add_done_callback(lambda _: self._end_turn(turn))

    def _end_turn(self, turn: Turn) -> None:
        self._task = None
        self._unfinished.remove(turn)
        if turn is self._open:  # it has failed, and nothing more can be added to it
            self._open = None
            self._free_from = self._committed_until = self._audio.heard
        self._last_language = turn.language or self._last_language
        self._release()
        self._progress.set()
        self._start_next()

    def _release(self) -> None:
        """Forget audio that nobody needs any more."""
        if self._open is not None:
            first = self._open.needs_from
        else:
            padding_s = self.config.detection.prefix_padding_s if self.config.detection is not None else 0.0
            first = max(self._free_from, self._audio.heard - to_samples(LOOK_BACK_S + padding_s))
        if self._unfinished:
            first = min(first, self._unfinished[0].needs_from)
        self._audio.release(first)

    def _emit(self, event: LiveEvent) -> None:
        self._progress.set()
        if self._is_closed:
            return
        try:
            self._listener(event)
        except Exception as exc:  # whose work must not stop that of the session
            logs.error("live_listener_crashed", exc)

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self._is_closed:
            self._progress.clear()
            await self._progress.wait()
