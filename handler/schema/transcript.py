"""A transcript and its parts, and the progress of a request. Knows no engine and no format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from handler.schema.options import Options


@dataclass(frozen=True, slots=True)
class Evidence:
    """Statistics of the decoded text of one window, which decide whether the text is accepted."""

    avg_logprob: float  # mean log-probability of the tokens, end-of-text included
    no_speech_prob: float  # probability of the no-speech token before the first token
    compression_ratio: float  # bytes of the text divided by bytes after zlib; high for repetitive text
    temperature: float
    tokens: int  # number of decoded tokens
    looped: bool  # the text began to repeat itself and was truncated at that point
    exhausted: bool = False  # the decoder's context was full before the text ended


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its punctuation and its start and end."""

    start: float  # seconds, from the beginning of the window or audio that the word belongs to
    end: float  # seconds, ≥ start
    text: str  # as decoded, leading space included
    probability: float  # mean probability of the tokens of the word
    tokens: tuple[tuple[int, float], ...] = ()  # id and log-probability of each token that begins in the word
    speaker: str | None = None  # who says it, if speakers are told apart


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text with its start and end."""

    start: float  # seconds, from the beginning of the window or audio that the segment belongs to
    end: float  # seconds, ≥ start
    text: str  # as decoded, leading space included
    tokens: tuple[int, ...] = ()
    evidence: Evidence | None = None
    words: tuple[Word, ...] = ()  # together they contain the whole text; empty if there are no word times
    language: str | None = None  # code
    channel: int | None = None  # counted from 0; None if all channels are mixed
    speaker: str | None = None  # who says it, if speakers are told apart
    overlapping: tuple[str, ...] = ()  # who else is heard during much of it


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of detected speech for which no text was decoded."""

    start: float  # seconds from the beginning of the audio
    end: float
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the detected speech has text, measured by the start and end of each word."""

    speech_s: float  # seconds of detected speech, summed over the channels
    covered_s: float  # seconds of detected speech that words cover
    gaps: tuple[Gap, ...] = ()  # speech that still had no text after a second decoding of that stretch alone


@dataclass(frozen=True, slots=True)
class Transcript:
    """The result of one request."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None  # code; None if there was no speech to detect the language from
    language_probability: float | None  # None if the language was not detected
    duration: float  # seconds of audio
    model: str
    options: Options  # of the request
    timing: dict[str, float]  # seconds spent in each stage
    coverage: Coverage
    # A record of the request, of the process that served it and of the resources that were used.
    account: dict[str, str | float | bool] = field(default_factory=dict)
    resume_at: float | None = None  # seconds of audio after which text is missing because the time ran out
    warnings: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()  # who speaks, in the order of first words
    redacted: dict[str, int] = field(default_factory=dict)  # how often each kind of text was replaced by a placeholder
    # Seconds of each stage since the start of the process. None unless this is the first transcript of the process.
    cold_start: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A report on how far a request has got."""

    done_s: float  # seconds of audio decoded
    total_s: float | None  # seconds of audio in total, if known
    # Segments that became final since the last report: they can no longer change. Each segment is reported once, and
    # the segments of all reports together are in chronological order.
    final_segments: tuple[Segment, ...] = ()


ProgressCallback = Callable[[Progress], None]


def text_of(segments: Sequence[Segment]) -> str:
    """Return the texts of segments, joined and without spaces at both ends. Return "" if there are no segments."""
    return "".join(segment.text for segment in segments).strip()
