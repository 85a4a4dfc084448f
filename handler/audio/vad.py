"""Compute the probability of speech in each frame of samples with Silero's voice activity detection.

The published weights are applied to many frames at once. Dense matrix products compute the features of all frames in a
block, and the state of the recurrent layer is carried on from block to block. Knows no window and no file.
Source: snakers4/silero-vad, version 6.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handler.audio.torchscript import tensors_in

FRAME = 512  # samples at 16 kHz: 32 ms
_CONTEXT = 64  # samples before a frame that the network sees as well
_REFLECTED = 64  # samples that are appended to a frame by reflection
_N_FFT = 256
_HOP = 128
_POSITIONS = (FRAME + _CONTEXT + _REFLECTED - _N_FFT) // _HOP + 1  # spectra per frame: 4
_STRIDES = (1, 2, 2, 1)  # of the four convolutions
_BLOCK = 256  # frames processed together, few enough for the cache of a processor

assert _POSITIONS == 4


class VoiceActivity:
    """Detects speech in one stream of samples, with one probability for every `frame` samples."""

    frame = FRAME

    def __init__(self) -> None:
        self._network = _load()
        # The last _CONTEXT samples before the incomplete frame, followed by the samples of the incomplete frame.
        self._buffer: NDArray[np.float32] = np.zeros(_CONTEXT, np.float32)
        self._state: tuple[Tensor, Tensor] | None = None

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add samples [n], and return the probability of speech in each frame that is now complete. [frames]"""
        buffer = np.concatenate((self._buffer, samples))
        frames = (len(buffer) - _CONTEXT) // FRAME
        self._buffer = buffer[frames * FRAME :]
        blocks = [self._run(buffer[at * FRAME :], min(_BLOCK, frames - at)) for at in range(0, frames, _BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    def finish(self) -> NDArray[np.float32]:
        """End the stream, pad the incomplete last frame with silence, and return the frame's probability of speech. [1]

        Return an empty array if no samples are left over.
        """
        padding = -(len(self._buffer) - _CONTEXT) % FRAME
        return self.push(np.zeros(padding, np.float32))

    def _run(self, samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        with torch.inference_mode():
            frames = torch.from_numpy(samples).unfold(0, _CONTEXT + FRAME, FRAME)[:count]  # [count, _CONTEXT + FRAME]
            probabilities, self._state = self._network(frames, self._state)
            return probabilities.numpy()


class _Network(nn.Module):
    """Silero's network for 16 kHz, which processes many frames at once.

    A frame has only 4 spectra (positions), so each convolution over them is computed as a product with a dense matrix.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.taper = nn.Buffer(torch.hann_window(_N_FFT))
        self.layers = []
        positions = _POSITIONS
        for index, stride in enumerate(_STRIDES):
            kernel, bias = (weights[f"encoder.{index}.reparam_conv.{kind}"] for kind in ("weight", "bias"))
            matrix = _to_matrix(kernel, positions, stride)
            positions = matrix.shape[1] // len(bias)
            self.layers.append((matrix, bias.repeat(positions)))
        self.recurrent = nn.LSTM(128, 128, batch_first=True)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.recurrent.load_state_dict({f"{name}_l0": weights[f"decoder.rnn.{name}"] for name in names})
        self.output = weights["decoder.decoder.2.weight"].flatten(), weights["decoder.decoder.2.bias"]

    def forward(self, frames: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the probability of speech in each frame, and the state of the recurrent layer after the last frame.

        frames [n, _CONTEXT + FRAME] → probabilities [n]. `state` is the state that the previous call returned, or None
        at the start of a stream.
        """
        reflected = frames[:, -_REFLECTED - 1 : -1].flip(1)
        pieces = torch.cat((frames, reflected), 1).unfold(1, _N_FFT, _HOP)  # [n, 4, _N_FFT]
        real, imaginary = torch.view_as_real(torch.fft.rfft(pieces * self.taper)).square_().unbind(-1)
        x = (real + imaginary).sqrt_().flatten(1)  # [n, 4 * 129]; torch.abs takes four times as long
        for matrix, bias in self.layers:
            x = torch.addmm(bias, x, matrix).relu_()
        hidden, state = self.recurrent(x[None], state)  # [1, n, 128]
        weight, bias = self.output
        return (hidden[0].relu() @ weight + bias).sigmoid(), state


def _to_matrix(kernel: Tensor, positions: int, stride: int) -> Tensor:
    """Return the matrix of a convolution over `positions` positions with a padding of one.

    kernel [out, in, 3] → matrix [positions * in, output positions * out].
    """
    outputs = (positions - 1) // stride + 1
    matrix = torch.zeros(positions, kernel.shape[1], outputs, kernel.shape[0])
    for output in range(outputs):
        for tap in range(3):
            if 0 <= (position := output * stride + tap - 1) < positions:
                matrix[position, :, output] = kernel[:, :, tap].T
    return matrix.reshape(positions * kernel.shape[1], -1)


@cache
def _load() -> _Network:
    """Return the network with the weights from the package silero-vad."""
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    tensors = tensors_in(Path(spec.origin).parent / "data" / "silero_vad.jit")
    prefix = "_model."  # names of the network for 16 kHz begin with this
    weights = {
        name.removeprefix(prefix): torch.from_numpy(array) for name, array in tensors.items() if name.startswith(prefix)
    }
    return _Network(weights).requires_grad_(False).eval()
