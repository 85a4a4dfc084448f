"""What a model cannot do is refused by the name of the option; what it can do, and every default, is let through."""

from dataclasses import fields, replace

import pytest

from handler.errors import InvalidRequest
from handler.schema.capabilities import Capabilities, check_options, effective_options
from handler.schema.options import Options

NOTHING = Capabilities()
EVERYTHING = Capabilities(
    languages=("en", "de"),
    tells_language=True,
    detects_language=True,
    translates=True,
    prompt=True,
    hotwords=True,
    word_times=True,
    token_logprobs=True,
    sampling=True,
    beam_search=True,
    diarization=True,
    known_speakers=True,
    text_tokens=100,
)
# An option that each ability is for, with a value that is not its default.
NEEDS: dict[str, list[dict[str, object]]] = {
    "tells_language": [{"language": "multi"}],
    "translates": [{"task": "translate"}],
    "detects_language": [{"languages": ("en", "de")}],
    "prompt": [{"prompt": "x"}, {"condition_on_previous_text": True}],
    "hotwords": [{"hotwords": "x"}],
    "diarization": [{"diarize": True}],
    "known_speakers": [
        {"known_speaker_names": ("Ann",), "known_speaker_references": ("https://a.example/",), "diarize": True}
    ],
    "word_times": [{"timestamps": "word"}],
    "sampling": [
        {"temperature": 0.3},
        {"best_of": 2},
        {"temperature_increment_on_fallback": 0.2},
        {"compression_ratio_threshold": 2.0},
        {"logprob_threshold": -2.0},
        {"no_speech_threshold": 0.5},
    ],
    "beam_search": [{"beam_size": 2}, {"patience": 2.0}, {"length_penalty": 1.0}],
    "text_tokens": [{"suppress_tokens": (3,)}],
}
CASES = [(ability, values) for ability, options in NEEDS.items() for values in options]


def check(options: Options, capabilities: Capabilities) -> None:
    check_options(options, capabilities, "the/model", max_batch_size=4)


@pytest.mark.parametrize(("ability", "values"), CASES, ids=str)
def test_an_option_needs_its_ability_and_no_other(ability: str, values: dict[str, object]) -> None:
    options = Options(**values)  # type: ignore[arg-type]
    check(options, EVERYTHING)
    lacking = replace(EVERYTHING, **{ability: type(getattr(EVERYTHING, ability))()})
    with pytest.raises(InvalidRequest) as error:
        check(options, lacking)
    assert error.value.field == next(iter(values))
    assert "the/model" in error.value.message


@pytest.mark.parametrize("capabilities", [NOTHING, EVERYTHING], ids=["nothing", "everything"])
def test_defaults_are_never_refused(capabilities: Capabilities) -> None:
    check(Options(), capabilities)


def test_every_ability_is_needed_by_an_option_or_concerns_none() -> None:
    others = {"languages", "needs_language", "longest_window_s", "token_logprobs", "live_diarization"}
    assert {field.name for field in fields(Capabilities)} == set(NEEDS) | others


def test_a_model_whose_languages_are_unknown_takes_any() -> None:
    check(Options(language="fi"), NOTHING)
    with pytest.raises(InvalidRequest, match="language 'fi' is not known to model the/model; expected en, de"):
        check(Options(language="fi"), EVERYTHING)


def test_a_model_that_must_be_told_the_language_says_which_ones_it_knows() -> None:
    capabilities = replace(EVERYTHING, needs_language=True)
    with pytest.raises(InvalidRequest, match=r"language must be given: .* expected en, de"):
        check(Options(), capabilities)
    check(Options(language="de"), capabilities)


def test_no_window_is_decoded_twice_by_a_model_that_cannot_sample() -> None:
    assert effective_options(Options(), NOTHING).temperature_increment_on_fallback == 0
    assert effective_options(Options(), EVERYTHING) == Options()


def test_capabilities_are_plain_json() -> None:
    import json

    content = EVERYTHING.as_dict()
    assert json.loads(json.dumps(content)) == content
