"""Attention kernels and the attention modules. Knows no layer around them and no cache.

In shapes, B is the number of sequences, T of queries, S of keys, H of heads, and D of channels of a head; C = H * D. A
mask is added to the scores: its values are 0 where a query attends to a key and −inf elsewhere. No kernel scales the
queries, because the weights that project them already contain the scale.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from handler.whisper.layers import Linear

PAGE_STEP = 256  # positions, of which FlashAttention-2 wants a whole number in a page
QUERY_BLOCK = 500  # queries per product of blocked_attention, so that the scores fit in a processor's cache


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the channels into heads: [B, T, H * D] → [B, H, T, D]."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Merge the heads into channels: [B, H, T, D] → [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)


def blocked_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend without a mask, one head and at most QUERY_BLOCK queries at a time, which is fast on CPUs.

    All arguments and the result are [B, H, S, D].
    """
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
    """Attend without a mask with the kernel that PyTorch chooses. All arguments and the result are [B, H, S, D]."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with a mask, if there is one, by two matrix products, and return [B, H, T, D].

    For few queries on a CPU without a matrix unit, two products are faster than a fused kernel. q is [B, H, T, D],
    k and v are [B, H, S, D], and the mask broadcasts to [B, H, T, S].
    """
    scores = q @ k.transpose(-1, -2)
    return (scores if mask is None else scores.add_(mask)).softmax(-1) @ v


def fused_masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with a mask, if there is one, by the kernel that PyTorch chooses. Shapes are those of masked_attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


def without_planning() -> AbstractContextManager[object]:
    """Return a context in which fused attention takes no kernel of cuDNN, which plans for 0.4 s at each new shape."""
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True)


def flash_attention_only() -> AbstractContextManager[object]:
    """Return a context in which fused attention takes FlashAttention-2, and raises RuntimeError if it cannot run."""
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION)


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Where each of B sequences finds its keys and values, in a buffer with a page for each slot."""

    table: Tensor  # the slot of each sequence. int32 [B, 1]
    lengths: Tensor  # the number of positions that each sequence attends to. int32 [B]
    starts: Tensor  # the numbers 0 to B. int32 [B + 1]
    longest: int  # at least the greatest of `lengths`


PagedAttention = Callable[[Tensor, Tensor, Tensor, Pages], Tensor]


def flash_paged_attention(q: Tensor, k: Tensor, v: Tensor, pages: Pages) -> Tensor:
    """Attend with one query a sequence by FlashAttention-2, which reads no more of a page than its sequence needs.

    q and the result are [B, H, 1, D]; k and v are [slots, S, H, D], and S a multiple of PAGE_STEP. Needs float16 or
    bfloat16 on a GPU of compute capability 8.0 or higher. Source: torch/nn/attention/varlen.py, which calls the same
    operator.
    """
    out, *_ = torch.ops.aten._flash_attention_forward(
        q[:, :, 0],
        k,
        v,
        pages.starts,
        pages.starts,  # must be there, but the pages and their lengths say where keys are
        1,
        pages.longest,
        0.0,
        False,
        return_debug_mask=False,
        scale=1.0,
        seqused_k=pages.lengths,
        block_table=pages.table,
        num_splits=1,  # parts of a page are put together wrongly where there are several sequences (PyTorch 2.13)
    )
    return out[:, :, None]


def paged_by_products(q: Tensor, k: Tensor, v: Tensor, pages: Pages) -> Tensor:
    """Do what `flash_paged_attention` does, slowly, on any device."""
    slots = pages.table[:, 0].long()
    is_beyond = torch.arange(k.shape[1], device=q.device) >= pages.lengths[:, None]  # [B, S]
    mask = torch.zeros(is_beyond.shape, device=q.device, dtype=q.dtype).masked_fill_(is_beyond, -torch.inf)
    return masked_attention(q, k[slots].transpose(1, 2), v[slots].transpose(1, 2), mask[:, None, None])


@dataclass(frozen=True, slots=True)
class AttentionKernels:
    """The attention functions for one kind of device: one without a mask and one with a mask.

    The encoder runs in the context that `encoder_context` returns, which it enters once a pass.
    """

    unmasked: Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v
    masked: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # q, k, v, mask
    encoder_context: Callable[[], AbstractContextManager[object]] = nullcontext
    is_audio_transposed: bool = False  # whether the function with a mask reads audio fastest as KVCache says


ATTENTION_KERNELS = {
    "blocked": AttentionKernels(blocked_attention, masked_attention),
    "sdpa": AttentionKernels(fused_attention, masked_attention, without_planning),
    "sdpa_transposed": AttentionKernels(fused_attention, masked_attention, is_audio_transposed=True),
    "sdpa_throughout": AttentionKernels(fused_attention, fused_masked_attention),
    "flash_attention_2": AttentionKernels(fused_attention, masked_attention, flash_attention_only),
}


class SelfAttention(nn.Module):
    """The projections of self-attention. One product yields queries, keys and values."""

    def __init__(self, state: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(state, 3 * state)
        self.out = Linear(state, state)

    def project(self, x: Tensor) -> list[Tensor]:
        """Project x [B, T, C] to queries, keys and values, [B, H, T, D] each."""
        return [split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1)]

    def project_for_cache(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project x [B, T, C] to queries [B, H, T, D], and to keys and values in one, [B, T, 2, H, D]."""
        qkv = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1)
        return qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1:]


class CrossAttention(nn.Module):
    """The projections of cross-attention.

    Queries come from the text at every step; keys and values come from the audio, once for each window.
    """

    def __init__(self, state: int, audio_state: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(state, state)
        self.kv = Linear(audio_state, 2 * state)
        self.out = Linear(state, state)

    def keys_values(self, audio: Tensor) -> list[Tensor]:
        """Project audio [B, S, C] to keys and values, [B, H, S, D] each."""
        return [split_heads(part, self.heads) for part in self.kv(audio).chunk(2, dim=-1)]


@dataclass(frozen=True, slots=True, eq=False)
class SharedAudio:
    """Which audio each of B sequences attends to, where several sequences may attend to the same.

    The queries of all sequences of one audio go into one product, which reads the keys and values of the audio once.
    """

    slots: slice  # the audio slots of the KV cache that hold the audio, A of them
    rows: Tensor  # the number of each sequence's audio among these slots. [B]
    lanes: Tensor  # the number of each sequence among those of its audio. [B]
    width: int  # greater than each of `lanes`

    def join(self, q: Tensor) -> Tensor:
        """Put the queries of all sequences of an audio side by side. [B, H, T, D] → [A, H, width * T, D]"""
        joined = q.new_zeros(self.slots.stop - self.slots.start, self.width, *q.shape[1:])
        joined[self.rows, self.lanes] = q
        return joined.transpose(1, 2).flatten(2, 3)

    def part(self, x: Tensor) -> Tensor:
        """Undo `join`. [A, H, width * T, D] → [B, H, T, D]"""
        return x.unflatten(2, (self.width, -1)).transpose(1, 2)[self.rows, self.lanes]
