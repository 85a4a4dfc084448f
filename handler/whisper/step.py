"""One token for every row: the part of decoding that runs on the device without a look back. Knows no window and no job.

All that a step reads and writes lies in buffers that never move, and no shape depends on what they hold, so a step can be
captured once and replayed. Source: pytorch-labs/gpt-fast, generate.py; GeeeekExplorer/nano-vllm, engine/model_runner.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.whisper.kv_cache import Cache
from handler.whisper.logit_rules import Choice, History, pick
from handler.whisper.model import Decoder
from handler.whisper.tokenizer import Specials


class Step:
    """What rows have decoded so far as far as the next token depends on it, and that token."""

    def __init__(self, decoder: Decoder, cache: Cache, bias: Tensor, specials: Specials) -> None:
        self._decoder = decoder
        self._cache = cache
        self._bias = bias
        self._ids = specials
        self.history = History.empty(cache.slots, specials, bias.device)
        self.prompt = torch.zeros(cache.slots, dtype=torch.int64, device=bias.device)  # tokens in front of the first decoded one

    def logits(self, rows: int, text: int) -> Tensor:
        """What comes behind the last token of each of the first `rows` slots, none of which holds more than `text`. [rows, n_vocab]"""
        slots = slice(0, rows)
        history = self.history.rows(slots)
        # Slots without a row may be among them: what these hold does not matter, but it has to have a place.
        positions = (self.prompt[slots] + history.count - 1).clamp(0, self._cache.context - 1)
        hidden = self._decoder(history.last[:, None], positions[:, None], self._cache, slots, text)
        return self._decoder.logits(hidden[:, 0])

    def choose(self, logits: Tensor, slots: slice, own: Sequence[Tensor | None] = ()) -> Choice:
        """The likeliest allowed token of each row of `slots`; the logits are overwritten. `own`: each row's bias, None for the usual."""
        bias = self._bias
        if any(row is not None for row in own):
            bias = torch.stack([bias if row is None else row for row in own])
        return pick(logits, bias, self.history.rows(slots), self._ids)

    def take(self, choice: Choice, slots: slice) -> Tensor:
        """Write chosen tokens down; the tokens and their log-probabilities for the host. [2, B], float32"""
        self.history.rows(slots).append(choice.token, self._ids)
        return torch.stack((choice.token.float(), choice.logprob))  # a token's id is below 2^24, so float32 holds it

    def greedy(self, rows: int, text: int) -> Tensor:
        """The likeliest next token of the first `rows` slots, written down. [2, rows]"""
        slots = slice(0, rows)
        return self.take(self.choose(self.logits(rows, text), slots), slots)
