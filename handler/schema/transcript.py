"""A transcript and its parts, and how far one has come. Knows no engine and no format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from handler.schema.options import Options


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a decoder knows about its own text: enough for a pure function to decide whether to trust it."""

    avg_logprob: float  # mean log-probability of the tokens, end-of-text included
    no_speech_prob: float  # probability of the no-speech token before the first token
    compression_ratio: float  # bytes of text by bytes of its zlib form; loops compress well
    temperature: float
    tokens: int  # tokens decoded
    looped: bool  # it had begun to repeat itself, and was cut there
    exhausted: bool = False  # the context was full before the end of the text


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times and its punctuation."""

    start: float  # seconds, from the beginning of what the word belongs to (window or audio)
    end: float  # seconds, ≥ start
    text: str  # as decoded, leading space included
    probability: float  # mean over its tokens
    tokens: tuple[tuple[int, float], ...] = ()  # those that begin in it: their ids and log-probabilities


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text with its times."""

    start: float  # seconds, from the beginning of what the segment belongs to (window or audio)
    end: float  # seconds, ≥ start
    text: str  # as decoded, leading space included
    tokens: tuple[int, ...] = ()
    evidence: Evidence | None = None
    words: tuple[Word, ...] = ()  # all of its text
    language: str | None = None  # code
    channel: int | None = None  # from 0; None: all channels mixed


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of speech that no text covers."""

    start: float  # seconds
    end: float
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the speech that was heard has become text, counted by the times of words."""

    speech_s: float  # seconds of speech heard, of all channels together
    covered_s: float  # seconds of it that words cover
    gaps: tuple[Gap, ...] = ()  # speech without text, after it was decoded once more on its own


@dataclass(frozen=True, slots=True)
class Transcript:
    """The answer to one request."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None  # code; None where there was nothing to tell it from
    language_probability: float | None  # of a detected language
    duration: float  # seconds of audio
    model: str
    options: Options  # what was asked for
    timing: dict[str, float]  # seconds by stage
    coverage: Coverage
    account: dict[str, str | float | bool] = field(default_factory=dict)  # what the request was, and what it took of which process
    resume_at: float | None = None  # seconds; from here on it is missing, for want of time
    warnings: tuple[str, ...] = ()
    cold_start: dict[str, float] | None = None  # seconds by stage from the process's start to this, its first transcript


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request has come."""

    done_s: float  # seconds of audio decoded
    total_s: float | None  # seconds of audio in all, where it is known
    final_segments: tuple[Segment, ...] = ()  # what can change no more, and was not told before: in the end, all segments in order


ProgressCallback = Callable[[Progress], None]


def text_of(segments: Sequence[Segment]) -> str:
    """The text of segments as one line."""
    return "".join(segment.text for segment in segments).strip()
