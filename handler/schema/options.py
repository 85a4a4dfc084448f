"""The options of a request. Each is defined once, with its name, default, validation and JSON schema.

Knows no entry point and no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from handler.errors import InvalidRequest
from handler.languages import language_code
from handler.schema.option_fields import boolean_field, choice_field, float_field, integer_field, option_field
from handler.schema.option_parsers import (
    MAX_SPEAKERS,
    REDACTED_KINDS,
    listed,
    redacted_kinds,
    replacements,
    speaker_names,
    speaker_range,
    temperature_step,
    texts,
    token_ids,
)
from handler.validators import Unexpected, check, short_repr, string

FORMATS = ("json", "verbose_json", "text", "srt", "vtt", "tsv")
TASKS = ("transcribe", "translate")
TIMESTAMPS = ("segment", "word")
CHANNELS = ("mix", "split")
MULTI = "multi"  # the language is detected for every window
AUTO = "auto"  # as a language: the same as none
# Options of several values, which a string separates by commas.
LIST_OPTIONS = ("hotwords", "languages", "redact", "suppress_tokens")
# Options of several values, of which each may hold commas. In a string, several are JSON.
JSON_LIST_OPTIONS = ("known_speaker_names", "known_speaker_references")
# Encodings of samples without a header, by their names in FFmpeg: the two of telephone lines, and 16-bit samples.
COMPANDED = ("pcm_mulaw", "pcm_alaw")
INPUT_FORMATS = (*COMPANDED, "pcm_s16le", "pcm_s16be")
TELEPHONE_RATE = 8000  # Hz
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 768_000  # Hz
MAX_TRACK, MAX_CHANNELS = 255, 64
MAX_LANGUAGES = 20


def _language(value: object) -> str | None:
    key = string(value).strip().lower()
    code = MULTI if key == MULTI else language_code(key)
    if code is None and key not in ("", AUTO):
        raise Unexpected(
            "a code, tag or English name such as 'de', 'de-AT' or 'german', or 'multi'; left out, it is detected"
        )
    return code


def _languages(value: object) -> tuple[str, ...]:
    items = listed(value)
    if not isinstance(items, list | tuple) or not 0 < len(items) <= MAX_LANGUAGES:
        raise Unexpected(f"at most {MAX_LANGUAGES} languages, comma-separated or as a list")
    codes = tuple(dict.fromkeys(_language(item) for item in items))
    if None in codes or MULTI in codes:
        raise Unexpected("languages, each as a code, tag or English name")
    return tuple(code for code in codes if code is not None)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one request. An option that the request does not give has its default, which may be None."""

    language: str | None = option_field(
        None,
        "Language spoken, as a code, a tag or an English name. `multi` detects it for every window. "
        "If not given, or `auto`, it is detected once for the whole audio.",
        _language,
        {"type": "string", "examples": ["en", "de-AT", "german", "multi"]},
    )
    languages: tuple[str, ...] | None = option_field(
        None,
        "Languages of which one is spoken: the language is detected among these only. Without `language`.",
        _languages,
        {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "examples": ["en,de", ["en", "fr"]],
        },
    )
    task: str = choice_field(
        "transcribe",
        "`transcribe` writes the text in the language spoken, `translate` writes it in English.",
        TASKS,
    )
    timestamps: str = choice_field(
        "segment",
        "`segment` returns the times of segments, `word` those of their words, too.",
        TIMESTAMPS,
    )
    prompt: str = option_field(
        "",
        "Text assumed to precede every window, to guide names, spelling and style. "
        "If it is too long, only its end is used.",
        string,
        {"type": "string", "examples": ["Gutenberg, Fust and Schoeffer."]},
    )
    hotwords: str = option_field(
        "",
        "Names and terms that may occur, comma-separated; the model reads them before every window.",
        string,
        {"type": "string", "examples": ["Schoeffer, Subiaco"]},
    )
    temperature: float = float_field(
        0.0,
        "At 0, decode the most likely text; a window that fails a threshold is decoded again at 0.2, 0.4 … 1.0. "
        "Above 0, sample at this temperature only.",
        0,
        1,
    )
    beam_size: int = integer_field(
        1,
        "Width of the beam search at temperature 0; 1 is greedy. At most BATCH_SIZE.",
        1,
        64,
    )
    patience: float = float_field(
        1.0,
        "Beam search goes on until `patience` times `beam_size` texts are finished.",
        0.1,
        10,
    )
    length_penalty: float | None = float_field(
        None,
        "Rank texts by their log-probability divided by ((5 + tokens) / 6) to the power of this number. "
        "If not given, by their mean log-probability per token.",
        0,
        10,
    )
    suppress_tokens: tuple[int, ...] | None = option_field(
        None,
        "Ids of text tokens that are never decoded, comma-separated or as a list; "
        "-1 stands for the usual ones, which are symbols and noises.",
        token_ids,
        {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": -1}}],
            "examples": ["-1", "-1,50"],
        },
    )
    best_of: int | None = integer_field(
        None,
        "How many texts to sample at a temperature above 0; the most likely one is used. "
        "If not given, 5, or BATCH_SIZE if that is less.",
        1,
        64,
    )
    temperature_increment_on_fallback: float | None = option_field(
        None,
        "A window that fails a threshold is decoded again, at temperatures that rise by this step up to 1; "
        "0 disables it. If not given, 0.2 at temperature 0, and 0 above.",
        temperature_step,
        {"type": "number", "minimum": 0, "maximum": 1},
    )
    compression_ratio_threshold: float = float_field(
        2.4,
        "A window whose text has a higher compression ratio repeats itself, and is decoded again.",
        0,
        1000,
    )
    logprob_threshold: float = float_field(
        -1.0,
        "A window whose mean log-probability per token is lower is decoded again.",
        -1000,
        0,
    )
    no_speech_threshold: float = float_field(
        0.6,
        "A window that fails logprob_threshold, and whose probability of no speech is higher, gets no text.",
        0,
        1,
    )
    condition_on_previous_text: bool = boolean_field(
        False,
        "Decode each window after the text of the previous one: names stay consistent, "
        "but the windows of a file are no longer decoded side by side.",
    )
    channels: str = choice_field(
        "mix",
        "`mix` transcribes all channels as one; `split` transcribes each on its own, "
        "in one timeline with channel numbers.",
        CHANNELS,
    )
    diarize: bool = boolean_field(
        False,
        "Tell who speaks: every chunk and word gets a `speaker`, and the text is parted where the speaker changes. "
        "Needs DIARIZE_MODEL. With `channels=split`, speakers are told apart in each channel.",
    )
    speakers: tuple[int, int] | None = option_field(
        None,
        "With diarize: how many people speak (in each channel), as a number, or as two such as 2-4. "
        "If not given, as many as are heard.",
        speaker_range,
        {
            "oneOf": [{"type": "integer", "minimum": 1, "maximum": MAX_SPEAKERS}, {"type": "string"}],
            "examples": [2, "2-4"],
        },
    )
    known_speaker_names: tuple[str, ...] | None = option_field(
        None,
        "With diarize: names of speakers of whom there are samples in known_speaker_references. "
        "Those who are heard are told by these names.",
        speaker_names,
        {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}], "examples": [["Ann", "Ben"]]},
    )
    known_speaker_references: tuple[str, ...] | None = option_field(
        None,
        "A sample of each speaker of known_speaker_names, 2 to 10 seconds long: "
        "a file's bytes in base64, also as a data: URL, or its http, https or s3 URL.",
        texts,
        {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "examples": [["https://example.com/ann.wav", "https://example.com/ben.wav"]],
        },
    )
    paragraphs: bool = boolean_field(
        False,
        "Join the text to paragraphs, by pauses, speakers and length: `paragraphs` in JSON, blank lines in text.",
    )
    replace: tuple[tuple[str, str], ...] | None = option_field(
        None,
        "Phrases to replace in the text, with what replaces them, as a JSON object. "
        "Whole words, in any case of letters.",
        replacements,
        {
            "oneOf": [{"type": "object", "additionalProperties": {"type": "string"}}, {"type": "string"}],
            "examples": [{"guten berg": "Gutenberg"}, '{"guten berg": "Gutenberg"}'],
        },
    )
    redact: tuple[str, ...] | None = option_field(
        None,
        "What to replace by placeholders such as [CARD] in all text: e-mail addresses, IBANs and card numbers with "
        "right check digits, telephone numbers, and four or more digits in a row.",
        redacted_kinds,
        {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string", "enum": [*REDACTED_KINDS]}}],
            "examples": ["card,phone", ["email", "digits"]],
        },
    )
    vad: bool = boolean_field(
        True,
        "Leave out everything that is not speech before decoding; `false` decodes everything.",
    )
    start_at: float = float_field(
        0.0,
        "Seconds to leave out at the beginning of the audio. Times still count from its beginning.",
        0,
        8_640_000,
    )
    partial: bool = boolean_field(
        False,
        "If the request runs out of time, answer with the text finished so far and with `resume_at`, "
        "instead of an error.",
    )
    audio_track: int | None = integer_field(
        None,
        "Number of the audio track to transcribe, from 0. If not given, the one that a player would choose.",
        0,
        MAX_TRACK,
    )
    input_format: str | None = choice_field(
        None,
        "Encoding of the samples of a file without a header, such as a telephone call. "
        "If not given, the file has a header that tells.",
        INPUT_FORMATS,
    )
    sample_rate: int | None = integer_field(
        None,
        "With input_format: samples a second. If not given, 8000 for `pcm_mulaw` and `pcm_alaw`; "
        "it must be given for the others.",
        MIN_SAMPLE_RATE,
        MAX_SAMPLE_RATE,
    )
    input_channels: int | None = integer_field(
        None,
        "With input_format: number of channels, whose samples take turns. If not given, 1.",
        1,
        MAX_CHANNELS,
    )
    format: str = choice_field(
        "json",
        "Format of the answer.",
        FORMATS,
    )

    def __post_init__(self) -> None:
        """Fill in what a file without a header needs. Raises InvalidRequest if options contradict each other."""
        if self.languages is not None and self.language is not None:
            raise InvalidRequest("languages must come without language", "languages")
        if self.languages is not None and len(self.languages) == 1:
            object.__setattr__(self, "language", self.languages[0])
            object.__setattr__(self, "languages", None)
        if self.speakers is not None and not self.diarize:
            raise InvalidRequest("speakers must come with diarize", "speakers")
        self._check_known_speakers()
        if self.input_format is None:
            for name in ("sample_rate", "input_channels"):
                if getattr(self, name) is not None:
                    raise InvalidRequest(f"{name} must come with input_format, for a file without a header", name)
            return
        if self.audio_track:
            raise InvalidRequest(
                "audio_track must be left out or 0 with input_format: there is one track", "audio_track"
            )
        if self.sample_rate is None:
            if self.input_format not in COMPANDED:
                raise InvalidRequest(f"sample_rate must be given with input_format {self.input_format}", "sample_rate")
            object.__setattr__(self, "sample_rate", TELEPHONE_RATE)
        if self.input_channels is None:
            object.__setattr__(self, "input_channels", 1)

    def _check_known_speakers(self) -> None:
        names, references = self.known_speaker_names or (), self.known_speaker_references or ()
        if names and not self.diarize:
            raise InvalidRequest("known_speaker_names must come with diarize", "known_speaker_names")
        if len(names) != len(references):
            raise InvalidRequest(
                f"known_speaker_references must be one for each of known_speaker_names; got {len(references)} "
                f"for {len(names)}",
                "known_speaker_references",
            )

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> "Options":
        """Check `values`, which maps names of options to values, and return the options.

        A value is either of a JSON type or a string from a query or a form. None stands for the default, as does a
        missing option. Raises InvalidRequest if an option is unknown or a value is invalid.
        """
        options = {option.name: option for option in fields(cls)}
        unknown = sorted(set(values) - set(options), key=str)
        if unknown:
            raise InvalidRequest(f"unknown option {short_repr(unknown[0])}; expected one of {', '.join(options)}")
        given = {name: value for name, value in values.items() if value is not None}
        parsed = {name: check(name, value, options[name].metadata["parse"]) for name, value in given.items()}
        return cls(**parsed)

    @classmethod
    def json_schema(cls) -> dict[str, dict[str, Any]]:
        """Return a dictionary from the name of each option to its JSON schema."""
        return {option.name: dict(option.metadata["schema"]) for option in fields(cls)}
