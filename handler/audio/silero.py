"""Silero's voice activity detection network, applied to many frames at once. Knows no stream and no file.

Dense matrix products compute the features of all frames in a block; only the recurrent layer goes frame by frame.
Source: snakers4/silero-vad, version 6.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.audio.torchscript import tensors_in

Array = NDArray[np.float32]
FRAME = 512  # samples at 16 kHz: 32 ms
CONTEXT = 64  # samples before a frame that the network sees as well
FEATURES = 128  # per frame
_REFLECTED = 64  # samples that are appended to a frame by reflection
_N_FFT = 256
_HOP = 128
_POSITIONS = (FRAME + CONTEXT + _REFLECTED - _N_FFT) // _HOP + 1  # spectra per frame: 4
_STRIDES = (1, 2, 2, 1)  # of the four convolutions
_SILENT_FRAMES = 32  # about a second, after which speech is detected soonest
_HALF = np.float32(0.5)

assert _POSITIONS == 4


class State(NamedTuple):
    """The state of the recurrent layer. [batch, FEATURES] each"""

    hidden: Array
    cell: Array


class _Product(NamedTuple):
    """A product of some columns of the input with a matrix, plus a bias."""

    columns: slice
    matrix: Array
    bias: Array


class SileroNetwork:
    """Silero's network for 16 kHz, which processes many frames at once.

    A frame has only 4 spectra (positions), so each convolution over them is computed as a product with a dense matrix.
    """

    def __init__(self, weights: dict[str, Array]) -> None:
        self._taper = np.hanning(_N_FFT + 1)[:-1].astype(np.float32)
        self._layers: list[list[_Product]] = []
        positions = _POSITIONS
        for index, stride in enumerate(_STRIDES):
            kernel, bias = (weights[f"encoder.{index}.reparam_conv.{kind}"] for kind in ("weight", "bias"))
            matrix = _to_matrix(kernel, positions, stride)
            positions = matrix.shape[1] // len(bias)
            self._layers.append(_products(matrix, np.tile(bias, positions), parts=min(2, positions)))
        # The gates of the recurrent layer in the order input, forget, output, cell. The sigmoid of the first three is
        # (tanh(x / 2) + 1) / 2, so with half their weights one tanh serves all four.
        order = np.r_[0 : 2 * FEATURES, 3 * FEATURES : 4 * FEATURES, 2 * FEATURES : 3 * FEATURES]
        scale = np.where(np.arange(len(order)) < 3 * FEATURES, _HALF, np.float32(1))
        self._of_input = np.ascontiguousarray((weights["decoder.rnn.weight_ih"][order] * scale[:, None]).T)
        self._of_hidden = np.ascontiguousarray((weights["decoder.rnn.weight_hh"][order] * scale[:, None]).T)
        self._bias = (weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"])[order] * scale
        self._output = weights["decoder.decoder.2.weight"].flatten(), weights["decoder.decoder.2.bias"]
        silence = np.zeros((_SILENT_FRAMES, CONTEXT + FRAME), np.float32)
        features = self.features(silence, np.ones(_SILENT_FRAMES, np.float32))
        self.state_after_silence = self.probabilities(features[None], None)[1]

    def features(self, frames: Array, gains: Array) -> Array:
        """Return the features of frames, each with the CONTEXT samples before it, amplified by a factor for each frame.

        frames [n, CONTEXT + FRAME], gains [n] → features [n, FEATURES]
        """
        extended = np.concatenate((frames, frames[:, -2 : -_REFLECTED - 2 : -1]), 1)
        pieces = np.lib.stride_tricks.sliding_window_view(extended, _N_FFT, 1)[:, ::_HOP]  # [n, 4, _N_FFT]
        spectra = np.fft.rfft(pieces * self._taper)
        x: Array = np.sqrt(np.square(spectra.real) + np.square(spectra.imag)).reshape(len(frames), -1)  # [n, 4 * 129]
        x *= gains[:, None]  # the same as amplified samples
        for products in self._layers:
            x = np.concatenate([x[:, columns] @ matrix + bias for columns, matrix, bias in products], 1)
            np.maximum(x, 0, out=x)
        return x

    def probabilities(self, features: Array, state: State | None) -> tuple[Array, State]:
        """Return the probability of speech in each frame, and the state of the recurrent layer after the last frame.

        features [batch, n, FEATURES] → probabilities [batch, n]. `state` is the state after the frames before, or None
        at the start of a stream.
        """
        batch, count, _ = features.shape
        cell = np.zeros((batch, FEATURES), np.float32) if state is None else state.cell.copy()
        hidden = np.zeros((batch, FEATURES), np.float32) if state is None else state.hidden
        gates = features.swapaxes(0, 1) @ self._of_input  # [n, batch, 4 * FEATURES]
        gates += self._bias
        outputs = np.empty((count, batch, FEATURES), np.float32)
        recurrent = np.empty((batch, 4 * FEATURES), np.float32)
        for frame in range(count):  # in place: with so few numbers, new arrays would take as long as the arithmetic
            gate = gates[frame]
            gate += np.matmul(hidden, self._of_hidden, out=recurrent)
            np.tanh(gate, out=gate)
            opened = gate[:, : 3 * FEATURES]
            opened += 1
            opened *= _HALF
            entering = gate[:, 3 * FEATURES :]
            entering *= opened[:, :FEATURES]
            cell *= opened[:, FEATURES : 2 * FEATURES]
            cell += entering
            hidden = np.tanh(cell, out=outputs[frame])
            hidden *= opened[:, 2 * FEATURES :]
        weight, bias = self._output
        return _sigmoid(np.maximum(outputs, 0).swapaxes(0, 1) @ weight + bias), State(hidden.copy(), cell)


def _sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), by a function that cannot overflow."""
    result: Array = np.tanh(x * _HALF)
    result += 1
    result *= _HALF
    return result


def _to_matrix(kernel: Array, positions: int, stride: int) -> Array:
    """Return the matrix of a convolution over `positions` positions with a padding of one.

    kernel [out, in, 3] → matrix [positions * in, output positions * out].
    """
    outputs = (positions - 1) // stride + 1
    matrix = np.zeros((positions, kernel.shape[1], outputs, kernel.shape[0]), np.float32)
    for output in range(outputs):
        for tap in range(3):
            if 0 <= (position := output * stride + tap - 1) < positions:
                matrix[position, :, output] = kernel[:, :, tap].T
    return matrix.reshape(positions * kernel.shape[1], -1)


def _products(matrix: Array, bias: Array, parts: int) -> list[_Product]:
    """Divide a product with a matrix [in, out] into `parts` over the outputs, each without rows at its ends that are 0.

    An output position depends on few input positions, so this leaves out a quarter of the operations.
    """
    products: list[_Product] = []
    for columns, part in zip(np.split(matrix, parts, 1), np.split(bias, parts), strict=True):
        rows = np.flatnonzero(columns.any(1))
        inputs = slice(int(rows[0]), int(rows[-1]) + 1)
        products.append(_Product(inputs, np.ascontiguousarray(columns[inputs]), part))
    return products


@cache
def load_silero() -> SileroNetwork:
    """Return the network with the weights from the package silero-vad."""
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    tensors = tensors_in(Path(spec.origin).parent / "data" / "silero_vad.jit")
    prefix = "_model."  # names of the network for 16 kHz begin with this
    return SileroNetwork({n.removeprefix(prefix): array for n, array in tensors.items() if n.startswith(prefix)})
