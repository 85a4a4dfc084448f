"""The network's basic modules, and matrix products with packed weights. Knows no layer of the network.

On a CPU, weights are packed once, which means rearranged into the layout that oneDNN works fastest on. oneDNN also
applies what follows a product (bias, GELU or a sum) while the result is still in registers. PyTorch's own product is
used on other devices. In float32 without AVX-512, a product of 12 rows takes half as long by packed weights, and one
of 1500 rows with its GELU two thirds.
Source: the kernels that torch/_inductor/fx_passes/mkldnn_fusion.py puts into compiled models.
"""

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACK_ROWS = 1500  # the number of input rows that the packed layout is optimized for; any other number works as well
_LOGITS_ROWS = 16  # the same for the product that gives each token its logit
_MAX_LEVEL = 127  # the greatest value of a signed byte
_ROWS_PER_CHUNK = 1024  # tokens whose weights are quantized at a time, so that they fit in the processor's cache


def can_pack(weight: Tensor) -> bool:
    """Return whether the weight is on a CPU that has kernels for packed weights of its dtype."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32 and platform.machine() in ("x86_64", "AMD64")


class Uninitialized:
    """Mixin that leaves a module's weights uninitialized. This saves the second that PyTorch's initializers cost."""

    def reset_parameters(self) -> None:
        """Leave the parameters uninitialized, because a checkpoint replaces them."""


class LayerNorm(Uninitialized, nn.LayerNorm):
    """Layer normalization with uninitialized weights."""


class Conv1d(Uninitialized, nn.Conv1d):
    """Convolution over time with uninitialized weights."""


class Embedding(Uninitialized, nn.Embedding):
    """Embedding table with uninitialized weights."""


class Linear(Uninitialized, nn.Linear):
    """Linear layer with uninitialized weights. `pack` may replace the weight by a copy laid out for the processor."""

    packed: Tensor | None = None

    def pack(self) -> None:
        """Replace the weight by a packed copy if `can_pack` allows it. Otherwise leave the weight unchanged."""
        if can_pack(self.weight):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().contiguous(), PACK_ROWS)
            del self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of x and the weight, plus the bias. [..., in] → [..., out]"""
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """Return the GELU of the layer's output for x. [..., in] → [..., out]"""
        if self.packed is None:
            return F.gelu(F.linear(x, self.weight, self.bias))
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "gelu", [], "none")

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return `residual` [..., out] plus the layer's output for x [..., in]. The result is [..., out]."""
        if self.packed is None:
            return residual + F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")


class PackedLogits:
    """The product that gives each token its logit, by a packed copy of the weights."""

    def __init__(self, weight: Tensor) -> None:
        """Pack a copy of `weight` [n_vocab, C], which `can_pack` allows."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _LOGITS_ROWS)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits of the next token of each row. [B, C] → [B, n_vocab], float32"""
        return torch.ops.mkldnn._linear_pointwise(hidden, self._packed, None, "none", [], "").float()


class QuantizedLogits:
    """The product that gives each token its logit, computed in 8-bit integers.

    On a CPU, reading the weights takes most of the time of this product, and 8-bit weights are read faster. The weights
    of a token share one scale. The hidden values of a sequence share one scale, so the logits of a sequence do not
    depend on the rest of the batch.

    Two measures cut the rounding error to a third. First, the mean of all tokens' weights is subtracted from the
    weights of each token. This shifts all logits of a sequence by the same amount, which changes no probability.
    Second, half of the variation between channels that `gain` causes in the hidden values is moved to the weights, as
    in Xiao et al., SmoothQuant, 2022.
    """

    def __init__(self, weight: Tensor, gain: Tensor) -> None:
        """Quantize `weight` [n_vocab, C]. `gain` [C] is the weight of the layer norm before the product."""
        self._spread = gain.float().abs().clamp(min=1e-3).sqrt()
        self._scale = torch.empty(len(weight))
        levels = self._quantize(weight)
        self._packed = torch.ops.onednn.qlinear_prepack(levels, [1, weight.shape[1]])
        self._zero = torch.zeros(len(weight), dtype=torch.int32)

    def _quantize(self, weight: Tensor) -> Tensor:
        """Return the weights as levels, int8 [n_vocab, C], and set the scale of each token."""
        chunks = weight.split(_ROWS_PER_CHUNK)
        sums = torch.stack([rows.float().sum(0) for rows in chunks])
        mean = sums.sum(0) / len(weight)  # five times as fast as weight.mean
        levels = torch.empty(weight.shape, dtype=torch.int8)
        scales, level_chunks = self._scale.split(_ROWS_PER_CHUNK), levels.split(_ROWS_PER_CHUNK)
        for rows, scale, level_rows in zip(chunks, scales, level_chunks, strict=True):
            centered = (rows - mean) * self._spread
            torch.amax(centered.abs(), 1, out=scale).clamp_(min=1e-12).div_(_MAX_LEVEL)
            level_rows.copy_(centered.div_(scale[:, None]).round_())
        return levels

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits of the next token of each row. [B, C] → [B, n_vocab], float32

        All logits of one row differ from the exact ones by the same constant, which does not change their softmax.
        """
        hidden = hidden / self._spread
        step = hidden.abs().amax(1, keepdim=True).clamp(min=1e-12) / _MAX_LEVEL  # [B, 1]
        zero_point = _MAX_LEVEL + 1
        levels = (hidden / step).round_().add_(zero_point).to(torch.uint8)  # [B, C]
        logits = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, zero_point, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return logits.mul_(step)
