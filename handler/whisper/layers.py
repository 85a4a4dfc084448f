"""The network's simple modules, and products with weights that lie as the processor reads them best. Knows no layer and no model.

On a CPU the weights of a bfloat16 layer are laid out once for oneDNN, which then also applies what follows the product
(bias, GELU, a sum) while the result is still in registers. Other devices and dtypes take PyTorch's own product.
Source: the kernels that torch/_inductor/fx_passes/mkldnn_fusion.py puts into compiled models.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKED_FOR = 1500  # rows that a layout is chosen for; it serves any number
_LEVELS = 127  # of a signed byte, to either side of zero
_ROWS = 1024  # of the vocabulary that are rounded at a time: they stay in the processor's cache


def packs(weight: Tensor) -> bool:
    """Whether this processor has the kernels for weights of this kind."""
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Unset:
    """A module whose weights mean nothing until they are loaded; PyTorch would import for a second what it draws them with."""

    def reset_parameters(self) -> None:
        """Leave them as they are."""


class Norm(Unset, nn.LayerNorm):
    """A layer norm."""


class Convolution(Unset, nn.Conv1d):
    """A convolution over time."""


class Embedding(Unset, nn.Embedding):
    """A table of rows."""


class Linear(Unset, nn.Linear):
    """A product with a bias. After `pack` the weight is gone, and only what was made of it is kept."""

    packed: Tensor | None = None

    def pack(self) -> None:
        """Lay the weight out for this processor, where it has the kernels."""
        if packs(self.weight):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().contiguous(), PACKED_FOR)
            del self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """The product through GELU. [..., in] → [..., out]."""
        if self.packed is None:
            return F.gelu(F.linear(x, self.weight, self.bias))
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "gelu", [], "none")

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        """`to` [..., out] and the product of x [..., in] → [..., out]."""
        if self.packed is None:
            return to + F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise.binary(x, to, self.packed, self.bias, "add")


class Vocabulary:
    """The product that gives each token its logit, in bytes: reading the weights is what takes a CPU's time.

    The weights of a token share one scale, and so do the hidden values of a row: no row depends on the others of its batch.
    Two things keep the error of rounding to a third. What all tokens have in common is taken off: it adds the same to every
    logit of a row, which changes no probability. And half of the spread that `gain` gives the hidden values is moved over
    to the weights, as in Xiao et al., SmoothQuant, 2022.
    """

    def __init__(self, weight: Tensor, gain: Tensor) -> None:
        """weight [n_vocab, C]; gain [C], by which the norm in front multiplies its columns."""
        self._spread = gain.float().abs().clamp(min=1e-3).sqrt()
        self._scale = torch.empty(len(weight))
        levels = torch.empty(weight.shape, dtype=torch.int8)
        mean = torch.stack([rows.float().sum(0) for rows in weight.split(_ROWS)]).sum(0) / len(weight)  # five times as fast as weight.mean
        for rows, scale, into in zip(*(part.split(_ROWS) for part in (weight, self._scale, levels)), strict=True):
            shared = (rows - mean) * self._spread
            torch.amax(shared.abs(), 1, out=scale).clamp_(min=1e-12).div_(_LEVELS)
            into.copy_(shared.div_(scale[:, None]).round_())
        self._packed = torch.ops.onednn.qlinear_prepack(levels, [1, weight.shape[1]])
        self._zero = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, hidden: Tensor) -> Tensor:
        """[B, C] → [B, n_vocab], float32, less the same for all tokens of a row."""
        hidden = hidden / self._spread
        step = hidden.abs().amax(1, keepdim=True).clamp(min=1e-12) / _LEVELS  # [B, 1]
        levels = (hidden / step).round_().add_(_LEVELS + 1).to(torch.uint8)  # [B, C]; _LEVELS + 1 stands for zero
        logits = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, _LEVELS + 1, self._packed, self._scale, self._zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return logits.mul_(step)
