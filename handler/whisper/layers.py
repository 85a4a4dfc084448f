"""The network's basic modules, and products with weights laid out for the processor. Knows no layer of the network.

On a CPU the weights of a bfloat16 module are laid out once for oneDNN, which then also applies what follows the product
(bias, GELU, a sum) while the result is still in registers. Other devices and dtypes use PyTorch's own product.
Source: the kernels that torch/_inductor/fx_passes/mkldnn_fusion.py puts into compiled models.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACK_ROWS = 1500  # rows of the input that a layout is optimized for; it works for any number
_MAX_LEVEL = 127  # of a signed byte
_ROWS_PER_CHUNK = 1024  # of the vocabulary, quantized at a time: a chunk fits in the processor's cache


def can_pack(weight: Tensor) -> bool:
    """Return whether this processor has kernels for packed weights of this device and dtype."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Uninitialized:
    """Mixin: leaves weights uninitialized until they are loaded. PyTorch takes a second to import its initializers."""

    def reset_parameters(self) -> None:
        """Leave the parameters as they are."""


class LayerNorm(Uninitialized, nn.LayerNorm):
    """Layer normalization."""


class Conv1d(Uninitialized, nn.Conv1d):
    """Convolution over time."""


class Embedding(Uninitialized, nn.Embedding):
    """Table of embeddings."""


class Linear(Uninitialized, nn.Linear):
    """Product with a bias. After `pack`, only the packed copy of the weight is left."""

    packed: Tensor | None = None

    def pack(self) -> None:
        """Lay the weight out for this processor if it has the kernels."""
        if can_pack(self.weight):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().contiguous(), PACK_ROWS)
            del self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """Apply GELU to the product. [..., in] → [..., out]."""
        if self.packed is None:
            return F.gelu(F.linear(x, self.weight, self.bias))
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "gelu", [], "none")

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return the sum of `residual` [..., out] and the product of x [..., in]. [..., out]"""
        if self.packed is None:
            return residual + F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")


class QuantizedLogits:
    """The product that gives each token its logit, in 8-bit integers: a CPU's time goes into reading the weights.

    The weights of a token share one scale, and so do the hidden values of a sequence: no sequence depends on the others
    of its batch. Two measures cut the rounding error to a third. The mean weight over all tokens is subtracted: it adds
    the same to every logit of a sequence, which changes no probability. And half of the spread that `gain` gives the
    hidden values is moved to the weights, as in Xiao et al., SmoothQuant, 2022.
    """

    def __init__(self, weight: Tensor, gain: Tensor) -> None:
        """Quantize weight [n_vocab, C]. gain [C]: the weight of the layer norm before the product."""
        self._spread = gain.float().abs().clamp(min=1e-3).sqrt()
        self._scale = torch.empty(len(weight))
        levels = torch.empty(weight.shape, dtype=torch.int8)
        sums = [rows.float().sum(0) for rows in weight.split(_ROWS_PER_CHUNK)]
        mean = torch.stack(sums).sum(0) / len(weight)  # five times as fast as weight.mean
        chunks = zip(*(tensor.split(_ROWS_PER_CHUNK) for tensor in (weight, self._scale, levels)), strict=True)
        for weight_rows, scale, level_rows in chunks:
            centered = (weight_rows - mean) * self._spread
            torch.amax(centered.abs(), 1, out=scale).clamp_(min=1e-12).div_(_MAX_LEVEL)
            level_rows.copy_(centered.div_(scale[:, None]).round_())
        self._packed = torch.ops.onednn.qlinear_prepack(levels, [1, weight.shape[1]])
        self._zero = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return logits up to a constant for each sequence. [B, C] → [B, n_vocab], float32."""
        hidden = hidden / self._spread
        step = hidden.abs().amax(1, keepdim=True).clamp(min=1e-12) / _MAX_LEVEL  # [B, 1]
        zero_point = _MAX_LEVEL + 1
        levels = (hidden / step).round_().add_(zero_point).to(torch.uint8)  # [B, C]
        logits = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, zero_point, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return logits.mul_(step)
