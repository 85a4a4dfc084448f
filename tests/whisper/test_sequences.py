"""Records of decoding: how hypotheses are ranked, which slots belong together, and how beams take their candidates."""

import random
from collections.abc import Sequence
from itertools import chain

import pytest
import torch

from handler.schema.window import DecodingParams, Window
from handler.tokens.repetition import MIN_LOOP_TOKENS
from handler.whisper.beam_search import BeamSearch, beam_groups
from handler.whisper.decoding_state import DecodingState
from handler.whisper.kv_cache import KVCache
from handler.whisper.sequences import ActiveSequence, DecodeTask, Hypothesis, slots_by_task
from handler.whisper.tokenizer import Specials
from tests.support.speech import silence
from tests.whisper.test_kv_cache import CPU, TINY

IDS = Specials.of_vocab(51_864)


def make_task(num_hypotheses: int = 1, temperature: float = 0.0, *finished: Hypothesis) -> DecodeTask:
    params = DecodingParams(temperature=temperature, num_hypotheses=num_hypotheses)
    return DecodeTask(
        Window(0, silence(1), params=params), (7, 8, 9), "en", {}, torch.zeros(0), 50, 0, finished=[*finished]
    )


def beams_of(task: DecodeTask, *hypotheses: Hypothesis) -> list[ActiveSequence]:
    """Return the sequences of a task's beams, empty ones unless hypotheses are given."""
    count = task.window.params.num_hypotheses
    return [ActiveSequence(task, hypothesis=hypothesis) for hypothesis in hypotheses or [Hypothesis([], [])] * count]


def greedy_search() -> BeamSearch:
    """Return a search in six slots of a tiny cache."""
    return BeamSearch(KVCache(TINY, 6, CPU, torch.float32), DecodingState(6, IDS, CPU), IDS)


@pytest.mark.parametrize("length_penalty", [None, 0.0, 0.5, 1.0, 2.5])
def test_the_best_hypothesis_is_the_one_that_openai_whisper_ranks_first(length_penalty: float | None) -> None:
    from whisper.decoding import MaximumLikelihoodRanker

    chance = random.Random(0)
    for _ in range(20):
        hypotheses = []
        for _ in range(5):
            logprobs = [-chance.expovariate(2) for _ in range(chance.randint(1, 40))]
            hypotheses.append(Hypothesis(list(range(len(logprobs))), logprobs))
        task = make_task(5, 0.0, *hypotheses)
        task.window = task.window.with_params(length_penalty=length_penalty)
        tokens = [[torch.tensor(hypothesis.tokens) for hypothesis in hypotheses]]
        sums = [[sum(hypothesis.logprobs) for hypothesis in hypotheses]]
        (expected,) = MaximumLikelihoodRanker(length_penalty).rank(tokens, sums)
        assert task.best(IDS) is hypotheses[expected]


def test_a_loop_is_the_best_only_where_there_is_nothing_else() -> None:
    loop = Hypothesis([*[5] * MIN_LOOP_TOKENS, IDS.eot], [-0.01] * (MIN_LOOP_TOKENS + 1))
    likelier_loop = Hypothesis([*[6] * MIN_LOOP_TOKENS, IDS.eot], [-0.001] * (MIN_LOOP_TOKENS + 1))
    text = Hypothesis([1, 2, IDS.eot], [-3.0] * 3)
    assert make_task(3, 0.0, loop, text, likelier_loop).best(IDS) is text
    assert make_task(2, 0.0, loop, likelier_loop).best(IDS) is likelier_loop


def test_timestamps_do_not_hide_a_loop() -> None:
    tokens = list(chain.from_iterable((IDS.timestamp_begin + i, 5, 6, 7) for i in range(MIN_LOOP_TOKENS)))
    loop, text = Hypothesis(tokens, [-0.01] * len(tokens)), Hypothesis([5, 6, 7], [-3.0] * 3)
    assert make_task(2, 0.0, loop, text).best(IDS) is text


def test_of_equals_the_one_that_ended_first_is_the_best() -> None:
    first, second = Hypothesis([1], [-1.0]), Hypothesis([2], [-1.0])
    assert make_task(2, 0.0, first, second).best(IDS) is first


def test_the_text_of_a_hypothesis_has_neither_timestamps_nor_special_tokens() -> None:
    hypothesis = Hypothesis([], [])
    for token in (IDS.timestamp_begin, 0, IDS.eot - 1, IDS.no_timestamps, IDS.sot, IDS.vocab - 1, IDS.eot):
        hypothesis.append(token, -0.5)
    assert hypothesis.text_tokens(IDS) == [0, IDS.eot - 1]
    assert hypothesis.avg_logprob == -0.5


@pytest.mark.parametrize(
    ("num_hypotheses", "temperature", "beam_size"), [(1, 0.0, 0), (1, 0.4, 0), (5, 0.4, 0), (5, 0.0, 5), (2, 0.0, 2)]
)
def test_several_hypotheses_are_beams_unless_they_are_sampled(
    num_hypotheses: int, temperature: float, beam_size: int
) -> None:
    assert make_task(num_hypotheses, temperature).beam_size == beam_size


def test_a_sequence_is_as_long_as_prompt_and_decoded_tokens_and_grows_alone() -> None:
    task = make_task(2)
    growing, other = ActiveSequence(task), ActiveSequence(task)
    growing.hypothesis.append(1, -1.0)
    assert (growing.length, other.length) == (4, 3)


def test_slots_are_those_of_a_task_even_if_another_task_is_alike() -> None:
    beams, greedy, samples, alike = make_task(3), make_task(), make_task(2, 0.5), make_task(3)
    sequences = [*beams_of(beams), *beams_of(greedy), *beams_of(samples), *beams_of(alike)]
    assert slots_by_task(sequences) == [[0, 1, 2], [3], [4, 5], [6, 7, 8]]
    assert slots_by_task([]) == []


def test_tasks_of_one_beam_size_are_a_group_and_the_others_are_in_none() -> None:
    tasks = [make_task(2), make_task(), make_task(3), make_task(4, 0.5), make_task(2), make_task(3)]
    sequences = list(chain.from_iterable(map(beams_of, tasks)))
    assert beam_groups(sequences) == [[[0, 1], [10, 11]], [[3, 4, 5], [12, 13, 14]]]
    assert beam_groups(sequences[2:3]) == []


def test_only_the_first_of_equal_beams_may_be_continued_and_each_sample_may() -> None:
    search = greedy_search()
    search.scores.fill_(-5)
    search.start(slice(1, 6), [make_task(2), make_task(2, 0.5), make_task()])
    assert search.scores.tolist() == [-5, 0, -torch.inf, 0, 0, 0]


def extend(beams: Sequence[ActiveSequence], candidates: Sequence[tuple[int, int, float]]) -> list[list[int]]:
    """Give candidates (parent, token, score) to beams, and return the tokens of the hypotheses that they leave."""
    search = greedy_search()
    search.extend(beams, chain.from_iterable(zip(*candidates, strict=True)))
    return [beam.hypothesis.tokens for beam in beams]


def test_beams_take_the_likeliest_candidates_whoever_their_parents_are() -> None:
    task = make_task(2)
    beams = beams_of(task, Hypothesis([1], [-1.0]), Hypothesis([2], [-2.0]))
    assert extend(beams, [(1, 5, -2.5), (1, 6, -3.0), (0, 7, -3.5), (0, 8, -4.0)]) == [[2, 5], [2, 6]]
    assert [beam.hypothesis.logprobs for beam in beams] == [[-2.0, -0.5], [-2.0, -1.0]]
    assert task.finished == []


def test_a_text_that_ends_is_finished_only_if_it_is_likelier_than_the_last_beam() -> None:
    task = make_task(2)
    beams = beams_of(task, Hypothesis([1], [-1.0]), Hypothesis([2], [-2.0]))
    candidates = [(0, 5, -1.5), (0, IDS.eot, -2.0), (1, 6, -2.25), (1, IDS.eot, -2.5)]
    assert extend(beams, candidates) == [[1, 5], [2, 6]]
    assert task.finished == [Hypothesis([1, IDS.eot], [-1.0, -1.0])]


def test_a_task_takes_its_own_candidates_and_leaves_those_of_the_next() -> None:
    first, second = (beams_of(make_task(2), Hypothesis([1], [-1.0]), Hypothesis([2], [-2.0])) for _ in range(2))
    values = iter([*[0.0] * 4, 5, 6, 7, 8, *[-2.0] * 4, *[1.0] * 4, 15, 16, 17, 18, *[-3.0] * 4])
    search = greedy_search()
    for beams in (first, second):
        search.extend(beams, values)
    assert [beam.hypothesis.tokens for beam in [*first, *second]] == [[1, 5], [1, 6], [2, 15], [2, 16]]
    assert next(values, None) is None
