"""The KV cache: keys and values of each slot's text and of its audio. Knows no layer and no task.

T text positions, S audio positions, H heads, D channels of a head.
"""

import math

import torch
from torch import Tensor

from handler.whisper.dims import Dims

TEXT_LENGTH_STEP = 16  # tokens


class KVCache:
    """Keys and values of every slot, allocated once and written by index.

    The cross-attention keys and values lie packed at `audio_length` positions a slot, the length that the longest slot
    needs now, since products over many slots are fast only if they lie side by side; `resize_audio` changes the length.
    """

    def __init__(self, dims: Dims, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        layers, self._heads = dims.n_text_layer, dims.n_text_head
        self._depth = dims.n_text_state // self._heads
        self.slots = slots
        self.context = dims.n_text_ctx
        self.audio_length = dims.n_audio_ctx
        # Masked positions are multiplied, too, even if they were never written: uninitialized memory could hold NaN.
        # The values that `resize_audio` leaves in the buffer are finite.
        self.k = torch.zeros(layers, slots, self._heads, dims.n_text_ctx, self._depth, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)
        cross_size = slots * dims.n_audio_ctx * dims.n_text_state
        self._cross_kv = torch.zeros(2, layers, cross_size, device=device, dtype=dtype)
        self.audio_mask = torch.zeros(
            slots, dims.n_audio_ctx, device=device, dtype=dtype
        )  # −inf after each slot's audio

    @staticmethod
    def slot_bytes(dims: Dims, dtype: torch.dtype) -> int:
        """Return the memory of one slot in bytes."""
        return 2 * dims.n_text_layer * (dims.n_text_ctx + dims.n_audio_ctx) * dims.n_text_state * dtype.itemsize

    def length_for(self, tokens: int) -> int:
        """Return the text length to attend to for so many tokens: one of a few, as each length has its own kernels."""
        return min(self.context, -(-tokens // TEXT_LENGTH_STEP) * TEXT_LENGTH_STEP)

    def cross_kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return views of the cross-attention keys and values of all slots. [slots, H, audio_length, D] each."""
        shape = (self.slots, self._heads, self.audio_length, self._depth)
        count = math.prod(shape)
        return self._cross_kv[0, layer, :count].view(shape), self._cross_kv[1, layer, :count].view(shape)

    def resize_audio(self, audio_length: int, slots: int) -> None:
        """Change the audio length; the first `slots` slots keep their keys and values, truncated if it is shorter."""
        common = min(audio_length, self.audio_length)
        copies: list[list[Tensor]] = []
        for layer in range(len(self.k)):
            copies.append([buffer[:slots, :, :common].clone() for buffer in self.cross_kv(layer)])
        self.audio_length = audio_length
        for layer, layer_copies in enumerate(copies):
            for buffer, copy in zip(self.cross_kv(layer), layer_copies, strict=True):
                buffer[:slots, :, :common] = copy

    def write_cross_kv(self, layer: int, slots: slice, k: Tensor, v: Tensor) -> None:
        """Write a layer's cross-attention keys and values of n audios to `slots`. k and v [n, H, S, D].

        The slots are divided equally: consecutive ones share an audio.
        """
        length = k.shape[2]
        repeats = (slots.stop - slots.start) // len(k)
        for buffer, values in zip(self.cross_kv(layer), (k, v), strict=True):
            buffer[slots, :, :length] = values if repeats == 1 else values.repeat_interleave(repeats, 0)
        if layer == 0:
            self.audio_mask[slots, :length] = 0.0
            self.audio_mask[slots, length:] = -torch.inf

    def copy_slot(self, source: int, target: int, text_length: int) -> None:
        """Copy the first `text_length` text positions, and the audio, of one slot to another."""
        for buffer in (self.k, self.v):
            buffer[:, target, :, :text_length].copy_(buffer[:, source, :, :text_length])
        for layer in range(len(self.k)):
            for buffer in self.cross_kv(layer):
                buffer[target].copy_(buffer[source])
        self.audio_mask[target].copy_(self.audio_mask[source])

    def reorder(self, slots: Tensor, parents: Tensor, text_length: int) -> None:
        """Replace the text of each of `slots` [n] by that of its parent in `parents` [n]; both share their audio."""
        for buffer in (self.k, self.v):
            buffer[:, slots, :, :text_length] = buffer[:, parents, :, :text_length]
