"""The decoding step: one more token for each sequence, entirely on the device. Knows no window and no task.

All that a step reads and writes lies in buffers at fixed addresses, and no shape depends on their values, so a step can
be captured once and replayed. Sources: pytorch-labs/gpt-fast, generate.py; GeeeekExplorer/nano-vllm,
engine/model_runner.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import Choice, History, pick
from handler.whisper.model import Decoder
from handler.whisper.tokenizer import Specials


class Step:
    """Computes the next token of each sequence, and holds the decoding state that it depends on."""

    def __init__(self, decoder: Decoder, cache: KVCache, bias: Tensor, specials: Specials) -> None:
        self._decoder = decoder
        self._cache = cache
        self._bias = bias
        self._ids = specials
        self.history = History.empty(cache.slots, specials, bias.device)
        self.prompt_lengths = torch.zeros(cache.slots, dtype=torch.int64, device=bias.device)

    def logits(self, count: int, text_length: int) -> Tensor:
        """Return the logits of the next token of the first `count` slots. [count, n_vocab]

        `text_length` is at least the number of tokens of each of these slots.
        """
        slots = slice(0, count)
        history = self.history.rows(slots)
        # Slots without a sequence may be among them: their result is never read, but their position must be in range.
        positions = (self.prompt_lengths[slots] + history.count - 1).clamp(0, self._cache.context - 1)
        hidden = self._decoder(history.last[:, None], positions[:, None], self._cache, slots, text_length)
        return self._decoder.logits(hidden[:, 0])

    def choose(self, logits: Tensor, slots: slice, biases: Sequence[Tensor | None] = ()) -> Choice:
        """Return the likeliest allowed token of each of `slots`. The logits [B, n_vocab] are overwritten.

        `biases`, if any, has the bias [n_vocab] of each slot; None stands for the default one.
        """
        bias = self._bias
        if any(slot_bias is not None for slot_bias in biases):
            bias = torch.stack([bias if slot_bias is None else slot_bias for slot_bias in biases])
        return pick(logits, bias, self.history.rows(slots), self._ids)

    def append(self, choice: Choice, slots: slice) -> Tensor:
        """Append the chosen tokens to the history; return tokens and log-probabilities for the host. [2, B], float32"""
        self.history.rows(slots).append(choice.token, self._ids)
        return torch.stack(
            (choice.token.float(), choice.logprob)
        )  # token ids are below 2^24: float32 holds them exactly

    def greedy(self, count: int, text_length: int) -> Tensor:
        """Decode and append the likeliest token of the first `count` slots; return as `append`. [2, count]"""
        slots = slice(0, count)
        return self.append(self.choose(self.logits(count, text_length), slots), slots)
