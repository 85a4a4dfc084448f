"""Start the sequences of prepared windows in a batch: write their audio, find their language, read their prompts.

Knows no encoder and no result.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handler.schema.window import Window
from handler.whisper.batch import Batch
from handler.whisper.draft import accepted, check_draft
from handler.whisper.kv_cache import KVCache
from handler.whisper.language_detection import language_logits
from handler.whisper.model import Decoder
from handler.whisper.preparation import PreparedWindow
from handler.whisper.sequences import ActiveSequence, DecodeTask, Hypothesis
from handler.whisper.task_builder import TaskBuilder, can_steps_read_prompt
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
        self._bias = bias
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
        """Add tasks to the batch, and fill the KV cache with the prompt of each but for its last token.

        The next step runs the decoder on these last tokens, whose logits predict the first new tokens. The draft of a
        task is read together with the whole prompt, and its sequence goes on from the first token unlike the draft.
        """
        slots = self._batch.add(tasks)
        sequences = self._batch.sequences[slots]
        prompts = [
            [*task.prompt, *task.draft] if task.draft else [*task.prompt[:-1]]
            for task in (sequence.task for sequence in sequences)
        ]
        length = max(map(len, prompts))
        if not length:
            return
        # The padding is on the right, so no token of a prompt attends to it.
        padded = [[*prompt, *[self._specials.eot] * (length - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded, device=self._device)  # [B, T]
        positions = torch.arange(length, device=self._device).expand_as(tokens)
        hidden = self._decoder(tokens, positions, self._cache, slots, length, self._batch.audio(slots))
        self._find_speech(prompts, sequences, hidden)
        self._check_drafts(slots, hidden)

    def _find_speech(
        self, prompts: Sequence[Sequence[int]], sequences: Sequence[ActiveSequence], hidden: Tensor
    ) -> None:
        """Find out how likely there is no speech, where the start of the transcript was read. hidden [B, T, C]"""
        sot = self._specials.sot
        rows = [row for row, prompt in enumerate(prompts) if sot in prompt]
        if not rows:
            return
        starts = torch.tensor([prompts[row].index(sot) for row in rows], device=self._device)
        start_hidden = hidden[torch.tensor(rows, device=self._device), starts]
        probabilities = self._decoder.logits(start_hidden).softmax(-1)[:, self._specials.no_speech]
        for row, probability in zip(rows, probabilities.tolist(), strict=True):
            sequences[row].task.no_speech_prob = probability

    def _check_drafts(self, slots: slice, hidden: Tensor) -> None:
        """Let each sequence whose task has a draft go on from where the model would not have decoded it. [B, T, C]"""
        checked: list[tuple[int, DecodeTask]] = []
        choices: list[Tensor] = []
        for slot, states in zip(range(slots.start, slots.stop), hidden, strict=True):
            task = self._batch.sequences[slot].task
            if not task.draft:
                continue
            first = len(task.prompt) - 1  # a token is predicted at the position before its own
            logits = self._decoder.logits(states[first : first + len(task.draft) + 1])
            bias = self._bias if task.bias is None else task.bias
            choice = check_draft(task, logits, bias, self._specials)
            choices.append(torch.stack([choice[0].float(), choice[1]]))  # float32 holds token ids exactly
            checked.append((slot, task))
        if not checked:
            return
        tokens, logprobs = torch.cat(choices, 1).tolist()  # one copy to the host
        start = 0
        for slot, task in checked:
            chosen = [int(token) for token in tokens[start : start + len(task.draft) + 1]]
            count = accepted(task.draft, chosen, self._specials.eot)
            if count:
                self._batch.go_on(slot, Hypothesis(chosen[:count], logprobs[start : start + count]))
            start += len(chosen)
