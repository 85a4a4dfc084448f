"""The options of a request. Each is defined once, with its name, default, validation and JSON schema.

Knows no entry point and no model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from handler.errors import InvalidRequest
from handler.languages import language_code
from handler.validators import boolean, integer, number, one_of, short_repr, string

FORMATS = ("json", "verbose_json", "text", "srt", "vtt", "tsv")
TASKS = ("transcribe", "translate")
TIMESTAMPS = ("segment", "word")
CHANNELS = ("mix", "split")
MIN_TEMPERATURE_STEP = 0.05  # smallest difference between two fallback temperatures
MULTI = "multi"  # the language is detected for every window


def _language(name: str, value: object) -> str | None:
    text = string(name, value)
    code = MULTI if text.strip().lower() == MULTI else language_code(text)
    if code is None and text.strip():
        expected = "a language's code or English name such as 'de' or 'german', or 'multi'"
        raise InvalidRequest(f"{name} must be {expected}; got {short_repr(value)}", name)
    return code


def _temperature_step(name: str, value: object) -> float:
    step = number(0, 1)(name, value)
    if 0 < step < MIN_TEMPERATURE_STEP:
        raise InvalidRequest(f"{name} must be 0, or at least {MIN_TEMPERATURE_STEP:g}; got {short_repr(value)}", name)
    return step


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
    if isinstance(items, list | tuple):
        ids = [int(item) if isinstance(item, str) and item.lstrip("-").isdecimal() else item for item in items]
        has_strings = isinstance(value, list) and any(isinstance(item, str) for item in value)
        if not has_strings and all(map(_is_token_id, ids)):
            return tuple(ids)
    expected = "token ids, comma-separated or as a list; -1 stands for the usual ones"
    raise InvalidRequest(f"{name} must be {expected}; got {short_repr(value)}", name)


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= -1


def _option(default: Any, description: str, parse: Callable[[str, object], Any], schema: dict[str, Any]) -> Any:
    """Return a dataclass field for an option, with the option's parser and JSON schema in the field's metadata."""
    stated_default = {} if default is None else {"default": default}
    full_schema = {**schema, **stated_default, "description": description}
    return field(default=default, metadata={"parse": parse, "schema": full_schema})


def _choice(default: str, description: str, values: tuple[str, ...]) -> Any:
    return _option(default, description, one_of(values), {"type": "string", "enum": list(values)})


def _float(default: float | None, description: str, low: float, high: float) -> Any:
    return _option(default, description, number(low, high), {"type": "number", "minimum": low, "maximum": high})


def _integer(default: int | None, description: str, low: int, high: int) -> Any:
    return _option(default, description, integer(low, high), {"type": "integer", "minimum": low, "maximum": high})


def _boolean(default: bool, description: str) -> Any:
    return _option(default, description, boolean, {"type": "boolean"})


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one request. An option that the request does not give has its default, which may be None."""

    language: str | None = _option(
        None,
        "Language spoken, as a code or an English name. `multi` detects it for every window. "
        "If not given, it is detected once for the whole audio.",
        _language,
        {"type": "string", "examples": ["en", "german", "multi"]},
    )
    task: str = _choice(
        "transcribe",
        "`transcribe` writes the text in the language spoken, `translate` writes it in English.",
        TASKS,
    )
    timestamps: str = _choice(
        "segment",
        "`segment` returns the times of segments, `word` those of their words, too.",
        TIMESTAMPS,
    )
    prompt: str = _option(
        "",
        "Text assumed to precede every window, to guide names, spelling and style. "
        "If it is too long, only its end is used.",
        string,
        {"type": "string", "examples": ["Gutenberg, Fust and Schoeffer."]},
    )
    hotwords: str = _option(
        "",
        "Names and terms that may occur, comma-separated; the model reads them before every window.",
        string,
        {"type": "string", "examples": ["Schoeffer, Subiaco"]},
    )
    temperature: float = _float(
        0.0,
        "At 0, decode the most likely text; a window that fails a threshold is decoded again at 0.2, 0.4 … 1.0. "
        "Above 0, sample at this temperature only.",
        0,
        1,
    )
    beam_size: int = _integer(
        1,
        "Width of the beam search at temperature 0; 1 is greedy. At most BATCH_SIZE.",
        1,
        64,
    )
    patience: float = _float(
        1.0,
        "Beam search goes on until `patience` times `beam_size` texts are finished.",
        0.1,
        10,
    )
    length_penalty: float | None = _float(
        None,
        "Rank texts by their log-probability divided by ((5 + tokens) / 6) to the power of this number. "
        "If not given, by their mean log-probability per token.",
        0,
        10,
    )
    suppress_tokens: tuple[int, ...] | None = _option(
        None,
        "Ids of text tokens that are never decoded, comma-separated or as a list; "
        "-1 stands for the usual ones, which are symbols and noises.",
        _token_ids,
        {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": -1}}],
            "examples": ["-1", "-1,50"],
        },
    )
    best_of: int | None = _integer(
        None,
        "How many texts to sample at a temperature above 0; the most likely one is used. "
        "If not given, 5, or BATCH_SIZE if that is less.",
        1,
        64,
    )
    temperature_increment_on_fallback: float | None = _option(
        None,
        "A window that fails a threshold is decoded again, at temperatures that rise by this step up to 1; "
        "0 disables it. If not given, 0.2 at temperature 0, and 0 above.",
        _temperature_step,
        {"type": "number", "minimum": 0, "maximum": 1},
    )
    compression_ratio_threshold: float = _float(
        2.4,
        "A window whose text has a higher compression ratio repeats itself, and is decoded again.",
        0,
        1000,
    )
    logprob_threshold: float = _float(
        -1.0,
        "A window whose mean log-probability per token is lower is decoded again.",
        -1000,
        0,
    )
    no_speech_threshold: float = _float(
        0.6,
        "A window that fails logprob_threshold, and whose probability of no speech is higher, gets no text.",
        0,
        1,
    )
    condition_on_previous_text: bool = _boolean(
        False,
        "Decode each window after the text of the previous one: names stay consistent, "
        "but the windows of a file are no longer decoded side by side.",
    )
    channels: str = _choice(
        "mix",
        "`mix` transcribes all channels as one; `split` transcribes each on its own, "
        "in one timeline with channel numbers.",
        CHANNELS,
    )
    vad: bool = _boolean(
        True,
        "Leave out everything that is not speech before decoding; `false` decodes everything.",
    )
    start_at: float = _float(
        0.0,
        "Seconds to leave out at the beginning of the audio. Times still count from its beginning.",
        0,
        8_640_000,
    )
    partial: bool = _boolean(
        False,
        "If the request runs out of time, answer with the text finished so far and with `resume_at`, "
        "instead of an error.",
    )
    format: str = _choice(
        "json",
        "Format of the answer.",
        FORMATS,
    )

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> "Options":
        """Check `values`, which maps names of options to values, and return the options.

        A value is either of a JSON type or a string from a query or a form. None stands for the default, as does a
        missing option. Raises InvalidRequest if an option is unknown or a value is invalid.
        """
        options = {option.name: option for option in fields(cls)}
        unknown = sorted(set(values) - set(options))
        if unknown:
            raise InvalidRequest(f"unknown option {short_repr(unknown[0])}; expected one of {', '.join(options)}")
        parsed = {
            name: options[name].metadata["parse"](name, value) for name, value in values.items() if value is not None
        }
        return cls(**parsed)

    @classmethod
    def json_schema(cls) -> dict[str, dict[str, Any]]:
        """Return a dictionary from the name of each option to its JSON schema."""
        return {option.name: dict(option.metadata["schema"]) for option in fields(cls)}
