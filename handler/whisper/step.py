"""The decoding step, which adds one token to each sequence, entirely on the device. Knows no window and no task.

A step reads and writes only buffers at fixed addresses, and no tensor shape depends on the content of the buffers.
Therefore a step can be captured once as a CUDA graph and then replayed. Sources: pytorch-labs/gpt-fast, generate.py;
GeeeekExplorer/nano-vllm, engine/model_runner.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.whisper.attention import SharedAudio
from handler.whisper.decoding_state import DecodingState
from handler.whisper.kv_cache import KVCache
from handler.whisper.logit_rules import Choice, pick
from handler.whisper.model import Decoder
from handler.whisper.tokenizer import Specials

CHOSEN = slice(0, 2)  # the rows of what a step tells that hold tokens and their log-probabilities


class Step:
    """Computes the next token of each sequence, and holds the decoding state that the choice depends on."""

    def __init__(self, decoder: Decoder, cache: KVCache, bias: Tensor, specials: Specials) -> None:
        self._decoder = decoder
        self._cache = cache
        self._bias = bias
        self._ids = specials
        self.state = DecodingState(cache.slots, specials, bias.device)
        # Which audio slot each slot attends to, and its number among the slots that do; read where audio is shared.
        self.audio_rows = torch.arange(cache.slots, device=bias.device)
        self.audio_lanes = torch.zeros_like(self.audio_rows)

    def clear(self) -> None:
        """Forget all sequences: the state of every slot is as it was at first."""
        self.state.clear()
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
        state, history = self.state, self.state.history.rows(slots)
        # Some of these slots may hold no sequence. Their result is never read, but their position must be in range.
        positions = state.prompt_lengths[slots] - state.unread[slots] + history.count - 1
        positions.clamp_(0, self._cache.context - 1)
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
        return pick(logits, bias, self.state.history.rows(slots), self._ids)

    def evidence(self, logits: Tensor) -> Tensor:
        """Return what the logits [B, n_vocab] say besides the next token, if they follow the start of the transcript.

        float32 [languages + others, B]: the probability of each language token, if there are any, of some tokens of
        no interest, and last that of the token for "no speech". Must be called before `choose` overwrites the logits.
        """
        ids = self._ids
        first = ids.sot + 1 if ids.multilingual else ids.no_speech
        return logits.softmax(-1)[:, first : ids.no_speech + 1].T

    def append(self, choice: Choice, slots: slice, evidence: Tensor | None = None) -> Tensor:
        """Append the chosen tokens to the history of `slots`, and return them with their log-probabilities.

        The result is float32: token ids in row 0, log-probabilities in row 1, and then the rows of `evidence`. A single
        tensor takes a single copy to the host. Only with `evidence` may steps read prompts: a slot whose prompt is not
        read to its end gets the next token of the prompt instead of the chosen one, which then means nothing.
        """
        history = self.state.history.rows(slots)
        # float32 holds token ids exactly, because they are below 2^24.
        told = torch.stack((choice.token.float(), choice.logprob))
        if evidence is None:
            history.append(choice.token, self._ids)
            return told
        detected = choice.token
        if self._ids.multilingual:
            detected = evidence[: len(self._ids.languages)].argmax(0) + (self._ids.sot + 1)
        token, is_decoded = self.state.read_prompts(slots, choice.token, detected)
        history.append(token, self._ids, is_decoded)
        return torch.cat((told, evidence))

    def greedy(self, count: int, text_length: int) -> Tensor:
        """Append the likeliest allowed token to each of the first `count` slots. Return the result of `append`.

        All prompts must be read.
        """
        slots = slice(0, count)
        return self.append(self.choose(self.logits(count, text_length), slots), slots)

    def advance(self, count: int, text_length: int) -> Tensor:
        """Read the next token of a prompt, or append the likeliest allowed token, for each of the first `count` slots.

        Return the result of `append`, with evidence.
        """
        slots = slice(0, count)
        logits = self.logits(count, text_length)
        evidence = self.evidence(logits)
        return self.append(self.choose(logits, slots), slots, evidence)
