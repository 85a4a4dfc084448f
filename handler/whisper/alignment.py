"""Compute word times from cross-attention by dynamic time warping (DTW). Knows no cache and no window.

The method comes from openai/whisper, whisper/timing.py. The DTW here computes a whole row of the cost matrix at once. A
path enters each row at one position and then only moves to later positions, so a cumulative sum and a running minimum
give the costs of the row. Shapes: T tokens, S audio positions of 20 ms, F frames of 10 ms.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.schema.window import SAMPLE_RATE
from handler.whisper.dims import HOP_LENGTH

MEDIAN_WIDTH = 7  # width of the median filter in audio positions
ONSET_REACH = 2  # frames; onset strength compares the loudness this far before and after each frame
ONSET_OFFSET = 3  # frames from a word's start to its greatest onset strength
MAX_LAG = 20  # frames; greatest shift of the word starts that is tried
TYPICAL_LAG = 5  # frames; shifts much greater than this are unlikely
FRAMES_PER_S = SAMPLE_RATE // HOP_LENGTH
# Pairs of positions among seven values. Once each pair in turn is put in order, the fourth value is the median.
# Source: Paeth, Median Finding on a 3x3 Grid, Graphics Gems.
_MEDIAN_OF_7 = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4))


def alignment_costs(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cost of placing each token at each audio position. [T, S]

    The cost is the negated attention after a median filter. `weights` [T, S] are the attention weights averaged over
    the alignment heads. Unlike openai/whisper, this function does not normalise the weights of each head over the
    tokens, because that gave worse word times.
    """
    return -median(weights)


def median(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the running median over MEDIAN_WIDTH values along the last dimension. [T, S] → [T, S].

    The ends are padded by reflection. An input too short to be reflected is returned unchanged.
    """
    reach, length = MEDIAN_WIDTH // 2, x.shape[-1]
    if length <= reach:
        return x
    padded = np.pad(x, ((0, 0), (reach, reach)), mode="reflect")
    shifted = [padded[:, offset : offset + length] for offset in range(MEDIAN_WIDTH)]
    for low, high in _MEDIAN_OF_7:
        shifted[low], shifted[high] = np.minimum(shifted[low], shifted[high]), np.maximum(shifted[low], shifted[high])
    return shifted[reach]


def dtw(costs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find the cheapest monotonic path through the cost matrix, and return where each token starts on the path.

    costs [T, S] → [T + 1]: the audio position at which each token starts, followed by S as the end of the last token. A
    path leads from the first token at the first position to the last token at the last position.
    """
    tokens, length = costs.shape
    costs = costs.astype(np.float64)
    sums = costs.cumsum(1)  # [T, S]
    positions = np.arange(length)
    total = sums[0]  # cost of the cheapest path to each position in the token's row
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
    """Follow the cheapest path back from the last position, and return the start of each token, then S. [T + 1]

    entries[t][s] is the position at which the cheapest path to position s in the row of token t enters this row.
    is_diagonal[t][s] tells whether a path that enters row t at position s comes from position s − 1 of row t − 1.
    Otherwise the path comes from position s of row t − 1.
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
    """Return the audio position at which each token has the lowest cost, between its start and the next token's start.

    `starts` [T + 1] must be the result of dtw(costs). For each token t, positions starts[t] to starts[t + 1] − 1 of
    costs[t] are searched. If there are no such positions, starts[t] is returned for the token. costs [T, S] → [T].
    """
    spans = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    return [
        start + int(row[start : max(end, start + 1)].argmin()) for row, (start, end) in zip(costs, spans, strict=True)
    ]


def onset_strength(mel: Tensor) -> Tensor:
    """Return how much the loudness rises around each frame, as a mean over the mel bands. mel [B, n_mels, F] → [B, F].

    A peak marks the beginning of a sound. Falling loudness counts as 0. The first and last ONSET_REACH frames get 0.
    """
    rise = (mel[:, :, 2 * ONSET_REACH :] - mel[:, :, : -2 * ONSET_REACH]).clamp(min=0).mean(1)
    return torch.nn.functional.pad(rise, (ONSET_REACH, ONSET_REACH))


def onset_lag(starts_s: NDArray[np.float64], onset_strength: NDArray[np.float32]) -> float:
    """Return by how many seconds the words start after the onsets of sounds, or a negative number if they start before.

    Attention runs slightly ahead of or behind the audio. The lag differs between checkpoints and between voices, so it
    is estimated from all words of a window together. A penalty on large shifts limits the estimate. The fewer
    words there are, the more the penalty weighs. Return 0 if there are no words or if the onset strength is constant.
    `starts_s` [words] are the starts of the words in seconds. onset_strength [F].
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


def place_words(
    token_spans: Sequence[tuple[float, float]],
    starts_s: Sequence[float],
    peaks_s: Sequence[float],
    onset_strength: NDArray[np.float32],
    speech_s: Sequence[tuple[float, float]],
    window_s: float,
) -> list[tuple[float, float]]:
    """Return the start and end of each word in seconds from the window's start.

    Words do not overlap and lie inside the window. They are clipped to the spans of detected speech in `speech_s`, if
    there are any. `token_spans` are the start and end of each word as positions in the sequence of text tokens. In
    seconds, `starts_s` is the start of each token and then the end of the last one, and `peaks_s` is when each token
    has the most attention. Both may lack the last tokens if the decoder's context had no space for them. Words of
    tokens without times are placed at the end of the last token that has times. onset_strength [F].
    """
    indices = np.arange(len(starts_s))
    edges_s = np.interp(np.asarray(token_spans).reshape(-1, 2), indices, starts_s)  # [words, 2]
    lag_s = onset_lag(edges_s[:, 0], onset_strength)
    edges_s = (edges_s - lag_s).clip(0.0, window_s)
    last_token = len(peaks_s) - 1
    spans_s: list[tuple[float, float]] = []
    previous_end_s = 0.0
    for (start_s, end_s), (token_start, token_end) in zip(edges_s.tolist(), token_spans, strict=True):
        first_peak_s = peaks_s[min(int(token_start), last_token)] - lag_s
        last_peak_s = peaks_s[min(ceil(token_end) - 1, last_token)] - lag_s
        start_s, end_s = clip_to_speech(start_s, end_s, (first_peak_s, last_peak_s), speech_s)
        start_s = max(previous_end_s, start_s)
        previous_end_s = max(start_s, end_s)
        spans_s.append((start_s, previous_end_s))
    return spans_s


def clip_to_speech(
    start_s: float, end_s: float, peaks_s: tuple[float, float], speech_s: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Clip the start and end of a word to detected speech, because DTW tends to stretch words into pauses.

    `peaks_s` are the times at which the word's first and last token have the most attention. A start before
    the speech span nearest to the first peak is moved to the start of that span. An end after the speech span nearest
    to the last peak is moved to the end of that span. The end is never before the start. If `speech_s` is empty, the
    start and end are returned unchanged. All times are in seconds.
    """
    if speech_s:
        first_span, last_span = (_nearest_span(peak_s, speech_s) for peak_s in peaks_s)
        start_s, end_s = max(start_s, first_span[0]), min(end_s, last_span[1])
    return start_s, max(start_s, end_s)


def _nearest_span(time_s: float, spans_s: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the span that contains `time_s`, or else the nearest span."""
    return min(spans_s, key=lambda span: max(span[0] - time_s, time_s - span[1]))
