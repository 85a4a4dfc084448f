"""The decoding step, which adds one token to each sequence, entirely on the device. Knows no window and no task.

A step reads and writes only buffers at fixed addresses, and no tensor shape depends on the content of the buffers.
Therefore a step can be captured once as a CUDA graph and then replayed. Sources: pytorch-labs/gpt-fast, generate.py;
GeeeekExplorer/nano-vllm, engine/model_runner.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.whisper.attention import SharedAudio
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import Choice, History, pick
from handler.whisper.model import Decoder
from handler.whisper.tokenizer import Specials


class Step:
    """Computes the next token of each sequence, and holds the decoding state that the choice depends on."""

    def __init__(self, decoder: Decoder, cache: KVCache, bias: Tensor, specials: Specials) -> None:
        self._decoder = decoder
        self._cache = cache
        self._bias = bias
        self._ids = specials
        self.history = History.empty(cache.slots, specials, bias.device)
        self.prompt_lengths = torch.zeros(cache.slots, dtype=torch.int64, device=bias.device)
        # Which audio slot each slot attends to, and its number among the slots that do; read where audio is shared.
        self.audio_rows = torch.arange(cache.slots, device=bias.device)
        self.audio_lanes = torch.zeros_like(self.audio_rows)

    def clear(self) -> None:
        """Forget all sequences: the state of every slot is as it was at first."""
        empty = History.empty(self._cache.slots, self._ids, self._bias.device)
        for buffer, value in zip(self.history.fields(), empty.fields(), strict=True):
            buffer.copy_(value)
        self.prompt_lengths.zero_()
        self._cache.clear_text(slice(0, self._cache.slots))

    def shared_audio(self, count: int, num_audio: int, width: int) -> SharedAudio:
        """Return which audio the first `count` slots attend to: the first `num_audio` audio slots, `width` each."""
        slots = slice(0, count)
        return SharedAudio(slice(0, num_audio), self.audio_rows[slots], self.audio_lanes[slots], width)

    def logits(self, count: int, text_length: int, audio: SharedAudio | None = None) -> Tensor:
        """Return the logits of the next token for each of the first `count` slots. [count, n_vocab]

        Attention reads the first `text_length` text positions of the KV cache, so `text_length` must be at least the
        number of tokens of each of these slots, prompt included. Without `audio`, each slot attends to the audio slot
        of the same number.
        """
        slots = slice(0, count)
        history = self.history.rows(slots)
        # Some of these slots may hold no sequence. Their result is never read, but their position must be in range.
        positions = (self.prompt_lengths[slots] + history.count - 1).clamp(0, self._cache.context - 1)
        hidden = self._decoder(
            history.last[:, None], positions[:, None], self._cache, slots, text_length, audio or slots
        )
        return self._decoder.logits(hidden[:, 0])

    def choose(self, logits: Tensor, slots: slice, biases: Sequence[Tensor | None] = ()) -> Choice:
        """Return the likeliest allowed token for each of `slots`. The logits [B, n_vocab] are overwritten.

        For each slot, `biases` holds a bias [n_vocab] to add to the slot's logits, or None for the default bias. If
        `biases` is empty, every slot gets the default bias.
        """
        bias = self._bias
        if any(slot_bias is not None for slot_bias in biases):
            bias = torch.stack([bias if slot_bias is None else slot_bias for slot_bias in biases])
        return pick(logits, bias, self.history.rows(slots), self._ids)

    def append(self, choice: Choice, slots: slice) -> Tensor:
        """Append the chosen tokens to the history of `slots`, and return them with their log-probabilities.

        The result is float32 [2, B]: token ids in row 0 and log-probabilities in row 1. A single tensor takes a
        single copy to the host.
        """
        self.history.rows(slots).append(choice.token, self._ids)
        # float32 holds token ids exactly, because they are below 2^24.
        return torch.stack((choice.token.float(), choice.logprob))

    def greedy(self, count: int, text_length: int) -> Tensor:
        """Append the likeliest allowed token to each of the first `count` slots. Return the result of `append`."""
        slots = slice(0, count)
        return self.append(self.choose(self.logits(count, text_length), slots), slots)
