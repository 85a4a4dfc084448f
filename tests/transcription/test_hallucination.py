"""Judging a window by its evidence, repeated phrases, echoes: pure functions."""

from dataclasses import replace

import pytest

from handler.schema.options import Options
from handler.schema.transcript import Evidence
from handler.transcription.fallback import Verdict, check_thresholds, fallback_temperatures, rank_key
from handler.transcription.hallucination import echo, is_heard_in, remove_repeats
from tests.support.segments import spoken, text_of

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
    ],
)
def test_evidence_decides_by_the_thresholds_of_the_request(changes: dict[str, float], options: Options, verdict: Verdict) -> None:
    assert check_thresholds(replace(GOOD, **changes), options) is verdict  # type: ignore[arg-type]


def test_temperature_0_is_the_ladder_and_any_other_is_alone() -> None:
    assert list(fallback_temperatures(Options())) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert list(fallback_temperatures(Options(temperature=0.4))) == [0.4]


def test_of_texts_that_fail_one_without_a_loop_is_kept_then_the_likeliest() -> None:
    loop, dense, unsure = replace(GOOD, looped=True), replace(GOOD, compression_ratio=9.0), replace(GOOD, avg_logprob=-3.0)
    assert sorted([unsure, loop, dense], key=lambda evidence: rank_key(evidence, Options())) == [loop, dense, unsure]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("no no no", "no no no"),
        ("and no no no no then", "and no then"),
        ("well thank you thank you thank you thank you thank you", "well thank you"),
        ("one two three four five six seven eight " * 4 + "nine", "one two three four five six seven eight nine"),
        ("a b a b a b c", "a b a b a b c"),
    ],
)
def test_a_phrase_more_than_three_times_running_is_said_once(said: str, left: str) -> None:
    middle = len(said.split()) // 2
    segments = [spoken(" ".join(said.split()[:middle]), each=0.05), spoken(" ".join(said.split()[middle:]), start=50, each=0.05)]
    assert text_of(remove_repeats(segments)) == left


def test_a_phrase_that_there_was_time_to_say_again_and_again_stays() -> None:
    said = " ".join(["no"] * 20)
    assert text_of(remove_repeats([spoken(said, each=0.3)])) == said


@pytest.mark.parametrize(
    ("said", "context", "run"),
    [
        ("glossary kaylee smyth john", "Glossary: Kaylee Smyth, John.", "glossary kaylee smyth john"),
        ("john", "Kaylee, John", "john"),
        ("we met kaylee smyth on monday", "Kaylee Smyth, John, Monday", ""),
        ("and then a letter from kaylee smyth came", "A letter from Kaylee Smyth.", "a letter from kaylee smyth"),
        ("nothing of that kind", "A letter from Kaylee Smyth.", ""),
        ("東 京 大 学 の 先 生 と 学 生", "東京大学の先生と学生。", "東 京 大 学 の 先 生 と 学 生"),
    ],
)
def test_an_echo_is_a_run_of_the_contexts_words(said: str, context: str, run: str) -> None:
    assert " ".join(word.text.strip() for word in echo([spoken(said)], ["something else", context])) == run


def test_words_of_the_context_that_are_heard_without_it_were_said_even_if_spelled_otherwise() -> None:
    run = list(spoken("a letter from kaylee smyth").words)
    assert is_heard_in(run, [spoken("A letter from Kayleigh Smith came")])
    assert not is_heard_in(run, [spoken("good morning everybody here today")])
    assert not is_heard_in(run, [spoken("a letter from kaylee smyth", start=30)])
