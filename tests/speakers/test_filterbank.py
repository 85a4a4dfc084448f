"""Log-mel energies beside a slow twin that follows Kaldi's description word for word."""

import numpy as np
import torch
from numpy.typing import NDArray

from handler.speakers.filterbank import Filterbank
from tests.support.speech import FOX, say


def mel(hz: float) -> float:
    return float(1127 * np.log(1 + hz / 700))


def slow_twin(samples: NDArray[np.float32], bins: int) -> NDArray[np.float64]:
    edges = np.linspace(mel(20), mel(8000), bins + 2)
    rows = []
    for start in range(0, len(samples) - 400 + 1, 160):
        frame = samples[start : start + 400].astype(np.float64) * 32768
        frame = frame - frame.mean()
        frame = np.array([frame[index] - 0.97 * frame[max(0, index - 1)] for index in range(400)])
        power = np.abs(np.fft.rfft(frame * np.hamming(400), 512)) ** 2
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            energy = 0.0
            for index in range(256):
                at = mel(index * 16_000 / 512)
                share = (at - low) / (middle - low) if at <= middle else (high - at) / (high - middle)
                energy += float(power[index] * max(0.0, share))
            row.append(np.log(max(energy, float(np.finfo(np.float32).eps))))
        rows.append(row)
    table = np.array(rows, np.float64)
    centered: NDArray[np.float64] = table - table.mean(0)
    return centered


def test_energies_are_those_of_kaldi() -> None:
    samples = say(FOX)[:8000]
    energies = Filterbank(24, torch.device("cpu"))(torch.from_numpy(samples)[None], [len(samples)])[0].numpy()
    expected = slow_twin(samples, 24)
    assert len(energies) == len(expected) == 48
    np.testing.assert_allclose(energies, expected, atol=2e-3)


def test_what_follows_a_recording_changes_nothing_in_it() -> None:
    samples, filterbank = torch.from_numpy(say(FOX)), Filterbank(24, torch.device("cpu"))
    short = samples[: 10 * 160 + 400]
    whole = filterbank(
        torch.stack([samples, torch.nn.functional.pad(short, (0, len(samples) - len(short)))]),
        [len(samples), len(short)],
    )
    torch.testing.assert_close(whole[:1], filterbank(samples[None], [len(samples)]))
    torch.testing.assert_close(whole[1:, :11], filterbank(short[None], [len(short)]))
    assert not whole[1, 11:].any()


def test_a_row_too_short_for_a_frame_is_silent() -> None:
    energies = Filterbank(24, torch.device("cpu"))(torch.ones(1, 8000), [10])
    assert not energies.any()
