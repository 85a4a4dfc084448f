"""Options: parsed the same way for every entry point, refused by name."""

import dataclasses
import re

import pytest

from handler.audio.source import AudioSource
from handler.errors import InvalidRequest
from handler.languages import LANGUAGES, language_code
from handler.schema.options import Options
from tests.support.tables import code_in, says_unset, table


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"language": "klingon"}, "language must be"),
        ({"language": 7}, "language must be a string"),
        ({"languages": "en,klingon"}, "languages must be a code, tag or English name"),
        ({"languages": ["multi"]}, "languages must be languages, each as"),
        ({"languages": []}, "languages must be at most 20 languages"),
        ({"languages": "en,de", "language": "en"}, "languages must come without language"),
        ({"speakers": 2}, "speakers must come with diarize"),
        ({"speakers": "4-2", "diarize": True}, "speakers must be a whole number from 1 to 64, or two"),
        ({"speakers": 65, "diarize": True}, "speakers must be a whole number from 1 to 64, or two"),
        ({"speakers": "many", "diarize": True}, "speakers must be a whole number from 1 to 64, or two"),
        ({"diarize": 2}, "diarize must be true or false"),
        ({"redact": "cards"}, "redact must be one or several of email, iban, card, phone, digits"),
        ({"redact": []}, "redact must be one or several of"),
        ({"replace": {}}, "replace must be an object of at most"),
        ({"replace": "cat=dog"}, "replace must be an object of at most"),
        ({"replace": {"a": 1}}, "replace must be an object of at most"),
        ({"replace": {" ": "b"}}, "replace must be phrases of 1 to"),
        ({"replace": {"a": "b" * 400}}, "replace must be phrases of 1 to"),
        ({"paragraphs": "some"}, "paragraphs must be true or false"),
        ({"task": "sing"}, "task must be one of transcribe, translate"),
        ({"timestamps": "syllable"}, "timestamps must be one of"),
        ({"format": "pdf"}, "format must be one of"),
        ({"vad": "perhaps"}, "vad must be true or false"),
        ({"condition_on_previous_text": 2}, "condition_on_previous_text must be true or false"),
        ({"prompt": ["a"]}, "prompt must be a string"),
        ({"hotwords": 3}, "hotwords must be a string"),
        ({"temperature": 1.5}, "temperature must be a number from 0 to 1"),
        ({"temperature": "warm"}, "temperature must be a number"),
        ({"temperature": "nan"}, "temperature must be a number"),
        ({"temperature": 10**400}, "temperature must be a number"),
        ({"temperature": True}, "temperature must be a number"),
        ({"beam_size": 0}, "beam_size must be a whole number from 1 to 64"),
        ({"beam_size": 2.5}, "beam_size must be a whole number from 1 to 64"),
        ({"best_of": [5]}, "best_of must be a whole number"),
        ({"logprob_threshold": 1}, "logprob_threshold must be a number from -1000 to 0"),
        ({"no_speech_threshold": -1}, "no_speech_threshold must be a number from 0 to 1"),
        ({"compression_ratio_threshold": None, "channels": "left"}, "channels must be one of mix, split"),
    ],
)
def test_an_option_that_is_unknown_or_bad_is_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Options.parse(values)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Options)])
def test_a_refused_value_says_which_option_it_was(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Options.parse({name: object()})
    assert caught.value.field == name


def test_numbers_come_as_numbers_or_as_text_of_a_query() -> None:
    numbers = {"temperature": 0.5, "beam_size": 5}
    texts = {"temperature": "0.5", "beam_size": "5"}
    assert Options.parse(texts) == Options.parse(numbers)
    assert Options.parse({"language": "Multi"}).language == "multi"


@pytest.mark.parametrize(
    ("value", "expected"), [(3, (3, 3)), ("3", (3, 3)), ("2-4", (2, 4)), (" 1 - 64 ", (1, 64)), (2.0, (2, 2))]
)
def test_a_number_of_speakers_may_be_a_range(value: object, expected: tuple[int, int]) -> None:
    assert Options.parse({"diarize": "true", "speakers": value}).speakers == expected


def test_languages_are_codes_once_each_and_one_of_them_is_the_language() -> None:
    assert Options.parse({"languages": "German, en-US, de"}).languages == ("de", "en")
    one = Options.parse({"languages": ["French", "fr"]})
    assert (one.language, one.languages) == ("fr", None)


def test_options_that_are_not_given_have_their_defaults() -> None:
    assert Options.parse({"language": None, "task": None}) == Options()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("de", "de"),
        ("German", "de"),
        (" FRENCH ", "fr"),
        ("mandarin", "zh"),
        ("", None),
        ("xx", None),
        ("en-US", "en"),
        ("zh_CN", "zh"),
        ("ZH-Hant-TW", "zh"),
        ("yue-HK", "yue"),
        ("pt_BR.UTF-8", "pt"),
        ("de_DE@euro", "de"),
        ("nb-NO", "no"),
        ("fil-PH", "tl"),
        ("cmn-Hans-CN", "zh"),
        ("iw_IL", "he"),
        ("xx-DE", None),
        ("-", None),
        ("-en", None),
        ("deutsch", None),
    ],
)
def test_a_language_may_be_given_by_code_tag_or_name(text: str, code: str | None) -> None:
    assert language_code(text) == code


def test_the_table_of_languages_is_that_of_the_field() -> None:
    from whisper.tokenizer import LANGUAGES as WHISPER_LANGUAGES

    assert list(LANGUAGES.items()) == list(WHISPER_LANGUAGES.items())


def test_a_long_value_is_shown_short_in_an_error() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Options.parse({"task": "x" * 10_000})
    assert len(caught.value.message) < 200


def test_a_source_is_exactly_one() -> None:
    with pytest.raises(InvalidRequest):
        AudioSource()
    with pytest.raises(InvalidRequest):
        AudioSource(url="http://a/b", base64="AA==")


def test_every_option_stands_in_the_reference() -> None:
    assert list(table("docs/reference/options.md", "option")) != []
    assert table("docs/reference/options.md", "option").keys() == {field.name for field in dataclasses.fields(Options)}


@pytest.mark.parametrize("field", dataclasses.fields(Options), ids=lambda field: field.name)
def test_the_reference_has_the_values_and_the_default_of_an_option(field: "dataclasses.Field[object]") -> None:
    values, _, default = table("docs/reference/options.md", "option")[field.name]
    schema = field.metadata["schema"]
    if "enum" in schema:
        assert re.findall(r"`([^`]+)`", values) == schema["enum"]
    elif "minimum" in schema:
        low, high = (float(bound) for bound in re.findall(r"-?[\d.]+", values.partition(",")[0]))
        assert (low, high) == (schema["minimum"], schema["maximum"])
    if says_unset(default):
        assert field.default in (None, "")
    else:
        assert field.metadata["parse"](code_in(default)) == field.default


@pytest.mark.parametrize("value", ["auto", "AUTO", " Auto ", "", None])
def test_a_language_that_is_to_be_detected_may_be_called_auto(value: str | None) -> None:
    assert Options.parse({"language": value}) == Options()


def test_an_unknown_language_is_refused_with_how_to_have_it_detected() -> None:
    with pytest.raises(InvalidRequest, match="left out, it is detected; got 'tlh-QS'"):
        Options.parse({"language": "tlh-QS"})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"input_format": "pcm_mulaw"}, (8000, 1)),
        ({"input_format": "pcm_alaw", "sample_rate": "16000"}, (16_000, 1)),
        ({"input_format": "pcm_s16le", "sample_rate": 44_100, "input_channels": 2}, (44_100, 2)),
        ({"input_format": "pcm_s16be", "sample_rate": "24000", "audio_track": 0}, (24_000, 1)),
        ({"input_format": None, "sample_rate": None, "audio_track": 3}, (None, None)),
    ],
)
def test_a_file_without_a_header_has_all_that_a_header_would_tell(
    values: dict[str, object], expected: tuple[int | None, int | None]
) -> None:
    options = Options.parse(values)
    assert (options.sample_rate, options.input_channels) == expected
    assert dataclasses.replace(options, task="translate") == Options.parse({**values, "task": "translate"})


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"sample_rate": 8000}, "sample_rate"),
        ({"input_channels": 1}, "input_channels"),
        ({"input_format": "pcm_s16le"}, "sample_rate"),
        ({"input_format": "pcm_s16be", "input_channels": 2}, "sample_rate"),
        ({"input_format": "pcm_mulaw", "audio_track": 1}, "audio_track"),
        ({"input_format": "pcm_f32le", "sample_rate": 8000}, "input_format"),
        ({"input_format": "pcm_mulaw", "sample_rate": 999}, "sample_rate"),
        ({"input_format": "pcm_mulaw", "sample_rate": 768_001}, "sample_rate"),
        ({"input_format": "pcm_mulaw", "input_channels": 65}, "input_channels"),
        ({"audio_track": -1}, "audio_track"),
        ({"audio_track": 256}, "audio_track"),
    ],
)
def test_options_that_contradict_each_other_are_refused_by_one_of_them(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Options.parse(values)
    assert caught.value.field == field


@pytest.mark.parametrize("value", ["--5", "1,--2", "-", "9" * 5000, [10**400], [10**9], "\u0663", "1_0", "+1", "-1-1"])
def test_a_token_id_that_python_cannot_read_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="suppress_tokens must be token ids"):
        Options.parse({"suppress_tokens": value})


def test_an_option_whose_name_is_no_text_is_unknown() -> None:
    with pytest.raises(InvalidRequest, match="unknown option 5"):
        Options.parse({5: 1, "colour": 2})  # type: ignore[dict-item]
