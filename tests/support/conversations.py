"""Conversations of real voices with known turns, and the diarization error rate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from handler.schema.speakers import MIN_PAUSE_S, Turn, runs
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


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """What somebody says without a break, and the seconds until the next utterance, negative if that overlaps."""

    speaker: int
    samples: Samples
    pause_s: float


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
    utterances = []
    for number in range(num_turns):
        speaker = number % len(names)
        pieces = voices()[names[speaker]]
        utterances.append(Utterance(speaker, trimmed(pieces[number // len(names) % len(pieces)]), pause_s))
    return assemble(utterances)


def assemble(utterances: Iterable[Utterance]) -> Conversation:
    """Join utterances, each as loud as the others. A pause of less than MIN_PAUSE_S is part of a turn."""
    pieces: list[tuple[int, Samples]] = []
    turns: list[Turn] = []
    at = 0.5
    for utterance in utterances:
        spoken = utterance.samples * (LOUDNESS / np.sqrt(np.mean(np.square(utterance.samples))))
        pieces.append((round(at * SAMPLE_RATE), spoken.astype(np.float32)))
        for first, last in _stretches(spoken):
            turns.append(Turn(at + first / SAMPLE_RATE, at + last / SAMPLE_RATE, utterance.speaker))
        at += len(spoken) / SAMPLE_RATE + utterance.pause_s
    samples = np.zeros(max(start + len(spoken) for start, spoken in pieces) + SAMPLE_RATE // 2, np.float32)
    for start, spoken in pieces:
        samples[start : start + len(spoken)] += spoken
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    return Conversation(samples + 5e-4 * noise, tuple(without_pauses(turns)))


def without_pauses(turns: Iterable[Turn]) -> list[Turn]:
    """Return turns in their order, those of one speaker joined over short pauses."""
    joined: dict[int, list[Turn]] = {}
    for turn in sorted(turns, key=lambda turn: turn.start):
        own = joined.setdefault(turn.speaker, [])
        if own and turn.start - own[-1].end < MIN_PAUSE_S:
            own[-1] = Turn(own[-1].start, max(own[-1].end, turn.end), turn.speaker)
        else:
            own.append(turn)
    return sorted((turn for own in joined.values() for turn in own), key=lambda turn: turn.start)


def _energy(samples: Samples) -> NDArray[np.float32]:
    width = SAMPLE_RATE // 40
    energy: Samples = np.sqrt(np.convolve(np.square(samples), np.ones(width, np.float32) / width, "same"))
    return energy


def trimmed(samples: Samples) -> Samples:
    """Return a recording without the silence around what is said."""
    energy = _energy(samples)
    loud = np.flatnonzero(energy > 0.03 * energy.max())
    return samples[loud[0] : loud[-1] + 1]


def _stretches(samples: Samples) -> list[tuple[int, int]]:
    """Return the (start, end) of each stretch of speech without a pause, in samples."""
    energy = _energy(samples)
    return runs(energy > max(0.05 * np.quantile(energy, 0.95), 2.5 * np.quantile(energy, 0.05)))


def error_rates(truth: Sequence[Turn], found: Sequence[Turn]) -> tuple[float, float]:
    """Return the diarization error rate without a collar, and what confusion adds to it."""
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
