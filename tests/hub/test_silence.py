"""Silence around windows: as much as a family wants, up to lengths that windows have in common."""

import numpy as np
import pytest

from handler.hub.silence import Silence
from handler.schema.window import SAMPLE_RATE

SILENCE = Silence(before_s=0.5, after_s=0.25, step_s=2.0)


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 2.0), (1.25, 2.0), (1.26, 4.0), (3.0, 4.0), (29.5, 32.0)])
def test_lengths_are_whole_steps_with_enough_silence(seconds: float, expected: float) -> None:
    samples = np.ones(round(seconds * SAMPLE_RATE), np.float32)
    surrounded = SILENCE.around(samples)
    assert len(surrounded) == SILENCE.length(len(samples)) == expected * SAMPLE_RATE
    assert not surrounded[: SAMPLE_RATE // 2].any()
    assert surrounded.sum() == len(samples)
    assert np.array_equal(surrounded[SAMPLE_RATE // 2 :][: len(samples)], samples)
