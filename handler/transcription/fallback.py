"""Whether a window's text is to be trusted, by its evidence alone: pure functions. Knows no engine and no audio.

Sources: openai/whisper, whisper/transcribe.py (decode_with_fallback); SYSTRAN/faster-whisper, transcribe.py (the best of failed ones).
"""

from collections.abc import Iterator
from enum import Enum

from handler.schema.options import Options
from handler.schema.transcript import Evidence

INCREMENT = 0.2  # of the temperature, from 0 on


class Verdict(Enum):
    """What becomes of a window's text."""

    ACCEPT = "accept"
    DROP = "drop"  # the model hears no speech, and is not sure of what it wrote
    RETRY = "retry"


def fallback_temperatures(options: Options) -> Iterator[float]:
    """The temperatures to decode at, one after the other, until a text is accepted."""
    step = options.temperature_increment_on_fallback
    if step is None:
        step = INCREMENT if options.temperature == 0 else 0.0
    rungs = int((1 - options.temperature) / step + 1e-6) if step else 0
    return (round(options.temperature + step * rung, 6) for rung in range(rungs + 1))


def check_thresholds(evidence: Evidence, options: Options) -> Verdict:
    """What becomes of a text, by the thresholds of the request."""
    unsure = evidence.avg_logprob < options.logprob_threshold
    if unsure and evidence.no_speech_prob > options.no_speech_threshold:
        return Verdict.DROP
    if unsure or evidence.looped or evidence.compression_ratio > options.compression_ratio_threshold:
        return Verdict.RETRY
    return Verdict.ACCEPT


def rank_key(evidence: Evidence, options: Options) -> tuple[bool, float, float]:
    """What orders texts none of which was accepted, the greatest being kept: no loop, the least repetition, the likeliest."""
    return not evidence.looped, -max(evidence.compression_ratio, options.compression_ratio_threshold), evidence.avg_logprob
