"""Start the sequences of prepared windows in a batch: write their audio, find their language, read their prompts.

Knows no encoder and no result.
"""

from collections.abc import Sequence

import torch

from handler.schema.window import Window
from handler.whisper.batch import Batch
from handler.whisper.kv_cache import KVCache
from handler.whisper.language_detection import language_logits
from handler.whisper.model import Decoder
from handler.whisper.preparation import PreparedWindow
from handler.whisper.sequences import DecodeTask
from handler.whisper.task_builder import TaskBuilder, can_steps_read_prompt
from handler.whisper.tokenizer import Specials


class SequenceStarter:
    """Starts sequences in one batch. With `short_context`, the audio of a batch may be shorter than a full window."""

    def __init__(
        self,
        batch: Batch,
        cache: KVCache,
        decoder: Decoder,
        task_builder: TaskBuilder,
        specials: Specials,
        short_context: bool,
    ) -> None:
        self._batch = batch
        self._cache = cache
        self._decoder = decoder
        self._task_builder = task_builder
        self._specials = specials
        self._short_context = short_context
        self._device = cache.k.device

    def start(self, prepared: Sequence[PreparedWindow]) -> None:
        """Start the sequences of prepared windows in the next free slots.

        Where steps are graphs, short prompts are read by steps, which all sequences take together. Other prompts are
        prefilled, for which the running sequences wait.
        """
        if self._short_context:
            self._batch.resize_audio(max(len(item.encoded.audio) for item in prepared))
        by_steps = [item for item in prepared if self._batch.has_graphs and can_steps_read_prompt(item.window)]
        if by_steps:
            self._write_audio(by_steps)
            self._batch.add([self._task_builder.build(item, {}, by_steps=True) for item in by_steps])
        if others := [item for item in prepared if item not in by_steps]:
            self._write_audio(others)
            languages = self._detect_languages([item.window for item in others])
            self._prefill([self._task_builder.build(*parts) for parts in zip(others, languages, strict=True)])

    def _write_audio(self, prepared: Sequence[PreparedWindow]) -> None:
        """Write the keys and values of prepared windows to the next free audio slots."""
        for audio_slot, item in enumerate(prepared, len(self._batch.tasks)):
            self._cache.write_audio(slice(audio_slot, audio_slot + 1), item.cross_kv)

    def _detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        """Return for each window the probability of each language, by language code.

        The dictionary of a window is empty if the window's parameters name a language or the model knows only English.
        The next free audio slots hold the audio of the windows. The next free slots are overwritten.
        """
        if not self._specials.multilingual or all(window.params.language for window in windows):
            return [{} for _ in windows]
        ids = self._specials
        first_slot, first_audio = len(self._batch.sequences), len(self._batch.tasks)
        slots, audio = (slice(first, first + len(windows)) for first in (first_slot, first_audio))
        logits = language_logits(self._decoder, ids, self._cache, slots, audio)
        return [
            {} if window.params.language else dict(zip(ids.languages, probabilities, strict=True))
            for window, probabilities in zip(windows, logits.softmax(-1).tolist(), strict=True)
        ]

    def _prefill(self, tasks: Sequence[DecodeTask]) -> None:
        """Add tasks to the batch, and fill the KV cache with their prompts and prefixes but for the last token of each.

        The next step runs the decoder on these last tokens, whose logits predict the first new tokens.
        """
        ids = self._specials
        slots = self._batch.add(tasks)
        sequences = self._batch.sequences[slots]
        prompts = [(*sequence.task.prompt, *sequence.hypothesis.tokens)[:-1] for sequence in sequences]
        length = max(map(len, prompts))
        if not length:
            return
        # The padding is on the right, so no token of a prompt attends to it.
        padded = [[*prompt, *[ids.eot] * (length - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded, device=self._device)  # [B, T]
        positions = torch.arange(length, device=self._device).expand_as(tokens)
        hidden = self._decoder(tokens, positions, self._cache, slots, length, self._batch.audio(slots))
        if ids.multilingual:  # the start-of-transcript token, which predicts "no speech", is then not the last one
            starts = torch.tensor([prompt.index(ids.sot) for prompt in prompts], device=self._device)
            start_hidden = hidden[torch.arange(len(prompts), device=self._device), starts]
            probabilities = self._decoder.logits(start_hidden).softmax(-1)[:, ids.no_speech]
            for sequence, probability in zip(sequences, probabilities.tolist(), strict=True):
                sequence.task.no_speech_prob = probability
        for sequence, states in zip(sequences, hidden, strict=True):
            if text := sequence.task.prefix[1:]:
                first = len(sequence.task.prompt)  # where the first timestamp is, which predicts the first of them
                logprobs = self._decoder.logprobs_of(text, states[first : first + len(text)])
                sequence.hypothesis.logprobs[1:] = logprobs
