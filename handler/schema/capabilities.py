"""What a loaded model can do for a request, and the refusal of options that it cannot honour. Knows no model."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from handler.errors import InvalidRequest
from handler.schema.options import MULTI, Options

MAX_LISTED_LANGUAGES = 9  # an error message lists a model's languages if there are at most this many
# The options that each ability is for. A value other than the option's default is refused where the ability is missing.
_OPTIONS_BY_ABILITY = {
    "detects_language": ("languages",),
    "prompt": ("prompt", "condition_on_previous_text"),
    "hotwords": ("hotwords",),
    "sampling": (
        "temperature",
        "best_of",
        "compression_ratio_threshold",
        "logprob_threshold",
        "no_speech_threshold",
    ),
    "beam_search": ("beam_size", "patience", "length_penalty"),
    "text_tokens": ("suppress_tokens",),
}
_DEFAULTS = {option.name: option.default for option in fields(Options)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a model can do. The defaults are those of a model that turns the speech of one language into text."""

    # Codes of the languages that the model knows. Empty if the checkpoint does not say: then any may be named.
    languages: tuple[str, ...] = ()
    tells_language: bool = False  # the model finds out which language is spoken if the request names none
    detects_language: bool = False  # it can do so without decoding a text (DecodingParams.detect_only)
    needs_language: bool = False  # each request must name the language
    translates: bool = False  # task `translate`
    prompt: bool = False
    hotwords: bool = False
    word_times: bool = False  # words have times and a probability
    token_logprobs: bool = False  # so have the tokens of words, with log-probabilities
    sampling: bool = False  # temperatures above 0, and therefore a second try for a window that fails a threshold
    beam_search: bool = False
    diarization: bool = False  # speakers are told apart, by a model of its own
    known_speakers: bool = False  # which compares them with references, too
    live_diarization: bool = False  # and in live speech, too
    text_tokens: int = 0  # number of text tokens that can be suppressed; their ids are 0 to text_tokens − 1
    longest_window_s: float = 30.0  # longest stretch of audio that the model decodes as a whole

    def as_dict(self) -> dict[str, Any]:
        """Return the capabilities as a JSON object."""
        return {**asdict(self), "languages": list(self.languages)}


def effective_options(options: Options, capabilities: Capabilities) -> Options:
    """Return the options as the model follows them: one that cannot sample decodes no window at other temperatures."""
    return options if capabilities.sampling else replace(options, temperature_increment_on_fallback=0.0)


def check_options(options: Options, capabilities: Capabilities, model_id: str, max_batch_size: int) -> None:
    """Raise InvalidRequest if the model, or its batch of `max_batch_size` sequences, cannot do what is asked for.

    The error names the option and, for a language, what the model knows.
    """
    _check_abilities(options, capabilities, model_id)
    _check_search(options, capabilities, max_batch_size)
    _check_language(options, capabilities, model_id)


def _check_abilities(options: Options, capabilities: Capabilities, model_id: str) -> None:
    for ability, names in _OPTIONS_BY_ABILITY.items():
        for name in names:
            if not getattr(capabilities, ability) and getattr(options, name) != _DEFAULTS[name]:
                raise InvalidRequest(f"{name} must be left out: {model_id} has no use for it", name)
    if options.temperature_increment_on_fallback and not capabilities.sampling:
        name = "temperature_increment_on_fallback"
        raise InvalidRequest(f"{name} must be left out or 0: {model_id} decodes no window twice", name)
    if options.diarize and not capabilities.diarization:
        raise InvalidRequest(
            f"diarize must be left out or false: beside {model_id}, DIARIZE_MODEL names no model for it", "diarize"
        )
    if options.known_speaker_names and not capabilities.known_speakers:
        raise InvalidRequest(
            f"known_speaker_names must be left out: beside {model_id}, DIARIZE_MODEL names no model for it",
            "known_speaker_names",
        )
    if options.timestamps == "word" and not capabilities.word_times:
        raise InvalidRequest(f"timestamps must be segment: {model_id} tells no times of words", "timestamps")


def _check_search(options: Options, capabilities: Capabilities, max_batch_size: int) -> None:
    """Raise InvalidRequest if the search is wider than the batch, or a token to suppress is not a text token."""
    if max(options.beam_size, options.best_of or 1) > max_batch_size:
        name = "beam_size" if options.beam_size > max_batch_size else "best_of"
        value = getattr(options, name)
        raise InvalidRequest(f"{name} must be at most BATCH_SIZE, which is {max_batch_size}; got {value}", name)
    num_tokens = capabilities.text_tokens
    if any(token >= num_tokens for token in options.suppress_tokens or ()):
        largest = max(options.suppress_tokens or ())
        raise InvalidRequest(
            f"suppress_tokens must be ids of text, below {num_tokens}; got {largest}", "suppress_tokens"
        )


def _check_language(options: Options, capabilities: Capabilities, model_id: str) -> None:
    """Raise InvalidRequest if the model does not know the language or cannot do the task."""
    language, known = options.language, capabilities.languages
    for listed in options.languages or ():
        if known and listed not in known:
            raise InvalidRequest(
                f"language {listed!r} is not known to model {model_id}; expected {_list(known)}", "languages"
            )
    if language == MULTI and not capabilities.tells_language:
        raise InvalidRequest(
            f"language multi needs a model that finds out the language; {model_id} does not", "language"
        )
    if language not in (None, MULTI) and known and language not in known:
        raise InvalidRequest(
            f"language {language!r} is not known to model {model_id}; expected {_list(known)}", "language"
        )
    if language is None and capabilities.needs_language:
        raise InvalidRequest(
            f"language must be given: {model_id} does not find it out; expected {_list(known)}", "language"
        )
    if options.task == "translate" and not capabilities.translates:
        raise InvalidRequest(f"task translate needs a multilingual model; {model_id} does not translate", "task")


def _list(languages: tuple[str, ...]) -> str:
    return ", ".join(languages) if len(languages) <= MAX_LISTED_LANGUAGES else f"one of {len(languages)} others"
