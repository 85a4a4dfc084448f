"""Judging a window by its evidence, repeated phrases, echoes of the prompt."""

from dataclasses import replace
from math import inf, nan

import pytest

from handler.schema.options import Options
from handler.schema.transcript import Evidence
from handler.transcription.fallback import Verdict, check_thresholds, fallback_temperatures, rank_key
from handler.transcription.hallucination import find_prompt_echo, is_spoken_in, remove_repeats
from tests.support.segments import make_segment, text_of

GOOD = Evidence(-0.3, 0.01, 1.5, 0.0, 30, looped=False)


@pytest.mark.parametrize(
    ("changes", "options", "verdict"),
    [
        ({}, Options(), Verdict.ACCEPT),
        ({"avg_logprob": -1.2}, Options(), Verdict.RETRY),
        ({"avg_logprob": -1.2}, Options(logprob_threshold=-1.5), Verdict.ACCEPT),
        ({"compression_ratio": 2.5}, Options(), Verdict.RETRY),
        ({"compression_ratio": 2.5}, Options(compression_ratio_threshold=3), Verdict.ACCEPT),
        ({"looped": True}, Options(), Verdict.RETRY),
        ({"no_speech_prob": 0.9}, Options(), Verdict.ACCEPT),
        ({"no_speech_prob": 0.7, "avg_logprob": -1.2}, Options(), Verdict.DROP),
        ({"no_speech_prob": 0.7, "avg_logprob": -1.2}, Options(no_speech_threshold=0.8), Verdict.RETRY),
        ({"exhausted": True}, Options(), Verdict.ACCEPT),
        ({"avg_logprob": nan}, Options(), Verdict.RETRY),
        ({"avg_logprob": inf}, Options(), Verdict.RETRY),
        ({"avg_logprob": -inf}, Options(), Verdict.RETRY),
        ({"avg_logprob": nan, "no_speech_prob": 0.9}, Options(), Verdict.RETRY),
        ({"avg_logprob": nan}, Options(logprob_threshold=-1000), Verdict.RETRY),
        ({"compression_ratio": nan}, Options(), Verdict.RETRY),
        ({"compression_ratio": inf}, Options(), Verdict.RETRY),
    ],
)
def test_evidence_decides_by_the_thresholds_of_the_request(
    changes: dict[str, float], options: Options, verdict: Verdict
) -> None:
    assert check_thresholds(replace(GOOD, **changes), options) is verdict  # type: ignore[arg-type]


def test_temperature_0_falls_back_to_higher_ones_and_any_other_is_alone() -> None:
    assert list(fallback_temperatures(Options())) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert list(fallback_temperatures(Options(temperature=0.4))) == [0.4]


@pytest.mark.parametrize("logprob", [nan, inf, -inf])
def test_of_rejected_texts_one_whose_probability_is_no_number_ranks_below_an_unlikely_one(logprob: float) -> None:
    broken, unlikely = replace(GOOD, avg_logprob=logprob), replace(GOOD, avg_logprob=-900.0)
    assert rank_key(broken, Options()) < rank_key(unlikely, Options())


def test_of_rejected_texts_one_without_a_loop_ranks_first_then_the_most_likely() -> None:
    loop, dense = replace(GOOD, looped=True), replace(GOOD, compression_ratio=9.0)
    unsure = replace(GOOD, avg_logprob=-3.0)
    assert sorted([unsure, loop, dense], key=lambda evidence: rank_key(evidence, Options())) == [loop, dense, unsure]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no no no", "no no no"),
        ("and no no no no then", "and no then"),
        ("well thank you thank you thank you thank you thank you", "well thank you"),
        ("one two three four five six seven eight " * 4 + "nine", "one two three four five six seven eight nine"),
        ("a b a b a b c", "a b a b a b c"),
    ],
)
def test_a_phrase_more_than_three_times_running_is_said_once(text: str, expected: str) -> None:
    words = text.split()
    middle = len(words) // 2
    first, second = " ".join(words[:middle]), " ".join(words[middle:])
    segments = [make_segment(first, word_s=0.05), make_segment(second, start=50, word_s=0.05)]
    assert text_of(remove_repeats(segments)) == expected


def test_a_phrase_that_there_was_time_to_say_again_and_again_stays() -> None:
    text = " ".join(["no"] * 20)
    assert text_of(remove_repeats([make_segment(text, word_s=0.3)])) == text


@pytest.mark.parametrize(
    ("text", "context", "expected"),
    [
        ("glossary kaylee smyth john", "Glossary: Kaylee Smyth, John.", "glossary kaylee smyth john"),
        ("john", "Kaylee, John", "john"),
        ("we met kaylee smyth on monday", "Kaylee Smyth, John, Monday", ""),
        ("and then a letter from kaylee smyth came", "A letter from Kaylee Smyth.", "a letter from kaylee smyth"),
        ("nothing of that kind", "A letter from Kaylee Smyth.", ""),
        ("東 京 大 学 の 先 生 と 学 生", "東京大学の先生と学生。", "東 京 大 学 の 先 生 と 学 生"),
    ],
)
def test_an_echo_is_a_run_of_the_contexts_words(text: str, context: str, expected: str) -> None:
    echo = find_prompt_echo([make_segment(text)], ["something else", context])
    assert " ".join(word.text.strip() for word in echo) == expected


def test_words_of_the_context_that_are_decoded_without_it_were_spoken_even_if_spelled_otherwise() -> None:
    run = list(make_segment("a letter from kaylee smyth").words)
    assert is_spoken_in(run, [make_segment("A letter from Kayleigh Smith came")])
    assert not is_spoken_in(run, [make_segment("good morning everybody here today")])
    assert not is_spoken_in(run, [make_segment("a letter from kaylee smyth", start=30)])
