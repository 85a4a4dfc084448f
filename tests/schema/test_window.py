"""Parts of windows beside a slow twin that looks at every sample, and copies with other parameters."""

import random
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise

import numpy as np
import pytest

from handler.schema.window import SAMPLE_RATE, DecodingParams, Window

START, LENGTH = 1_000, 60


def some_window(rng: random.Random) -> Window:
    """Return a window of 60 samples, each of which has its position as its value, with speech here and there."""
    bounds = sorted(rng.sample(range(START, START + LENGTH + 1), 2 * rng.randint(0, 5)))
    speech = tuple(pairwise(bounds))[::2]
    samples = np.arange(START, START + LENGTH, dtype=np.float32)
    return Window(START, samples, speech, channel=1, params=DecodingParams(language="de", temperature=0.4))


def overlaps(window: Window, start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Return the speech of a window between two positions, sample by sample."""
    shared = [[at for at in range(*span) if start <= at < end] for span in window.speech]
    return tuple((positions[0], positions[-1] + 1) for positions in shared if positions)


@pytest.mark.parametrize("seed", range(40))
def test_a_part_has_the_samples_and_the_speech_between_its_ends(seed: int) -> None:
    rng = random.Random(seed)
    window = some_window(rng)
    for _ in range(30):
        start, end = rng.randint(START - 20, START + LENGTH - 1), rng.randint(START + 1, START + LENGTH + 20)
        start, end = min(start, end - 1), max(start + 1, end)
        part = window.part(start, end)
        expected = [position for position in range(START, START + LENGTH) if start <= position < end]
        assert part.samples.tolist() == expected
        assert (part.start, part.end) == (expected[0], expected[-1] + 1)
        assert part.speech == overlaps(window, start, end)
        assert (part.channel, part.params) == (1, window.params)


@pytest.mark.parametrize("seed", range(20))
def test_a_part_of_a_part_is_a_part_of_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    window = some_window(rng)
    outer_start, start, end, outer_end = sorted(rng.sample(range(START, START + LENGTH + 1), 4))
    nested, direct = window.part(outer_start, outer_end).part(start, end), window.part(start, end)
    assert nested.samples.tolist() == direct.samples.tolist()
    assert (nested.start, nested.speech) == (direct.start, direct.speech)


@pytest.mark.parametrize("seed", range(20))
def test_two_halves_have_all_samples_and_all_speech(seed: int) -> None:
    rng = random.Random(seed)
    window = some_window(rng)
    middle = rng.randint(START, START + LENGTH)
    left, right = window.part(window.start, middle), window.part(middle, window.end)
    assert [*left.samples, *right.samples] == window.samples.tolist()
    assert left.speech_s + right.speech_s == pytest.approx(window.speech_s)


@pytest.mark.parametrize(
    ("start", "end", "place"), [(0, 10, START), (5_000, 6_000, START + LENGTH), (1_020, 1_010, 1_020)]
)
def test_a_part_outside_of_a_window_is_empty(start: int, end: int, place: int) -> None:
    part = some_window(random.Random(6)).part(start, end)
    assert (part.start, part.end, part.seconds, part.speech) == (place, place, 0.0, ())


def test_the_whole_of_a_window_is_a_part_and_so_is_nothing_of_it() -> None:
    window = some_window(random.Random(1))
    whole, nothing = window.part(0, 10**9), window.part(START + 5, START + 5)
    assert (whole.start, whole.end, whole.speech) == (window.start, window.end, window.speech)
    assert (nothing.start, nothing.end, nothing.speech, nothing.seconds) == (START + 5, START + 5, (), 0.0)


def test_a_draft_is_of_the_whole_window_alone() -> None:
    window = some_window(random.Random(3)).with_params(draft=(1, 2))
    assert window.with_params(language="fr").params.draft == (1, 2)
    assert window.part(START + 5, START + 20).params.draft == ()


def test_lengths_are_in_seconds_and_positions_in_samples() -> None:
    window = Window(8_000, np.zeros(24_000, np.float32), speech=((8_000, 12_000), (20_000, 32_000)))
    assert (window.end, window.seconds, window.speech_s) == (32_000, 1.5, 1.0)
    assert Window(8_000, np.zeros(SAMPLE_RATE, np.float32)).speech_s == 0.0


def test_other_parameters_make_another_window_of_the_same_audio() -> None:
    window = some_window(random.Random(2))
    warmer = window.with_params(temperature=0.6, prompt="before")
    assert warmer.params == DecodingParams(language="de", temperature=0.6, prompt="before")
    assert window.params == DecodingParams(language="de", temperature=0.4)
    assert warmer.samples is window.samples
    assert (warmer.start, warmer.speech, warmer.channel) == (window.start, window.speech, window.channel)
    assert window.with_params().params == window.params


def test_a_parameter_that_does_not_exist_is_no_change() -> None:
    with pytest.raises(TypeError, match="heat"):
        some_window(random.Random(3)).with_params(heat=1)


def test_windows_are_told_apart_although_their_audio_is_the_same() -> None:
    window = some_window(random.Random(4))
    twin = replace(window)
    results = {window: "first", twin: "second"}
    assert (results[window], results[twin]) == ("first", "second")
    assert window in [twin, window]
    assert window not in [twin]


@pytest.mark.parametrize("name", [field.name for field in fields(DecodingParams)])
def test_parameters_that_windows_share_cannot_be_changed_in_place(name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(some_window(random.Random(5)).params, name, None)
