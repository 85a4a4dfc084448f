"""Word times from cross-attention that follows the audio, by dynamic time warping. Knows no cache and no window.

Source of the method: openai/whisper, whisper/timing.py. The warping runs row by row over arrays: within a row of the
cost matrix a path enters once and then moves on, so a cumulative sum and a running minimum give the whole row at once.
T tokens, S audio positions, F frames of 10 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.schema.window import SAMPLE_RATE
from handler.whisper.dims import HOP_LENGTH

MEDIAN_WIDTH = 7  # audio positions of the median filter
ONSET_REACH = 2  # frames to both sides that loudness is compared over
ONSET_OFFSET = 3  # frames from a word's start to its greatest onset strength
MAX_LAG = 20  # frames
TYPICAL_LAG = 5  # frames
FRAMES_PER_S = SAMPLE_RATE // HOP_LENGTH
# Exchanges after which the fourth of seven values is their median.
# Source: Paeth, Median Finding on a 3x3 Grid, Graphics Gems.
_MEDIAN_OF_7 = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4))


def alignment_costs(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cost of each token at each audio position: the less attention, the higher. [T, S]

    weights [T, S] are the mean of the alignment heads' attention. They are not normalised: openai/whisper normalises
    each head's over the tokens, which measured worse.
    """
    return -median(weights)


def median(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the running median over MEDIAN_WIDTH values of the last dimension, its ends reflected. [T, S] → [T, S]."""
    reach, length = MEDIAN_WIDTH // 2, x.shape[-1]
    if length <= reach:
        return x
    padded = np.pad(x, ((0, 0), (reach, reach)), mode="reflect")
    shifted = [padded[:, offset : offset + length] for offset in range(MEDIAN_WIDTH)]
    for low, high in _MEDIAN_OF_7:
        shifted[low], shifted[high] = np.minimum(shifted[low], shifted[high]), np.maximum(shifted[low], shifted[high])
    return shifted[reach]


def dtw(costs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the audio position at which each token starts on the cheapest monotonic path, then S. [T, S] → [T + 1].

    A path leads from the first position with the first token to the last position with the last token.
    """
    tokens, length = costs.shape
    costs = costs.astype(np.float64)
    sums = costs.cumsum(1)  # [T, S]
    positions = np.arange(length)
    total = sums[0]  # cost of the cheapest path to each position of the token
    entries, is_diagonal = [np.zeros(length, np.int64)], [np.zeros(length, np.bool_)]
    for token in range(1, tokens):
        diagonal = np.concatenate(([np.inf], total[:-1]))  # from the previous token at the previous position
        is_diagonal.append(diagonal <= total)
        entry_cost = np.minimum(diagonal, total) - (sums[token] - costs[token])
        cheapest = np.minimum.accumulate(entry_cost)
        is_cheaper = np.concatenate(([True], cheapest[1:] < cheapest[:-1]))
        entries.append(np.maximum.accumulate(np.where(is_cheaper, positions, 0)))
        total = sums[token] + cheapest
    return _backtrace(entries, is_diagonal)


def _backtrace(entries: list[NDArray[np.int64]], is_diagonal: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Return the starts of the tokens on the path that ends at the last position. [T] lists of [S] → [T + 1].

    For each position, `entries` hold where the cheapest path to it enters the token's row, and `is_diagonal` whether a
    path that enters the row there comes from the position before.
    """
    tokens, length = len(entries), len(entries[0])
    starts = np.zeros(tokens + 1, np.int64)
    starts[tokens] = length
    position = length - 1
    for token in range(tokens - 1, 0, -1):
        starts[token] = entries[token][position]
        position = starts[token] - is_diagonal[token][starts[token]]
    return starts


def peak_positions(costs: NDArray[np.float32], starts: NDArray[np.int64]) -> list[int]:
    """Return the cheapest audio position of each token from its start to the next one's. [T, S], [T + 1] → [T]."""
    spans = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    return [
        start + int(row[start : max(end, start + 1)].argmin()) for row, (start, end) in zip(costs, spans, strict=True)
    ]


def onset_strength(mel: Tensor) -> Tensor:
    """Return how much louder it becomes around each frame, over all bands; sounds begin at peaks.

    mel [B, n_mels, F] → [B, F].
    """
    rise = (mel[:, :, 2 * ONSET_REACH :] - mel[:, :, : -2 * ONSET_REACH]).clamp(min=0).mean(1)
    return torch.nn.functional.pad(rise, (ONSET_REACH, ONSET_REACH))


def onset_lag(starts_s: NDArray[np.float64], onset_strength: NDArray[np.float32]) -> float:
    """Return by how many seconds the starts of words come after the onsets of sounds; negative if they come earlier.

    Attention runs a little before or after the audio, in each checkpoint and for each voice in its own way. All words
    together show by how much; the fewer they are, the more a typical lag is assumed. onset_strength [F].
    """
    spread = onset_strength.std()
    if not len(starts_s) or spread == 0:
        return 0.0
    shifts = np.arange(-MAX_LAG, MAX_LAG + 1)
    frames = np.rint(starts_s * FRAMES_PER_S).astype(int)[:, None] + shifts
    strengths = onset_strength[frames.clip(0, len(onset_strength) - 1)].sum(0)
    score = (strengths - len(starts_s) * onset_strength.mean()) / spread  # [shifts]
    score = np.convolve(np.pad(score, 2, mode="edge"), np.full(5, 0.2), "valid")
    penalty = 0.5 * (shifts / TYPICAL_LAG) ** 2
    return float(-(shifts[(score - penalty).argmax()] - ONSET_OFFSET)) / FRAMES_PER_S


@dataclass(slots=True)
class TokenTimes:
    """When the text tokens of a window were spoken, seconds from its start."""

    starts_s: list[float]  # of each token, then the end of the last one
    peaks_s: list[float]  # when each token has the most attention


def place_words(
    token_spans: Sequence[tuple[float, float]],
    times: TokenTimes,
    onset_strength: NDArray[np.float32],
    speech_s: Sequence[tuple[float, float]],
    window_s: float,
) -> list[tuple[float, float]]:
    """Return the start and end of words, seconds: in order, inside the window, and inside its speech if it has any.

    `token_spans` are the words' starts and ends in tokens. Tokens beyond those of `times`, for which the decoder's
    context had no space, end with the last one of them.
    """
    indices = np.arange(len(times.starts_s))
    edges_s = np.interp(np.asarray(token_spans).reshape(-1, 2), indices, times.starts_s)  # [words, 2]
    lag_s = onset_lag(edges_s[:, 0], onset_strength)
    edges_s = (edges_s - lag_s).clip(0.0, window_s)
    last_token = len(times.peaks_s) - 1
    spans_s: list[tuple[float, float]] = []
    previous_end_s = 0.0
    for (start_s, end_s), (token_start, token_end) in zip(edges_s.tolist(), token_spans, strict=True):
        first_peak_s = times.peaks_s[min(int(token_start), last_token)] - lag_s
        last_peak_s = times.peaks_s[min(ceil(token_end) - 1, last_token)] - lag_s
        start_s, end_s = clip_to_speech(start_s, end_s, (first_peak_s, last_peak_s), speech_s)
        start_s = max(previous_end_s, start_s)
        previous_end_s = max(start_s, end_s)
        spans_s.append((start_s, previous_end_s))
    return spans_s


def clip_to_speech(
    start_s: float, end_s: float, peaks_s: tuple[float, float], speech_s: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Clip the times of a word to spans of speech: warping lets it last into the pauses around it.

    `peaks_s` are the times at which its first and its last token have the most attention. The spans nearest to these
    decide.
    """
    if speech_s:
        first_span, last_span = (_nearest_span(peak_s, speech_s) for peak_s in peaks_s)
        start_s, end_s = max(start_s, first_span[0]), min(end_s, last_span[1])
    return start_s, max(start_s, end_s)


def _nearest_span(time_s: float, spans_s: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the span that holds a time or lies nearest to it."""
    return min(spans_s, key=lambda span: max(span[0] - time_s, time_s - span[1]))
