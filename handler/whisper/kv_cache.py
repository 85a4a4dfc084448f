"""What is kept of every slot while it is decoded: keys and values of its text and of what it hears. Knows no layer and no job.

B batch rows, T tokens, S audio positions, H heads, D channels of a head.
"""

import math

import torch
from torch import Tensor

from handler.whisper.dims import Dims

TEXT_STEP = 16  # tokens


class Cache:
    """Keys and values of every slot, allocated once and written by index.

    What slots hear lies packed at the length that the longest of them needs now, `audio` positions, since products over
    many slots are fast only where nothing lies between them; `fit` changes that length.
    """

    def __init__(self, dims: Dims, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        layers, self._heads = dims.n_text_layer, dims.n_text_head
        self._depth = dims.n_text_state // self._heads
        self.slots = slots
        self.context = dims.n_text_ctx
        self.audio = dims.n_audio_ctx
        # Rows may be multiplied with positions that were never written, though nothing comes of it: memory left as found could
        # hold NaN there. What `fit` leaves behind is finite, so it stays.
        self.k = torch.zeros(layers, slots, self._heads, dims.n_text_ctx, self._depth, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)
        self._heard = torch.zeros(2, layers, slots * dims.n_audio_ctx * dims.n_text_state, device=device, dtype=dtype)
        self.audio_mask = torch.zeros(slots, dims.n_audio_ctx, device=device, dtype=dtype)  # −inf behind each slot's audio

    @staticmethod
    def slot_bytes(dims: Dims, dtype: torch.dtype) -> int:
        """Memory of one slot."""
        return 2 * dims.n_text_layer * (dims.n_text_ctx + dims.n_audio_ctx) * dims.n_text_state * dtype.itemsize

    def length_for(self, tokens: int) -> int:
        """The length at which so many tokens are worked on, one of a few: for each length kernels are made, and kept."""
        return min(self.context, -(-tokens // TEXT_STEP) * TEXT_STEP)

    def heard(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of what all slots hear, as far as `audio` goes. [slots, H, audio, D] each"""
        shape = (self.slots, self._heads, self.audio, self._depth)
        count = math.prod(shape)
        return self._heard[0, layer, :count].view(shape), self._heard[1, layer, :count].view(shape)

    def resize_audio(self, audio: int, slots: int) -> None:
        """Make room for `audio` positions a slot; the first `slots` slots keep as much of what they hear."""
        kept = [[part[:slots, :, : min(audio, self.audio)].clone() for part in self.heard(layer)] for layer in range(len(self.k))]
        self.audio = audio
        for layer, parts in enumerate(kept):
            for buffer, part in zip(self.heard(layer), parts, strict=True):
                buffer[:slots, :, : part.shape[2]] = part

    def write_cross_kv(self, layer: int, slots: slice, k: Tensor, v: Tensor) -> None:
        """Give slots what a layer hears: k and v [n, H, S, D], each for as many slots in a row as `slots` has for each."""
        length = k.shape[2]
        rows = (slots.stop - slots.start) // len(k)
        for buffer, new in zip(self.heard(layer), (k, v), strict=True):
            buffer[slots, :, :length] = new if rows == 1 else new.repeat_interleave(rows, 0)
        if layer == 0:
            self.audio_mask[slots, :length] = 0.0
            self.audio_mask[slots, length:] = -torch.inf

    def move(self, source: int, target: int, text: int) -> None:
        """Copy what one slot holds, `text` positions of it and its audio, into another."""
        for buffer in (self.k, self.v):
            buffer[:, target, :, :text].copy_(buffer[:, source, :, :text])
        for layer in range(len(self.k)):
            for heard in self.heard(layer):
                heard[target].copy_(heard[source])
        self.audio_mask[target].copy_(self.audio_mask[source])

    def reorder(self, slots: Tensor, parents: Tensor, length: int) -> None:
        """Each of `slots` [n] goes on from the text of one of `parents` [n], `length` positions; both hear the same audio."""
        for buffer in (self.k, self.v):
            buffer[:, slots, :, :length] = buffer[:, parents, :, :length]
