"""Decode a second of known speech before the first request. Knows no weights."""

from math import isfinite

from handler.errors import ModelUnavailable
from handler.schema.window import Window
from handler.settings import Settings
from handler.startup.check_speech import WORDS, check_speech
from handler.transcription.pipeline import Pipeline
from handler.transcription.word_edits import letters_and_digits


def self_test(pipeline: Pipeline, settings: Settings) -> None:
    """Decode a second of English speech, which also triggers the setup that an engine does for its first window.

    Raises ModelUnavailable unless the settings disable this check: if a model that knows English recognizes none of the
    spoken words, or if another one finds no text at all, or computes no finite numbers.
    """
    known = pipeline.capabilities.languages
    language = "en" if "en" in known else next(iter(known), None)
    window = Window(0, check_speech()).with_params(language=language)
    result = pipeline.decode(window)
    text = "".join(segment.text for segment in result.segments)
    spoken = letters_and_digits(text)
    is_right = any(word in spoken for word in WORDS) if language == "en" else bool(spoken)
    is_finite = result.evidence is None or isfinite(result.evidence.avg_logprob)
    if settings.startup_check and not (is_right and is_finite):
        mismatch = f"it heard {text.strip()!r} where {' '.join(WORDS)!r} is said"
        advice = "the weights are damaged, or the model knows no English (STARTUP_CHECK=0 starts it all the same)"
        raise ModelUnavailable(f"MODEL_ID={settings.model_id}: {mismatch}; {advice}")
