"""Conversations of real voices with known turns, and the diarization error rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from handler.schema.speakers import Turn
from handler.schema.window import SAMPLE_RATE
from tests.conftest import package
from tests.support.clips import clips
from tests.support.speech import SENTENCES, say

Samples = NDArray[np.float32]
LOUDNESS = 0.08  # root mean square of each voice
STEP_S = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """Samples [n] at 16 kHz, and who speaks when in them."""

    samples: Samples
    turns: tuple[Turn, ...]


@cache
def voices() -> Mapping[str, Sequence[Samples]]:
    """Return pieces of speech of four voices: two women, of whom a computer speaks one, and two men."""
    man, rate = soundfile.read(package("moonshine_voice") / "assets/two_cities.wav", dtype="float32", always_2d=True)
    story = soxr.resample(man.mean(1), rate, SAMPLE_RATE).astype(np.float32)
    president = clips()[-1].samples
    assert "fellow Americans" in clips()[-1].text
    return {
        "reader": [clip.samples for clip in clips()[:8]],
        "story": [story[at * SAMPLE_RATE : (at + 5) * SAMPLE_RATE] for at in range(0, 40, 5)],
        "computer": [say(text) for text in SENTENCES],
        "president": [president[: 4 * SAMPLE_RATE], president[4 * SAMPLE_RATE :]],
    }


def converse(names: Sequence[str], num_turns: int, pause_s: float = 0.4) -> Conversation:
    """Let voices take turns, the first one first. A negative pause is an overlap."""
    pieces: list[tuple[int, Samples, int]] = []
    turns: list[Turn] = []
    at = 0.5
    for number in range(num_turns):
        name = names[number % len(names)]
        spoken = voices()[name][number // len(names) % len(voices()[name])]
        spoken = _trimmed(spoken) * (LOUDNESS / np.sqrt(np.mean(np.square(spoken))))
        start = round(at * SAMPLE_RATE)
        pieces.append((start, spoken.astype(np.float32), names.index(name)))
        turns += [
            Turn(at + first / SAMPLE_RATE, at + last / SAMPLE_RATE, names.index(name)) for first, last in _spans(spoken)
        ]
        at += len(spoken) / SAMPLE_RATE + pause_s
    samples = np.zeros(max(start + len(spoken) for start, spoken, _ in pieces) + SAMPLE_RATE // 2, np.float32)
    for start, spoken, _ in pieces:
        samples[start : start + len(spoken)] += spoken
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    return Conversation(samples + 5e-4 * noise, tuple(turns))


def _energy(samples: Samples) -> NDArray[np.float32]:
    width = SAMPLE_RATE // 40
    energy: Samples = np.sqrt(np.convolve(np.square(samples), np.ones(width, np.float32) / width, "same"))
    return energy


def _trimmed(samples: Samples) -> Samples:
    energy = _energy(samples)
    loud = np.flatnonzero(energy > 0.03 * energy.max())
    return samples[loud[0] : loud[-1] + 1]


def _spans(samples: Samples) -> list[tuple[int, int]]:
    """Return the (start, end) of each stretch of speech without a pause of half a second, in samples."""
    energy = _energy(samples)
    is_speech = energy > max(0.05 * np.quantile(energy, 0.95), 2.5 * np.quantile(energy, 0.05))
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_speech.astype(np.int8), [0])))).reshape(-1, 2)
    spans: list[tuple[int, int]] = []
    for start, end in edges.tolist():
        if spans and start - spans[-1][1] < SAMPLE_RATE // 2:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def error_rates(truth: Sequence[Turn], found: Sequence[Turn]) -> tuple[float, float]:
    """Return the diarization error rate without a collar, and the share of confusion in it."""
    end = max(turn.end for turn in (*truth, *found))
    spoken, heard = _grid(truth, end), _grid(found, end)
    rows, columns = linear_sum_assignment(-(spoken.T.astype(int) @ heard.astype(int)))
    num_right = sum((spoken[:, row] & heard[:, column]).sum() for row, column in zip(rows, columns, strict=True))
    num_spoken, num_heard = spoken.sum(1), heard.sum(1)
    confusion = np.minimum(num_spoken, num_heard).sum() - num_right
    missed_and_invented = np.abs(num_spoken - num_heard).sum()
    return float((missed_and_invented + confusion) / num_spoken.sum()), float(confusion / num_spoken.sum())


def _grid(turns: Sequence[Turn], end: float) -> NDArray[np.bool_]:
    grid = np.zeros((round(end / STEP_S) + 1, 1 + max((turn.speaker for turn in turns), default=0)), bool)
    for turn in turns:
        grid[round(turn.start / STEP_S) : round(turn.end / STEP_S), turn.speaker] = True
    return grid
