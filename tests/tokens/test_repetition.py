"""Loops in decoded tokens and repetition in text, against plain definitions."""

import random
import zlib

import pytest

from handler.tokens.repetition import MAX_LOOP_PERIOD, MIN_LOOP_REPEATS, MIN_LOOP_TOKENS, compression_ratio, loop_start


def slow_loop_start(tokens: list[int]) -> int | None:
    """The same by trying every period and counting its copies one by one."""
    for period in range(1, MAX_LOOP_PERIOD + 1):
        length = period
        while length < len(tokens) and tokens[-1 - length] == tokens[-1 - length + period]:
            length += 1
        if length <= len(tokens) and length >= max(MIN_LOOP_REPEATS * period, MIN_LOOP_TOKENS):
            return len(tokens) - length + period
    return None


@pytest.mark.parametrize("period", [1, 2, 3, 6, 7, 12, MAX_LOOP_PERIOD])
def test_a_run_that_comes_often_enough_is_a_loop_after_its_first_copy(period: int) -> None:
    run = list(range(100, 100 + period))
    repeats = max(MIN_LOOP_REPEATS, -(-MIN_LOOP_TOKENS // period))
    assert loop_start([1, 2, 3, *run * repeats]) == 3 + period
    assert loop_start([1, 2, 3, *run * (MIN_LOOP_REPEATS - 1)]) is None


def test_a_longer_run_is_no_loop_however_often_it_comes() -> None:
    assert loop_start(list(range(MAX_LOOP_PERIOD + 1)) * 8) is None


def test_a_loop_that_the_text_has_left_is_none() -> None:
    assert loop_start([5] * 60 + [6]) is None


def test_short_and_empty_texts_have_no_loop() -> None:
    assert loop_start([]) is None
    assert loop_start([5] * (MIN_LOOP_TOKENS - 1)) is None
    assert loop_start([5] * MIN_LOOP_TOKENS) == 1


@pytest.mark.parametrize("seed", range(20))
def test_loops_are_those_of_the_slow_twin(seed: int) -> None:
    chance = random.Random(seed)
    run = [chance.randrange(3) for _ in range(chance.randint(1, MAX_LOOP_PERIOD))]
    tokens = [chance.randrange(3) for _ in range(chance.randint(0, 30))] + run * chance.randint(1, 9)
    assert loop_start(tokens) == slow_loop_start(tokens)


def test_repetition_compresses_better_than_speech() -> None:
    speech = "The quick brown fox jumps over the lazy dog."
    assert compression_ratio("") == 0.0
    assert compression_ratio(speech) == len(speech) / len(zlib.compress(speech.encode()))
    assert compression_ratio(speech * 20) > 2.4 > compression_ratio(speech)


def test_the_ratio_counts_bytes_and_not_characters() -> None:
    assert compression_ratio("ü" * 10) == 20 / len(zlib.compress(("ü" * 10).encode()))
