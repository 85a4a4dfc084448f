"""Silero's voice activity detection network, applied to many frames at once. Knows no stream and no file.

Dense matrix products compute the features of all frames in a block; only the recurrent layer goes frame by frame.
Source: snakers4/silero-vad, version 6.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from handler.audio.torchscript import tensors_in

FRAME = 512  # samples at 16 kHz: 32 ms
CONTEXT = 64  # samples before a frame that the network sees as well
FEATURES = 128  # per frame
State = tuple[Tensor, Tensor]  # of the recurrent layer, each [1, batch, FEATURES]
_REFLECTED = 64  # samples that are appended to a frame by reflection
_N_FFT = 256
_HOP = 128
_POSITIONS = (FRAME + CONTEXT + _REFLECTED - _N_FFT) // _HOP + 1  # spectra per frame: 4
_STRIDES = (1, 2, 2, 1)  # of the four convolutions
_SILENT_FRAMES = 32  # about a second, after which speech is detected soonest

assert _POSITIONS == 4


_Product = tuple[slice, Tensor, Tensor]  # columns of the input, matrix, bias


class SileroNetwork(nn.Module):
    """Silero's network for 16 kHz, which processes many frames at once.

    A frame has only 4 spectra (positions), so each convolution over them is computed as a product with a dense matrix.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.taper = nn.Buffer(torch.hann_window(_N_FFT))
        self.layers: list[list[_Product]] = []
        positions = _POSITIONS
        for index, stride in enumerate(_STRIDES):
            kernel, bias = (weights[f"encoder.{index}.reparam_conv.{kind}"] for kind in ("weight", "bias"))
            matrix = _to_matrix(kernel, positions, stride)
            positions = matrix.shape[1] // len(bias)
            self.layers.append(_products(matrix, bias.repeat(positions), parts=min(2, positions)))
        self.recurrent = nn.LSTM(FEATURES, FEATURES, batch_first=True)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.recurrent.load_state_dict({f"{name}_l0": weights[f"decoder.rnn.{name}"] for name in names})
        self.output = weights["decoder.decoder.2.weight"].flatten(), weights["decoder.decoder.2.bias"]
        with torch.inference_mode():
            silence = torch.zeros(_SILENT_FRAMES, CONTEXT + FRAME)
            features = self.features(silence, torch.ones(_SILENT_FRAMES))
            self.state_after_silence = self.probabilities(features[None], None)[1]

    def features(self, frames: Tensor, gains: Tensor) -> Tensor:
        """Return the features of frames, each with the CONTEXT samples before it, amplified by a factor for each frame.

        frames [n, CONTEXT + FRAME], gains [n] → features [n, FEATURES]
        """
        reflected = frames[:, -_REFLECTED - 1 : -1].flip(1)
        pieces = torch.cat((frames, reflected), 1).unfold(1, _N_FFT, _HOP)  # [n, 4, _N_FFT]
        real, imaginary = torch.view_as_real(torch.fft.rfft(pieces * self.taper)).square_().unbind(-1)
        x = (real + imaginary).sqrt_().flatten(1)  # [n, 4 * 129]; torch.abs takes four times as long
        x *= gains[:, None]  # the same as amplified samples
        for products in self.layers:
            x = torch.cat([torch.addmm(bias, x[:, inputs], matrix) for inputs, matrix, bias in products], 1).relu_()
        return x

    def probabilities(self, features: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return the probability of speech in each frame, and the state of the recurrent layer after the last frame.

        features [batch, n, FEATURES] → probabilities [batch, n]. `state` is the state after the frames before, or None
        at the start of a stream.
        """
        hidden, state = self.recurrent(features, state)  # [batch, n, FEATURES]
        weight, bias = self.output
        return (hidden.relu() @ weight + bias).sigmoid(), state


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


def _products(matrix: Tensor, bias: Tensor, parts: int) -> list[_Product]:
    """Divide a product with a matrix [in, out] into `parts` over the outputs, each without rows at its ends that are 0.

    An output position depends on few input positions, so this leaves out a quarter of the operations.
    """
    products: list[_Product] = []
    for columns, part in zip(matrix.chunk(parts, 1), bias.chunk(parts), strict=True):
        rows = columns.any(1).nonzero()
        inputs = slice(int(rows[0]), int(rows[-1]) + 1)
        products.append((inputs, columns[inputs].contiguous(), part))
    return products


@cache
def load_silero() -> SileroNetwork:
    """Return the network with the weights from the package silero-vad."""
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    tensors = tensors_in(Path(spec.origin).parent / "data" / "silero_vad.jit")
    prefix = "_model."  # names of the network for 16 kHz begin with this
    weights = {
        name.removeprefix(prefix): torch.from_numpy(array) for name, array in tensors.items() if name.startswith(prefix)
    }
    return SileroNetwork(weights).requires_grad_(False).eval()
