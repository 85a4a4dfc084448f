"""What goes in and what comes out: every parameter of every door is born here, once. Knows no door and no model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from handler.errors import InvalidRequest
from handler.languages import language_code
from handler.validators import boolean, number, one_of, short_repr, string, integer

FORMATS = ("json", "verbose_json", "text", "srt", "vtt", "tsv")
TASKS = ("transcribe", "translate")
TIMESTAMPS = ("segment", "word")
CHANNELS = ("mix", "split")
LEAST_STEP = 0.05  # of the temperature, from one try to the next
MULTI = "multi"  # a language that is decided window by window


def _language(name: str, value: object) -> str | None:
    given = string(name, value)
    code = MULTI if given.strip().lower() == MULTI else language_code(given)
    if code is None and given.strip():
        raise InvalidRequest(
            f"{name} must be a language's code or English name such as 'de' or 'german', or 'multi'; got {short_repr(value)}", name
        )
    return code


def _step(name: str, value: object) -> float:
    found = number(0, 1)(name, value)
    if 0 < found < LEAST_STEP:
        raise InvalidRequest(f"{name} must be 0, or at least {LEAST_STEP:g}; got {short_repr(value)}", name)
    return found


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    given = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if isinstance(given, list | tuple):
        numbers = [int(item) if isinstance(item, str) and item.lstrip("-").isdecimal() else item for item in given]
        strange = isinstance(value, list) and any(isinstance(item, str) for item in value)
        if not strange and all(isinstance(item, int) and not isinstance(item, bool) and item >= -1 for item in numbers):
            return tuple(numbers)
    raise InvalidRequest(
        f"{name} must be token ids, comma-separated or as a list; -1 stands for the usual ones; got {short_repr(value)}", name
    )


def _option(default: Any, doc: str, parse: Callable[[str, object], Any], schema: dict[str, Any]) -> Any:
    stated = {} if default is None else {"default": default}
    return field(default=default, metadata={"parse": parse, "schema": {**schema, **stated, "description": doc}})


def _choice(default: str, doc: str, values: tuple[str, ...]) -> Any:
    return _option(default, doc, one_of(values), {"type": "string", "enum": list(values)})


def _ranged(default: float | None, doc: str, low: float, high: float) -> Any:
    return _option(default, doc, number(low, high), {"type": "number", "minimum": low, "maximum": high})


def _counted(default: int | None, doc: str, low: int, high: int) -> Any:
    return _option(default, doc, integer(low, high), {"type": "integer", "minimum": low, "maximum": high})


@dataclass(frozen=True, slots=True)
class Options:
    """How one request wants its audio transcribed. An option that is not set is None or its default."""

    language: str | None = _option(
        None,
        "Language spoken, as a code or an English name; `multi` finds it out for every window; where not given, for the whole audio.",
        _language,
        {"type": "string", "examples": ["en", "german", "multi"]},
    )
    task: str = _choice(
        "transcribe",
        "`transcribe` writes what is said, `translate` writes it in English.",
        TASKS,
    )
    timestamps: str = _choice(
        "segment",
        "What carries times: segments, or words too.",
        TIMESTAMPS,
    )
    prompt: str = _option(
        "",
        "Text that is taken to precede every window: names, spelling, style. Its end is kept where it is too long.",
        string,
        {"type": "string", "examples": ["Gutenberg, Fust and Schoeffer."]},
    )
    hotwords: str = _option(
        "",
        "Names and terms that may come up, comma-separated; the model reads them before every window.",
        string,
        {"type": "string", "examples": ["Schoeffer, Subiaco"]},
    )
    temperature: float = _ranged(
        0.0,
        "0 decodes the likeliest text, and where it fails a threshold again at 0.2, 0.4 … 1.0; above 0, samples at this temperature only.",
        0,
        1,
    )
    beam_size: int = _counted(
        1,
        "Width of the beam search at temperature 0; 1 is greedy. At most BATCH_SIZE.",
        1,
        64,
    )
    patience: float = _ranged(
        1.0,
        "Beam search goes on until so many times `beam_size` texts have come to their end.",
        0.1,
        10,
    )
    length_penalty: float | None = _ranged(
        None,
        "Texts are ranked by their log-probability over ((5 + tokens) / 6) to this power; where not given, by its mean over the tokens.",
        0,
        10,
    )
    suppress_tokens: tuple[int, ...] | None = _option(
        None,
        "Ids of text tokens that never come, comma-separated or as a list; -1 stands for the usual ones, which are symbols and noises.",
        _token_ids,
        {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": -1}}], "examples": ["-1", "-1,50"]},
    )
    best_of: int | None = _counted(
        None,
        "Texts sampled at a temperature above 0, of which the likeliest is kept: 5, or BATCH_SIZE where that is less.",
        1,
        64,
    )
    temperature_increment_on_fallback: float | None = _option(
        None,
        "A window that fails a threshold is decoded again at temperatures that rise by so much up to 1; 0: never. Where not given, "
        "0.2 at temperature 0, and 0 above.",
        _step,
        {"type": "number", "minimum": 0, "maximum": 1},
    )
    compression_ratio_threshold: float = _ranged(
        2.4,
        "A window whose text compresses better repeats itself, and is decoded again.",
        0,
        1000,
    )
    logprob_threshold: float = _ranged(
        -1.0,
        "A window whose mean log-probability of a token is lower is decoded again.",
        -1000,
        0,
    )
    no_speech_threshold: float = _ranged(
        0.6,
        "A window that fails logprob_threshold, and whose probability of no speech is higher, has no text.",
        0,
        1,
    )
    condition_on_previous_text: bool = _option(
        False,
        "Decode each window after the text of the one before: names stay the same, but a file's windows no longer run side by side.",
        boolean,
        {"type": "boolean"},
    )
    channels: str = _choice(
        "mix",
        "`mix` transcribes all channels as one; `split` each on its own, in one timeline with channel numbers.",
        CHANNELS,
    )
    vad: bool = _option(
        True,
        "Leave out what is no speech before decoding; `false` decodes everything.",
        boolean,
        {"type": "boolean"},
    )
    start_at: float = _ranged(
        0.0,
        "Seconds at the beginning of the audio that are left out; times still count from its beginning.",
        0,
        8_640_000,
    )
    partial: bool = _option(
        False,
        "Where the time for the request does not suffice, answer with what is done by then, and with `resume_at`, instead of an error.",
        boolean,
        {"type": "boolean"},
    )
    format: str = _choice(
        "json",
        "Shape of the answer.",
        FORMATS,
    )

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> "Options":
        """Options from JSON values or query strings; None means not given.

        Raises InvalidRequest with the name of the first option that is unknown or whose value is refused.
        """
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InvalidRequest(f"unknown option {short_repr(unknown[0])}; expected one of {', '.join(known)}")
        parsed = {name: known[name].metadata["parse"](name, value) for name, value in given.items() if value is not None}
        return cls(**parsed)

    @classmethod
    def json_schema(cls) -> dict[str, dict[str, Any]]:
        """JSON schema of each option, by name."""
        return {f.name: dict(f.metadata["schema"]) for f in fields(cls)}
