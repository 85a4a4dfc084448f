"""Decide whether to trust a window's text, given what the decoder reports about the text (its evidence).

Pure functions. Knows no engine and no audio.

Sources: openai/whisper, whisper/transcribe.py (decode_with_fallback); SYSTRAN/faster-whisper, transcribe.py (choosing
the best result if none is accepted).
"""

from collections.abc import Iterator
from enum import Enum
from math import inf, isfinite

from handler.schema.options import Options
from handler.schema.transcript import Evidence

DEFAULT_INCREMENT = 0.2  # temperature step, if the request starts at temperature 0 and sets no step
DECLINE_TEMPERATURE = 0.4  # below it, the best of a few samples is often likelier than that of a lower temperature


class Verdict(Enum):
    """The decision on a window's text."""

    ACCEPT = "accept"
    DROP = "drop"  # the model detects no speech and is unsure of the text
    RETRY = "retry"


def fallback_temperatures(options: Options) -> Iterator[float]:
    """Return the temperatures to decode at, in increasing order.

    The caller stops at the first temperature whose result is accepted. There is only one temperature if the increment
    is 0, or if the request sets no increment and starts above 0.
    """
    increment = options.temperature_increment_on_fallback
    if increment is None:
        increment = DEFAULT_INCREMENT if options.temperature == 0 else 0.0
    num_retries = int((1 - options.temperature) / increment + 1e-6) if increment else 0
    return (round(options.temperature + increment * retry, 6) for retry in range(num_retries + 1))


def check_thresholds(evidence: Evidence, options: Options) -> Verdict:
    """Compare a result's evidence with the thresholds of the request, and return the verdict.

    DROP means that the model hears no speech and is unsure of the text. RETRY means that the text is unlikely, looped
    or too repetitive. A number that is not finite comes from a fault of the device, and passes no threshold.
    """
    if not is_finite(evidence):
        return Verdict.RETRY
    is_unsure = is_unlikely(evidence, options)
    if is_unsure and evidence.no_speech_prob > options.no_speech_threshold:
        return Verdict.DROP
    if is_unsure or evidence.looped or is_repetitive(evidence, options):
        return Verdict.RETRY
    return Verdict.ACCEPT


def is_finite(evidence: Evidence) -> bool:
    """Return whether the device computed numbers. It computes others if it is faulty, or if the weights are."""
    return isfinite(evidence.avg_logprob) and isfinite(evidence.no_speech_prob)


def is_unlikely(evidence: Evidence, options: Options) -> bool:
    """Return whether the mean log-probability of a text's tokens fails the threshold of the request."""
    return not isfinite(evidence.avg_logprob) or evidence.avg_logprob < options.logprob_threshold


def is_repetitive(evidence: Evidence, options: Options) -> bool:
    """Return whether the compression ratio of a text fails the threshold of the request."""
    return not evidence.compression_ratio <= options.compression_ratio_threshold


def is_declining(best: Evidence | None, evidence: Evidence | None, temperature: float, options: Options) -> bool:
    """Return whether a text shows that no higher temperature will find a better one than the best until now.

    Both texts are only too unlikely, and the one of a temperature of at least DECLINE_TEMPERATURE is less likely than
    the best. The higher the temperature, the less likely the texts are that are sampled. A text that repeats itself is
    another matter: only a higher temperature leads out of a loop.
    """
    if best is None or evidence is None or temperature < DECLINE_TEMPERATURE:
        return False
    are_unlikely = all(
        is_finite(each) and is_unlikely(each, options) and not each.looped and not is_repetitive(each, options)
        for each in (best, evidence)
    )
    return are_unlikely and evidence.avg_logprob < best.avg_logprob


def rank_key(evidence: Evidence, options: Options) -> tuple[bool, float, float]:
    """Return a key that sorts rejected results from worst to best. `is_finite` comes before it.

    Results that began to loop and were cut off rank below all others. Ties are broken by less repetition, then by
    higher likelihood. All results whose compression ratio is within the request's threshold count as equally
    repetitive. A log-probability that is not finite counts as the lowest.
    """
    repetition = max(evidence.compression_ratio, options.compression_ratio_threshold)
    return not evidence.looped, -repetition, evidence.avg_logprob if isfinite(evidence.avg_logprob) else -inf
