"""The queries of the alignment heads, kept as the decoder makes them. Knows no task and no word.

In shapes, B is the number of sequences, T of text positions, S of audio positions, H of heads, and D of channels of a
head.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

Heads = Sequence[tuple[int, int]]  # (layer, head) pairs
HEADS_TOGETHER = 32  # whose attention is computed at a time, so that it takes little memory


class AlignmentQueries:
    """The cross-attention queries of the alignment heads, for each slot of the KV cache and each text position.

    With them, where a text's tokens attend to is known when the text is finished, without running the decoder again.
    """

    def __init__(self, heads: Heads, slots: int, context: int, depth: int, device: torch.device, dtype: torch.dtype):
        self._layers: dict[int, tuple[Tensor, slice]] = {}  # heads on the device, and their places in the buffer
        located = torch.zeros(2, len(heads), dtype=torch.int64, device=device)
        if heads:
            located.copy_(torch.tensor(sorted(heads)).T)
        self._layer_of_head, self._heads = located
        start = 0
        for layer, group in groupby(sorted(heads), lambda pair: pair[0]):
            indices = [head for _, head in group]
            # A copy to the device at each step would hold up the device and the host.
            self._layers[layer] = torch.tensor(indices, device=device), slice(start, start + len(indices))
            start += len(indices)
        self.buffer = torch.zeros(slots, context, start, depth, device=device, dtype=dtype)
        self.num_layers = max(self._layers, default=-1) + 1  # up to the last layer that has an alignment head

    def keep(self, layer: int, slots: slice, rows: Tensor, positions: Tensor, q: Tensor) -> None:
        """Keep the queries of a layer's alignment heads, if the layer has any.

        q is [B, H, T, D] for B `slots`; `positions` [B, T] are text positions, and `rows` [B, 1] numbers from 0 to
        B − 1.
        """
        if (part := self._layers.get(layer)) is not None:
            heads, places = part
            self.buffer[slots, :, places][rows, positions] = q[:, heads].transpose(1, 2)

    def weights(self, slot: int, positions: Tensor, keys: Callable[[Tensor, Tensor], Tensor], length: int) -> Tensor:
        """Return the attention of a slot's text `positions` [T], averaged over all heads. float32 [T, length]

        `keys` returns the keys of the audio for n layers and their heads, two tensors [n], as [n, S, D]. Only the first
        `length` audio positions count: each row of the result sums to one over them.
        """
        queries = self.buffer[slot, positions].transpose(0, 1)  # [heads, T, D]
        sums: list[Tensor] = []
        for start in range(0, len(queries), HEADS_TOGETHER):
            some = slice(start, start + HEADS_TOGETHER)
            # The product covers all S positions, because kernels are set up for each length and S takes fewer values.
            scores = queries[some] @ keys(self._layer_of_head[some], self._heads[some]).transpose(1, 2)  # [n, T, S]
            sums.append(scores[..., :length].softmax(-1, dtype=torch.float32).sum(0))
        return sum(sums[1:], sums[0]) / len(queries)
