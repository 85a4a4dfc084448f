"""A transcript and its parts, and the progress of a request. Knows no engine and no format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from handler.schema.options import Options


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a decoder reports about its own text: enough for a pure function to decide whether to accept it."""

    avg_logprob: float  # mean log-probability of the tokens, end-of-text included
    no_speech_prob: float  # probability of the no-speech token before the first token
    compression_ratio: float  # bytes of the text divided by bytes of its zlib form; loops compress well
    temperature: float
    tokens: int  # number of tokens decoded
    looped: bool  # the text began to repeat itself and was truncated at that point
    exhausted: bool = False  # the context was full before the end of the text


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times and its punctuation."""

    start: float  # seconds, from the beginning of the window or audio that the word belongs to
    end: float  # seconds, ≥ start
    text: str  # as decoded, leading space included
    probability: float  # mean over its tokens
    tokens: tuple[tuple[int, float], ...] = ()  # id and log-probability of each token that begins in the word


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text with its times."""

    start: float  # seconds, from the beginning of the window or audio that the segment belongs to
    end: float  # seconds, ≥ start
    text: str  # as decoded, leading space included
    tokens: tuple[int, ...] = ()
    evidence: Evidence | None = None
    words: tuple[Word, ...] = ()  # they hold all of the text
    language: str | None = None  # code
    channel: int | None = None  # from 0; None: all channels mixed


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of speech without text."""

    start: float  # seconds
    end: float
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the detected speech has text, measured by the times of words."""

    speech_s: float  # seconds of detected speech, summed over the channels
    covered_s: float  # seconds of it that words cover
    gaps: tuple[Gap, ...] = ()  # speech that has no text even after it was decoded again on its own


@dataclass(frozen=True, slots=True)
class Transcript:
    """The result of one request."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None  # code; None if there was no speech to detect it from
    language_probability: float | None  # of a detected language
    duration: float  # seconds of audio
    model: str
    options: Options  # of the request
    timing: dict[str, float]  # seconds by stage
    coverage: Coverage
    # What the request was, and which resources of which process it used.
    account: dict[str, str | float | bool] = field(default_factory=dict)
    resume_at: float | None = None  # seconds; the text after it is missing because time ran out
    warnings: tuple[str, ...] = ()
    cold_start: dict[str, float] | None = None  # seconds by stage, from process start to this, its first transcript


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a request."""

    done_s: float  # seconds of audio decoded
    total_s: float | None  # seconds of audio in total, if known
    # Segments that became final since the last report; over all reports, every segment once and in order.
    final_segments: tuple[Segment, ...] = ()


ProgressCallback = Callable[[Progress], None]


def text_of(segments: Sequence[Segment]) -> str:
    """Return the text of segments as one line."""
    return "".join(segment.text for segment in segments).strip()
