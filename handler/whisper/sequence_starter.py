"""Start the sequences of prepared windows in a batch: write their audio, find their language, read their prompts.

Knows no encoder and no result.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from handler.schema.window import Window
from handler.whisper.batch import Batch
from handler.whisper.draft import DraftChecker
from handler.whisper.host_copy import host_tensor, to_device
from handler.whisper.kv_cache import KVCache
from handler.whisper.language_detection import language_logits
from handler.whisper.model import Decoder
from handler.whisper.preparation import PreparedWindow
from handler.whisper.sequences import ActiveSequence, DecodeTask
from handler.whisper.task_builder import TaskBuilder, can_steps_read_prompt, draft_of
from handler.whisper.tokenizer import Specials


class SequenceStarter:
    """Starts sequences in one batch, with the default bias [n_vocab] of the logits.

    With `short_context`, the audio of a batch may be shorter than a full window.
    """

    def __init__(
        self,
        batch: Batch,
        cache: KVCache,
        decoder: Decoder,
        task_builder: TaskBuilder,
        specials: Specials,
        bias: Tensor,
        short_context: bool,
    ) -> None:
        self._batch = batch
        self._cache = cache
        self._decoder = decoder
        self._task_builder = task_builder
        self._specials = specials
        self._drafts = DraftChecker(decoder, specials, bias)
        self._short_context = short_context
        self._device = cache.k.device

    def start(self, prepared: Sequence[PreparedWindow]) -> None:
        """Start the sequences of prepared windows in the next free slots.

        Where steps are graphs, short prompts are read by steps, which all sequences take together. Other prompts are
        prefilled, for which the running sequences wait; those with drafts, which are long, by themselves.
        """
        if self._short_context:
            self._batch.resize_audio(max(len(item.encoded.audio) for item in prepared))
        by_steps = [item for item in prepared if self._batch.has_graphs and can_steps_read_prompt(item.window)]
        if by_steps:
            self._write_audio(by_steps)
            self._batch.add([self._task_builder.build(item, {}, by_steps=True) for item in by_steps])
        others = [item for item in prepared if item not in by_steps]
        drafted = [item for item in others if draft_of(item.window)]
        for group in (drafted, [item for item in others if item not in drafted]):
            if group:
                self._write_audio(group)
                languages = self._detect_languages([item.window for item in group])
                self._prefill([self._task_builder.build(*parts) for parts in zip(group, languages, strict=True)])

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
        """Add tasks to the batch, and fill the KV cache with the prompt of each but for its last token.

        The next step runs the decoder on these last tokens, whose logits predict the first new tokens. If tasks have
        drafts, all of a prompt is read with the draft behind it, and the next step runs on the last token that
        `DraftChecker.check` returns, if there is any. All of the tasks have drafts, or none has.
        """
        slots = self._batch.add(tasks)
        sequences = self._batch.sequences[slots]
        has_drafts = bool(tasks[0].draft)
        texts = [
            [*task.prompt, *task.draft] if has_drafts else [*task.prompt[:-1]]
            for task in (sequence.task for sequence in sequences)
        ]
        longest = max(map(len, texts))
        if not longest:
            return
        # The padding is on the right, so no token attends to it.
        length = self._cache.length_for(longest) if has_drafts else longest
        padded = [[*text, *[self._specials.eot] * (length - len(text))] for text in texts]
        tokens = to_device(host_tensor(np.array(padded), self._device), self._device)  # [B, T]
        positions = torch.arange(length, device=self._device).expand_as(tokens)
        hidden = self._decoder(tokens, positions, self._cache, slots, length, self._batch.audio(slots))
        self._read_no_speech(sequences, texts, hidden)
        if has_drafts:
            for slot, decoded in enumerate(self._drafts.check(tasks, hidden), slots.start):
                self._batch.resume_from(slot, decoded)

    def _read_no_speech(
        self, sequences: Sequence[ActiveSequence], texts: Sequence[Sequence[int]], hidden: Tensor
    ) -> None:
        """Keep the probability of no speech of each sequence whose start of transcript was read. `hidden` [B, T, C]"""
        sot = self._specials.sot
        rows = [row for row, text in enumerate(texts) if sot in text]
        if not rows:
            return
        places = host_tensor(np.array([rows, [texts[row].index(sot) for row in rows]]), self._device)
        row, start = to_device(places, self._device)
        probabilities = self._decoder.logits(hidden[row, start]).softmax(-1)[:, self._specials.no_speech]
        for number, probability in zip(rows, probabilities.tolist(), strict=True):
            sequences[number].task.no_speech_prob = probability
