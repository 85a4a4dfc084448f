"""Attention kernels, the attention modules, and a recorder of cross-attention. Knows no layer around them and no cache.

B sequences, T queries, S keys, H heads, D channels of a head, C = H * D. A mask is added to the scores: 0 if a query
attends to a key, −inf if it does not. Queries are scaled by the weights that project them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from handler.whisper.layers import Linear

QUERY_BLOCK = 500  # queries of one blocked attention product: its scores fit in a processor's cache


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, H * D] → [B, H, T, D]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] → [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)


def blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend without a mask, one head and QUERY_BLOCK queries at a time, for CPUs. [B, H, S, D] each → the same."""
    batch, heads, length, depth = q.shape
    out = q.new_empty(batch, length, heads, depth)
    buffer = q.new_empty(min(length, QUERY_BLOCK), length)
    for row in range(batch):
        for head in range(heads):
            query_blocks, out_blocks = q[row, head].split(QUERY_BLOCK), out[row, :, head].split(QUERY_BLOCK)
            for queries, out_block in zip(query_blocks, out_blocks, strict=True):
                scores = torch.mm(queries, k[row, head].T, out=buffer[: len(queries)])
                out_block.copy_(scores.softmax(-1) @ v[row, head])
    return out.transpose(1, 2)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend without a mask by the kernel that PyTorch chooses. [B, H, S, D] each → the same."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend without a mask by FlashAttention-2 and no other kernel. [B, H, S, D] each → the same."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend with a mask by two products: for few queries faster than a fused kernel on CPUs without a matrix unit.

    q [B, H, T, D]; k and v [B, H, S, D]; mask broadcast to [B, H, T, S] → [B, H, T, D].
    """
    return (q @ k.transpose(-1, -2)).add_(mask).softmax(-1) @ v


def fused_masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend with a mask by the kernel that PyTorch chooses. Shapes as in masked_attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


@dataclass(frozen=True, slots=True)
class AttentionKernels:
    """The kernels that suit a device."""

    unmasked: Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v
    masked: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # q, k, v, mask


ATTENTION_KERNELS = {
    "blocked": AttentionKernels(blocked_attention, masked_attention),
    "sdpa": AttentionKernels(fused_attention, masked_attention),
    "sdpa_throughout": AttentionKernels(fused_attention, fused_masked_attention),
    "flash_attention_2": AttentionKernels(flash_attention, masked_attention),
}


class SelfAttention(nn.Module):
    """Projections of self-attention: queries, keys and values by one product."""

    def __init__(self, state: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(state, 3 * state)
        self.out = Linear(state, state)

    def project(self, x: Tensor) -> list[Tensor]:
        """x [B, T, C] → q, k, v, [B, H, T, D] each."""
        return [split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1)]


class CrossAttention(nn.Module):
    """Projections of cross-attention: queries from the text, keys and values from the audio, once a window."""

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
    """Sums up the cross-attention of chosen heads, (layer, head) pairs, over the first `positions` of the audio."""

    def __init__(self, heads: Sequence[tuple[int, int]], positions: int) -> None:
        self._heads: dict[int, list[int]] = {}
        for layer, head in heads:
            self._heads.setdefault(layer, []).append(head)
        self._count = len(heads)
        self._positions = positions
        self._sum: Tensor | None = None
        self.last_layer = max(self._heads)  # no later layer is recorded

    def record(self, layer: int, q: Tensor, k: Tensor) -> None:
        """Add the attention of a layer's chosen heads, if any. q [B, H, T, D]; k [B, H, S, D]."""
        if heads := self._heads.get(layer):
            # Scores of all S positions: kernels are set up for each length, and S varies less than `positions`.
            scores = q[:, heads] @ k[:, heads].transpose(-1, -2)  # [B, heads, T, S]
            weights = scores[..., : self._positions].float().softmax(-1).sum(1)
            self._sum = weights if self._sum is None else self._sum.add_(weights)

    def weights(self) -> Tensor:
        """Return the mean over the heads; each row sums to one. [B, T, positions], float32."""
        assert self._sum is not None
        return self._sum / self._count
