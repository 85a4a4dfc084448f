"""Attention kernels and the two attention modules. Knows no layer around them and no cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from handler.whisper.layers import Linear

QUERY_BLOCK = 500  # queries of one blocked attention product: its scores stay in a processor's cache


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, H * D] → [B, H, T, D]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] → [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)


def blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a mask, one head and QUERY_BLOCK queries at a time, for CPUs. [B, H, S, D] each → the same."""
    rows, heads, length, depth = q.shape
    out = q.new_empty(rows, length, heads, depth)
    scores = q.new_empty(min(length, QUERY_BLOCK), length)
    for row in range(rows):
        for head in range(heads):
            for queries, found in zip(q[row, head].split(QUERY_BLOCK), out[row, :, head].split(QUERY_BLOCK), strict=True):
                here = torch.mm(queries, k[row, head].T, out=scores[: len(queries)])
                found.copy_(here.softmax(-1) @ v[row, head])
    return out.transpose(1, 2)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a mask by whichever kernel PyTorch chooses. [B, H, S, D] each → the same."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a mask by FlashAttention-2 and nothing else. [B, H, S, D] each → the same."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention as two products: for few queries faster than a fused kernel on CPUs without a matrix unit.

    q [B, H, T, D]; k and v [B, H, S, D]; bias broadcast to [B, H, T, S], −inf where a query may not look → [B, H, T, D].
    """
    return (q @ k.transpose(-1, -2)).add_(bias).softmax(-1) @ v


def fused_biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same by whichever kernel PyTorch chooses."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


@dataclass(frozen=True, slots=True)
class Attention:
    """The kernels that a device does best with."""

    whole: Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v: every query looks everywhere
    biased: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # q, k, v, bias


ATTENTIONS = {
    "blocked": Attention(blocked_attention, biased_attention),
    "sdpa": Attention(fused_attention, biased_attention),
    "sdpa_throughout": Attention(fused_attention, fused_biased_attention),
    "flash_attention_2": Attention(flash_attention, biased_attention),
}


class SelfAttention(nn.Module):
    """Queries, keys and values by one product. Queries leave it scaled: the factor lies in the weights."""

    def __init__(self, state: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(state, 3 * state)
        self.out = Linear(state, state)

    def project(self, x: Tensor) -> list[Tensor]:
        """x [B, T, C] → q, k, v, [B, H, T, D] each."""
        return [split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1)]


class CrossAttention(nn.Module):
    """Queries from the text, keys and values from the audio, these made once a window."""

    def __init__(self, state: int, audio_state: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(state, state)
        self.kv = Linear(audio_state, 2 * state)
        self.out = Linear(state, state)

    def keys_values(self, audio: Tensor) -> list[Tensor]:
        """audio [B, S, C] → k, v, [B, H, S, D] each."""
        return [split_heads(part, self.heads) for part in self.kv(audio).chunk(2, dim=-1)]


class AttentionRecorder:
    """Collects where chosen heads listen in the first `positions` of the audio: their cross-attention, added up."""

    def __init__(self, heads: Sequence[tuple[int, int]], positions: int) -> None:
        self._heads = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}
        self._count = len(heads)
        self._positions = positions
        self._sum: Tensor | None = None
        self.last = max(self._heads)  # no layer behind it is listened to

    def hear(self, layer: int, q: Tensor, k: Tensor) -> None:
        """q [B, H, T, D], k [B, H, S, D] of one layer."""
        if heads := self._heads.get(layer):
            scores = q[:, heads] @ k[:, heads].transpose(-1, -2)  # [B, heads, T, S]: for each length kernels would be made
            weights = scores[..., : self._positions].float().softmax(-1).sum(1)
            self._sum = weights if self._sum is None else self._sum.add_(weights)

    def weights(self) -> Tensor:
        """Mean over the heads; a row sums up to one. [B, T, positions], float32."""
        assert self._sum is not None
        return self._sum / self._count
