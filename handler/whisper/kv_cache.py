"""The KV cache: keys and values of texts and of audio, and the queries that time words. Knows no task.

A slot is the place of one sequence in the batch, and an audio slot the place of one window, whose sequences all attend
to the same audio. In shapes, T is the number of text positions, S of audio positions, H of heads, and D of channels of
a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.whisper.alignment_queries import AlignmentQueries, Heads
from handler.whisper.dims import Dims

TEXT_LENGTH_STEP = 16  # tokens


def round_up(number: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `number`."""
    return -(-number // step) * step


class KVCache:
    """Keys and values of every slot and of as many audio slots, allocated once and written by index.

    The keys and values of an audio slot take `audio_length` positions, at least as many as the longest audio in use.
    The audio slots lie next to each other without gaps, because products over many slots are fast only then.
    `resize_audio` changes the length. With a `page_step`, each slot and each audio slot is a page of a whole number of
    such steps, and the length must not change. If `is_transposed`, the positions of a channel of the audio lie next to
    each other in memory, instead of the channels of a position.
    """

    def __init__(
        self,
        dims: Dims,
        slots: int,
        device: torch.device,
        dtype: torch.dtype,
        alignment_heads: Heads = (),
        page_step: int = 1,
        is_transposed: bool = False,
    ) -> None:
        layers, self._heads = dims.n_text_layer, dims.n_text_head
        self._depth = dims.n_text_state // self._heads
        self.slots = slots
        self.context = dims.n_text_ctx
        self.audio_length = dims.n_audio_ctx
        # Products also read masked positions, where NaN would spread: 0 × NaN is NaN. Hence the buffers begin with
        # zeros, and what a slot holds is overwritten when the slot is given to a sequence.
        self._page_step = page_step
        self._is_transposed = is_transposed
        text_shape = (layers, 2, slots, self._heads, round_up(dims.n_text_ctx, page_step), self._depth)
        self.text_kv = torch.zeros(text_shape, device=device, dtype=dtype)
        self.k, self.v = self.text_kv.unbind(1)
        cross_size = slots * round_up(dims.n_audio_ctx, page_step) * dims.n_text_state
        self._cross_kv = torch.zeros(2, layers, cross_size, device=device, dtype=dtype)
        self._pages = self._audio_pages()
        # 0 at the positions of the audio in each audio slot, and −inf after them.
        self.audio_mask = torch.zeros(slots, dims.n_audio_ctx, device=device, dtype=dtype)
        self.alignment = AlignmentQueries(alignment_heads, slots, dims.n_text_ctx, self._depth, device, dtype)
        self._has_short_audio = False  # whether a slot has ever held audio that is shorter than the context

    @staticmethod
    def slot_bytes(dims: Dims, dtype: torch.dtype) -> int:
        """Return the bytes of memory that the keys and values of a slot and of an audio slot take together."""
        text_bytes = 2 * dims.n_text_layer * dims.n_text_ctx * dims.n_text_state * dtype.itemsize
        return text_bytes + KVCache.audio_bytes(dims, dtype)

    @staticmethod
    def audio_bytes(dims: Dims, dtype: torch.dtype) -> int:
        """Return the bytes of memory that the cross-attention keys and values of one window take."""
        return 2 * dims.n_text_layer * dims.n_audio_ctx * dims.n_text_state * dtype.itemsize

    def length_for(self, tokens: int) -> int:
        """Return the number of text positions to attend to for a sequence of `tokens` tokens.

        The number of tokens is rounded up to a multiple of TEXT_LENGTH_STEP, but not beyond the decoder's context.
        The rounding leaves few different lengths, because kernels have to be set up for each length.
        """
        return min(self.context, round_up(tokens, TEXT_LENGTH_STEP))

    def cross_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values of all audio slots, as views [slots, H, audio_length, D]."""
        k, v = self._pages[:, layer, :, :, : self.audio_length]
        return k, v

    def audio_pages(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values of all audio slots as pages, [slots, S, H, D]."""
        k, v = self._pages[:, layer].transpose(2, 3)
        return k, v

    def text_pages(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values of all slots as pages, [slots, T, H, D]."""
        return self.k[layer].transpose(1, 2), self.v[layer].transpose(1, 2)

    def alignment_weights(self, slot: int, audio_slot: int, positions: Tensor, length: int) -> Tensor:
        """Return the attention of a slot's text `positions` to the audio. See AlignmentQueries.weights."""

        def keys(layers: Tensor, heads: Tensor) -> Tensor:
            return self._pages[0][layers, audio_slot, heads][:, : self.audio_length]

        return self.alignment.weights(slot, positions, keys, length)

    def _audio_pages(self) -> Tensor:
        """Return the keys and values of all audio slots as a view. [2, layers, slots, H, S, D]"""
        length = round_up(self.audio_length, self._page_step)
        flat = self._cross_kv[:, :, : self.slots * self._heads * length * self._depth]
        if not self._is_transposed:
            return flat.unflatten(2, (self.slots, self._heads, length, self._depth))
        return flat.unflatten(2, (self.slots, self._heads, self._depth, length)).transpose(-1, -2)

    def cross_mask(self, slots: slice) -> Tensor | None:
        """Return what to add to the scores of audio slots `slots`, or None. [slots, 1, 1, audio_length]"""
        return self.audio_mask[slots, None, None, : self.audio_length] if self._has_short_audio else None

    def resize_audio(self, audio_length: int, slots: int) -> None:
        """Change the audio length. The first `slots` audio slots keep their keys and values.

        If the new length is shorter, the positions beyond the new length are lost. All later audio slots must be
        written again before they are read.
        """
        common = min(audio_length, self.audio_length)
        copies: list[list[Tensor]] = []
        for layer in range(len(self.k)):
            copies.append([buffer[:slots, :, :common].clone() for buffer in self.cross_kv(layer)])
        self.audio_length = audio_length
        self._pages = self._audio_pages()
        for layer, layer_copies in enumerate(copies):
            for buffer, copy in zip(self.cross_kv(layer), layer_copies, strict=True):
                buffer[:slots, :, :common] = copy

    def write_audio(self, slots: slice, cross_kv: Sequence[Sequence[Tensor]]) -> None:
        """Write keys and values of encoded windows to audio slots, one each. `cross_kv` has k and v of each layer.

        k and v are [n, H, S, D] for n slots.
        """
        length = cross_kv[0][0].shape[2]
        buffers = [buffer[slots] for layer in range(len(cross_kv)) for buffer in self.cross_kv(layer)]
        values = [tensor for layer_kv in cross_kv for tensor in layer_kv]
        torch._foreach_copy_([buffer[:, :, :length] for buffer in buffers], values)  # one call, one turn of the lock
        if length < self.audio_length:
            torch._foreach_zero_([buffer[:, :, length:] for buffer in buffers])
        self._has_short_audio = self._has_short_audio or length < self.audio_mask.shape[1]
        self.audio_mask[slots, :length].zero_()
        self.audio_mask[slots, length:].fill_(-torch.inf)

    def clear_text(self, slots: slice) -> None:
        """Zero all text positions of `slots`, so that nothing of the sequences before can reach the next ones."""
        self.text_kv[:, :, slots].zero_()

    def copy_text(self, source: int, target: int, text_length: int) -> None:
        """Copy the first `text_length` text positions of slot `source` to slot `target`. The others become zeros."""
        self.text_kv[:, :, target, :, :text_length].copy_(self.text_kv[:, :, source, :, :text_length])
        self.text_kv[:, :, target, :, text_length:].zero_()
        self.alignment.buffer[target, :text_length].copy_(self.alignment.buffer[source, :text_length])

    def copy_audio(self, source: int, target: int) -> None:
        """Copy audio slot `source` to audio slot `target`."""
        self._pages[:, :, target] = self._pages[:, :, source]
        self.audio_mask[target].copy_(self.audio_mask[source])

    def reorder(self, slots: Tensor, parents: Tensor, text_length: int) -> None:
        """For each i, copy the first `text_length` text positions of slot `parents[i]` to slot `slots[i]`. [n] both"""
        self.text_kv[:, :, slots, :, :text_length] = self.text_kv[:, :, parents, :, :text_length]
        self.alignment.buffer[slots, :text_length] = self.alignment.buffer[parents, :text_length]
