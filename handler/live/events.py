"""What happens in a live session, as its listener is told. Knows no protocol.

Times are seconds from the beginning of the stream.
"""

from dataclasses import dataclass

from handler.errors import AsrError
from handler.schema.transcript import Segment, Word


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """An event of one turn."""

    turn: int  # number of the turn in its session, from 0


@dataclass(frozen=True, slots=True)
class SpeechStarted(TurnEvent):
    """Somebody began to speak."""

    at_s: float  # padding before the speech included


@dataclass(frozen=True, slots=True)
class SpeechStopped(TurnEvent):
    """Somebody stopped speaking."""

    at_s: float  # the silence that ends the turn included


@dataclass(frozen=True, slots=True)
class Committed(TurnEvent):
    """The turn is over: no more audio belongs to it."""


@dataclass(frozen=True, slots=True)
class Hypothesis(TurnEvent):
    """The text of the turn so far was decoded: some of it may be settled now, the rest is a guess."""

    delta: str  # text that is told now, and never taken back
    words: tuple[Word, ...]  # those that begin in `delta`
    guess: tuple[Word, ...] = ()  # the words behind them, as they look now


@dataclass(frozen=True, slots=True)
class Settled(TurnEvent):
    """A stretch of the turn is decoded for good: the whole turn, or a part of one that is long."""

    start_s: float
    end_s: float
    segments: tuple[Segment, ...]
    has_speakers: bool  # speakers are told apart: segments and words have their names
    is_last: bool  # no other stretch of the turn follows; a turn that ends in silence may have no such event


@dataclass(frozen=True, slots=True)
class Completed(TurnEvent):
    """The text of the turn is complete."""

    start_s: float
    end_s: float
    text: str
    segments: tuple[Segment, ...]
    language: str | None  # code; None if it is not known
    has_speakers: bool = False  # see Settled
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed(TurnEvent):
    """The turn has no text, but for what was told already."""

    error: AsrError


@dataclass(frozen=True, slots=True)
class Cleared:
    """The audio that belonged to no turn yet was dropped, and the open turn with it."""

    turn: int | None = None  # the turn that was open


LiveEvent = SpeechStarted | SpeechStopped | Committed | Hypothesis | Settled | Completed | Failed | Cleared
