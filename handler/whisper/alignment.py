"""When each word was said: cross-attention that follows time, and dynamic time warping. Knows no cache and no window.

Source of the method: openai/whisper, whisper/timing.py. The warping runs row by row over arrays: within a row of the
cost matrix a path enters once and then moves on, so a cumulative sum and a running minimum give the whole row at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEDIAN_WIDTH = 7  # audio positions of the median filter
ONSET_REACH = 2  # frames of 10 ms to both sides that loudness is compared over
ONSET_OFFSET = 3  # frames by which a word begins before it is loudest to rise
MAX_LAG = 20  # frames
TYPICAL_LAG = 5  # frames
# Exchanges after which the fourth of seven values lies in the middle. Source: Paeth, Median Finding on a 3x3 Grid, Graphics Gems.
_MEDIAN_OF_7 = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4))


def alignment_costs(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """How little each token is said at each audio position: costs to be warped.

    weights [T, S] are the mean of the alignment heads' attention → [T, S]. They are taken as they are: openai/whisper norms
    each head's over the tokens, which measured worse.
    """
    return -median(weights)


def median(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Running median over 7 places of the last dimension, its ends reflected. [T, S] → the same."""
    reach, length = MEDIAN_WIDTH // 2, x.shape[-1]
    if length <= reach:
        return x
    padded = np.pad(x, ((0, 0), (reach, reach)), mode="reflect")
    places = [padded[:, at : at + length] for at in range(MEDIAN_WIDTH)]
    for low, high in _MEDIAN_OF_7:
        places[low], places[high] = np.minimum(places[low], places[high]), np.maximum(places[low], places[high])
    return places[reach]


def dtw(costs: NDArray[np.float32]) -> NDArray[np.int64]:
    """The audio position at which each token begins on the cheapest monotonic path, S behind the last. costs [T, S] → [T + 1].

    A path begins at the first position with the first token and ends at the last with the last.
    """
    tokens, length = costs.shape
    costs = costs.astype(np.float64)
    sums = costs.cumsum(1)  # [T, S]
    place = np.arange(length)
    total = sums[0]  # cheapest path to each position of the token
    entries, diagonal = [np.zeros(length, np.int64)], [np.zeros(length, np.bool_)]
    for token in range(1, tokens):
        before = np.concatenate(([np.inf], total[:-1]))  # from the position before
        diagonal.append(before <= total)
        entered = np.minimum(before, total) - (sums[token] - costs[token])
        least = np.minimum.accumulate(entered)
        newly = np.concatenate(([True], least[1:] < least[:-1]))
        entries.append(np.maximum.accumulate(np.where(newly, place, 0)))
        total = sums[token] + least
    begins = np.zeros(tokens + 1, np.int64)
    begins[tokens] = length
    at = length - 1
    for token in range(tokens - 1, 0, -1):
        begins[token] = entries[token][at]
        at = begins[token] - diagonal[token][begins[token]]
    return begins


def peak_positions(costs: NDArray[np.float32], begins: NDArray[np.int64]) -> list[int]:
    """The audio position at which each token is heard best between its beginning and the next one's. [T, S] → T of them"""
    spans = zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)
    return [begin + int(row[begin : max(end, begin + 1)].argmin()) for row, (begin, end) in zip(costs, spans, strict=True)]


def onset_strength(mel: Tensor) -> Tensor:
    """How much louder it becomes around each frame, over all bands: sounds begin where it is high. [B, n_mels, F] → [B, F]"""
    louder = (mel[:, :, 2 * ONSET_REACH :] - mel[:, :, : -2 * ONSET_REACH]).clamp(min=0).mean(1)
    return torch.nn.functional.pad(louder, (ONSET_REACH, ONSET_REACH))


def onset_lag(begins: NDArray[np.float64], onset_strength: NDArray[np.float32]) -> float:
    """How much later than the words themselves the times are at which words begin, seconds; negative where they are earlier.

    Heads listen a little ahead or behind, each checkpoint and each voice in its own way; what tells is where all words
    together begin as sounds do. The fewer the words, the less is made of it. `rise` is by frame of 10 ms.
    """
    spread = onset_strength.std()
    if not len(begins) or spread == 0:
        return 0.0
    shifts = np.arange(-MAX_LAG, MAX_LAG + 1)
    frames = np.rint(begins * 100).astype(int)[:, None] + shifts
    louder = (onset_strength[frames.clip(0, len(onset_strength) - 1)].sum(0) - len(begins) * onset_strength.mean()) / spread  # [shifts]
    louder = np.convolve(np.pad(louder, 2, mode="edge"), np.full(5, 0.2), "valid")
    doubt = 0.5 * (shifts / TYPICAL_LAG) ** 2
    return float(-(shifts[(louder - doubt).argmax()] - ONSET_OFFSET)) / 100


@dataclass(slots=True)
class TokenTimes:
    """When the text tokens of a window were said, seconds from its start."""

    begins: list[float]  # and, behind the last one's, its end
    peak_positions: list[float]  # when each is heard best


def place_words(
    places: Sequence[tuple[float, float]],
    times: TokenTimes,
    onset_strength: NDArray[np.float32],
    speech: Sequence[tuple[float, float]],
    seconds: float,
) -> list[tuple[float, float]]:
    """Start and end, seconds, of words between two `places` in tokens: in order, inside the window and inside the speech heard in it.

    Tokens that were not timed, there being more of them than the decoder's context holds, end with the last one that was.
    """
    count = np.arange(len(times.begins))
    edges = np.interp(np.asarray(places).reshape(-1, 2), count, times.begins)  # [words, 2]
    late = onset_lag(edges[:, 0], onset_strength)
    edges = (edges - late).clip(0.0, seconds)
    last = len(times.peak_positions) - 1
    found = []
    at = 0.0
    for (start, end), (first, behind) in zip(edges.tolist(), places, strict=True):
        heard = times.peak_positions[min(int(first), last)] - late, times.peak_positions[min(ceil(behind) - 1, last)] - late
        start, end = clip_to_speech(start, end, heard, speech)
        at = max(at, start)
        found.append((at, max(at, end)))
        at = found[-1][1]
    return found


def clip_to_speech(start: float, end: float, heard: tuple[float, float], speech: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The times of a word cut to where speech was heard, seconds: warping lets it last into the pause around it.

    `heard` is where its first and its last token are heard best; what lies next to these decides.
    """
    if speech:
        first, last = (min(speech, key=lambda span: max(span[0] - at, at - span[1])) for at in heard)
        start, end = max(start, first[0]), min(end, last[1])
    return start, max(start, end)
