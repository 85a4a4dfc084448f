"""The embedding network on a processor, with the convolutions of its blocks in 8-bit integers.

A vector is as that of the network itself but for a cosine of 0.99, in less than half of the time. Activations behind a
ReLU are 0 to 255 times a scale of their layer, which example speech gives; weights are -127 to 127 times a scale of
their channel. Source: Jacob et al., Quantization and training of neural networks, 2018; oneDNN's products of bytes.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handler.speakers.embedding_network import Block, EmbeddingNetwork

MARGIN = 1.5  # how much larger than in the example an activation may be before it is cut off
_MAX, _MAX_SIGNED, _MIDDLE = 255, 127, 128  # of bytes, of weights, and what stands for 0 where values have signs
_SMALLEST = 1e-8
_ROUNDING = 0.5  # is added before fractions are cut off
_NO_SCALARS: list[float] = []


class QuantizedEmbedding:
    """Computes what an EmbeddingNetwork does, nearly."""

    def __init__(self, network: EmbeddingNetwork, example: Tensor) -> None:
        """Take a network in float32 on the CPU, and features of speech that have the usual range. [B, T, NUM_BINS]"""
        self._network = network
        self._blocks: list[_QuantizedBlock] = []
        with torch.inference_mode():
            x = network.first(example)
            self._input_scale = scale = _scale(x)
            for block in network.blocks:
                quantized = _QuantizedBlock(block, x, scale)
                self._blocks.append(quantized)
                x, scale = block(x), quantized.scale
        self._output_scale = scale
        bias = network.conv.bias
        assert bias is not None
        taps = torch.cat((network.conv.weight.detach().flatten(1).T, bias.detach()[None]))  # [10, C]
        self._taps = taps / self._input_scale
        self._taps[-1] += _ROUNDING

    def __call__(self, features: Tensor, weights: Tensor) -> Tensor:
        """Return a vector for each stretch. features [B, T, NUM_BINS], weights [B, T] in [0, 1] → [B, DIMENSIONS]"""
        x = self._first(features)
        for block in self._blocks:
            x = block(x)
        return self._network.pool(x.float() * self._output_scale, weights)

    def _first(self, features: Tensor) -> Tensor:
        """Return what goes into the blocks, as bytes with channels last. [B, T, NUM_BINS] → [B, C, NUM_BINS, T]

        A product of the nine shifted features has the layout that the blocks read. The output of a convolution of one
        channel would have to be rearranged; without that, a vector takes 0.62 of the time (AMX).
        """
        padded = F.pad(features.transpose(1, 2), (1, 1, 1, 1))  # [B, bins + 2, T + 2]
        bins, frames = padded.shape[1] - 2, padded.shape[2] - 2
        shifted = [padded[:, row : row + bins, column : column + frames] for row in range(3) for column in range(3)]
        inputs = torch.stack((*shifted, torch.ones_like(shifted[0])))
        levels = (inputs.flatten(1).T @ self._taps).clamp_(0, _MAX).to(torch.uint8)  # which cuts off fractions
        return levels.view(*shifted[0].shape, -1).permute(0, 3, 1, 2)


class _QuantizedBlock:
    """A block whose input and output are bytes."""

    def __init__(self, block: Block, x: Tensor, x_scale: float) -> None:
        """Take a block, what goes into it in the example, and the scale of its input's bytes."""
        hidden = F.relu(block.conv1(x))
        hidden_scale = _scale(hidden)
        self.scale = _scale(block(x))  # of the output's bytes
        self._conv1 = _QuantizedConv(block.conv1, x_scale, hidden_scale)
        self._conv2 = _QuantizedConv(block.conv2, hidden_scale, self.scale)
        self._shortcut: _QuantizedConv | None = None
        self._shortcut_scale, self._shortcut_zero = x_scale, 0
        if block.shortcut is not None:
            self._shortcut_scale = _scale(block.shortcut(x).abs()) * _MAX / _MAX_SIGNED
            self._shortcut_zero = _MIDDLE
            self._shortcut = _QuantizedConv(block.shortcut, x_scale, self._shortcut_scale, _MIDDLE)

    def __call__(self, x: Tensor) -> Tensor:
        hidden = self._conv1(x, "relu")
        shortcut = x if self._shortcut is None else self._shortcut(x, "none")
        return self._conv2.added_to(shortcut, self._shortcut_scale, self._shortcut_zero, hidden)


class _QuantizedConv:
    """A convolution of bytes."""

    def __init__(self, conv: nn.Conv2d, x_scale: float, scale: float, zero: int = 0) -> None:
        """Take the scales of the input's and the output's bytes, and the byte that stands for 0 in the output."""
        assert conv.bias is not None
        weight = conv.weight.detach()
        scales = weight.abs().amax((1, 2, 3)).clamp(min=_SMALLEST) / _MAX_SIGNED
        levels = (weight / scales[:, None, None, None]).round().to(torch.int8)
        stride, padding = list(conv.stride), [int(size) for size in conv.padding]
        packed = torch.ops.onednn.qconv_prepack(
            levels.contiguous(memory_format=torch.channels_last), scales, x_scale, 0, stride, padding, [1, 1], 1
        )
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        self._weight = (packed, scales, zeros)
        self._input = (x_scale, 0)
        self._geometry = (conv.bias.detach(), stride, padding, [1, 1], 1)
        self._output = (scale, zero, torch.uint8)

    def __call__(self, x: Tensor, then: str) -> Tensor:
        return cast(
            "Tensor",
            torch.ops.onednn.qconv2d_pointwise(
                x, *self._input, *self._weight, *self._geometry, *self._output, then, _NO_SCALARS, ""
            ),
        )

    def added_to(self, other: Tensor, scale: float, zero: int, x: Tensor) -> Tensor:
        """Return the ReLU of the sum of two tensors of bytes: `other`, which is overwritten, and the result for `x`."""
        return cast(
            "Tensor",
            torch.ops.onednn.qconv2d_pointwise.binary(
                *(x, *self._input, *self._weight, other, *self._geometry, *self._output),
                *(scale, zero, "sum", 1.0, "relu", _NO_SCALARS, ""),
            ),
        )


def _scale(activations: Tensor) -> float:
    """Return the size of a step of bytes for activations that are not negative."""
    return max(activations.amax().item(), _SMALLEST) * MARGIN / _MAX
