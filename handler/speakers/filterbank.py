"""Log-mel energies as Kaldi computes them, which speaker embeddings are trained on. Knows no network.

Source: kaldi-asr/kaldi, feat/feature-fbank.cc and feat/mel-computations.cc.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from handler.schema.window import SAMPLE_RATE

HOP, _LENGTH, _N_FFT = 160, 400, 512  # samples
_LOW_HZ, _PREEMPHASIS = 20.0, 0.97
_SCALE = 32768.0  # Kaldi reads samples as 16-bit integers


class Filterbank:
    """Computes `num_bins` log-mel energies every 10 ms, from windows of 25 ms."""

    def __init__(self, num_bins: int, device: torch.device) -> None:
        self._filters = _mel_filters(num_bins).T.to(device)
        self._window = torch.hamming_window(_LENGTH, periodic=False, device=device)

    def __call__(self, samples: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the energies of samples [B, n] without their mean over time. float32 [B, frames, num_bins]

        Of each row, only the first `lengths` samples were recorded. What follows has no part in the mean, and its
        energies are 0, as if all of it were average.
        """
        frames = (samples * _SCALE).unfold(1, _LENGTH, HOP)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), -1)
        spectrum = torch.fft.rfft((frames - _PREEMPHASIS * before) * self._window, _N_FFT)
        power = spectrum.real.square() + spectrum.imag.square()
        energies = (power[..., : _N_FFT // 2] @ self._filters).clamp(min=torch.finfo(torch.float32).eps).log()
        counts = torch.tensor([(length - _LENGTH) // HOP + 1 for length in lengths], device=samples.device)
        number = torch.arange(energies.shape[1], device=samples.device)
        is_recorded = (number < counts[:, None])[..., None]  # [B, frames, 1]
        means = (energies * is_recorded).sum(1) / counts.clamp(min=1)[:, None]
        return cast("Tensor", (energies - means[:, None]) * is_recorded)


def _mel_filters(num_bins: int) -> Tensor:
    """Return triangles of equal width on the mel scale. float32 [num_bins, _N_FFT / 2]"""

    def to_mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    low, high = (to_mel(torch.tensor(hz, dtype=torch.float64)).item() for hz in (_LOW_HZ, SAMPLE_RATE / 2))
    edges = torch.linspace(low, high, num_bins + 2, dtype=torch.float64)
    bins = to_mel(torch.arange(_N_FFT // 2, dtype=torch.float64) * SAMPLE_RATE / _N_FFT)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0, max=math.inf).float()
