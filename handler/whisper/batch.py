"""The running batch, in which every sequence grows by one token per step. Knows no audio, no schedule.

Tokens are chosen greedily, by sampling, or by beam search. A slot is the place of one sequence in every buffer, and an
audio slot the place of the audio of one task, which all its sequences attend to. Active sequences and tasks always
occupy the first slots, so a step works on plain slices. When one leaves, the last one moves into its slot.
Source: openai/whisper, whisper/decoding.py (GreedyDecoder).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.schema.window import Window
from handler.tokens.repetition import MIN_LOOP_TOKENS, loop_start
from handler.whisper.attention import SharedAudio
from handler.whisper.beam_search import BeamSearch, beam_groups
from handler.whisper.decoding_state import DETECTED, Beginning
from handler.whisper.host_copy import HostCopy, start_copy
from handler.whisper.kv_cache import KVCache
from handler.whisper.sampling import sample, source_of_chance
from handler.whisper.sequences import ActiveSequence, DecodeTask, Hypothesis, slots_by_task
from handler.whisper.step import CHOSEN, Step
from handler.whisper.step_graphs import StepGraphs
from handler.whisper.tokenizer import Specials

MAX_TOKENS_PER_S = 12.0  # speech has fewer, so a short window with more is checked for a loop early


class _PendingStep(NamedTuple):
    """A step that the device has begun."""

    sequences: list[ActiveSequence]  # by slot, as they were when it began
    told: HostCopy  # what `Step.advance` or `Step.greedy` returns


class Batch:
    """The sequences that are being decoded, and their buffers on the device.

    `loop_check_interval` is the number of tokens after which a sequence is checked for a loop. The step runs without
    graphs if `graphs` is None.
    """

    def __init__(
        self, step: Step, cache: KVCache, specials: Specials, loop_check_interval: int, graphs: StepGraphs | None = None
    ) -> None:
        self.cache = cache
        self.sequences: list[ActiveSequence] = []  # by slot
        self.tasks: list[DecodeTask] = []  # by audio slot
        self._audio_rows: list[int] = []  # the audio slot of each sequence, where audio is shared
        self._step = step
        self._graphs = graphs
        self._ids = specials
        self._loop_check_interval = loop_check_interval  # tokens
        self._device = cache.k.device
        self._beam_search = BeamSearch(cache, step.state, specials)
        self._pending: _PendingStep | None = None  # the step that the device is at

    @property
    def has_graphs(self) -> bool:
        """Whether greedy steps are replayed as graphs."""
        return self._graphs is not None

    def free(self) -> int:
        """Return the number of slots without a sequence."""
        return self.cache.slots - len(self.sequences)

    def add(self, tasks: Sequence[DecodeTask]) -> slice:
        """Start the sequences of `tasks`, in the order of the tasks, in the next free slots. Return these slots.

        The next free audio slots must hold the audio of the tasks.
        """
        start = len(self.sequences)
        self.tasks += tasks
        for task in tasks:
            for index in range(task.window.params.num_hypotheses):
                is_at_start = task.is_prompt_read_by_steps or task.prompt[-1] == self._ids.sot
                unread = len(task.prompt) - 1 if task.is_prompt_read_by_steps else 0
                self.sequences.append(ActiveSequence(task, source_of_chance(task, index), is_at_start, unread))
        slots = slice(start, len(self.sequences))
        self.cache.clear_text(slots)
        self._step.state.begin(slots, [_beginning(sequence.task) for sequence in self.sequences[slots]])
        self._beam_search.start(slots, tasks)
        self._locate_audio()
        return slots

    def resume_from(self, slot: int, decoded: Hypothesis) -> None:
        """Let the sequence in a slot, whose prompt is read, go on from tokens that are decoded already, if any are.

        If they run into a loop, the steps begin where one of them finds it.
        """
        sequence = self.sequences[slot]
        interval = self._loop_interval(sequence.task.window)
        for count in range(interval, len(decoded.tokens) + 1, interval):
            if loop_start(Hypothesis(decoded.tokens[:count], []).text_tokens(self._ids)) is not None:
                decoded = Hypothesis(decoded.tokens[: count - 1], decoded.logprobs[: count - 1])
                break
        if decoded.tokens:
            sequence.hypothesis, sequence.is_at_start = decoded, False
            beginning = replace(_beginning(sequence.task), decoded=decoded.tokens)
            self._step.state.begin(slice(slot, slot + 1), [beginning])

    def advance(self) -> None:
        """Decode the next token of every sequence, or read the next one of its prompt.

        With graphs, the device is a step ahead: it begins the next one before the host looks at the tokens of this one.
        A sequence that ends is one step longer on the device, which nobody reads.
        """
        if self._pending is None:
            if self._needs_logits():
                self._extend(self._logits(len(self.sequences)))
            else:
                self._start_step()
        self._finish_step()
        if self._graphs is not None and not self._needs_logits() and not all(map(self._is_finished, self.sequences)):
            self._start_step()

    def _start_step(self) -> None:
        """Start a step that chooses the likeliest token of each sequence."""
        count = len(self.sequences)
        if self._graphs is not None:
            told = self._graphs.advance(count)
        else:
            told = self._step.greedy(count, self._text_length())
        self._pending = _PendingStep(list(self.sequences), start_copy(told))

    def _finish_step(self) -> None:
        """Wait for the step that was started, if there is one, and append its tokens to the sequences."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        told = pending.told()
        remaining = set(map(id, self.sequences))  # those that ended meanwhile must stay as they are
        self._learn(pending.sequences, told)
        for sequence, token, logprob in zip(pending.sequences, *told[CHOSEN].tolist(), strict=True):
            if id(sequence) in remaining:
                self._append(sequence, token, logprob)

    def _logits(self, count: int) -> Tensor:
        """Return the logits of the next token of each of `count` sequences, by a graph if there is one."""
        audio = self._shared_audio()
        logits = self._graphs.logits(count, audio) if self._graphs is not None else None
        return self._step.logits(count, self._text_length(), audio) if logits is None else logits

    def _needs_logits(self) -> bool:
        """Return whether the next step must do more than choose the likeliest token of each sequence."""
        for sequence in self.sequences:
            if sequence.chance is not None or sequence.task.beam_size or sequence.task.bias is not None:
                return True
        return self._graphs is None and any(sequence.is_at_start for sequence in self.sequences)

    def _text_length(self) -> int:
        """Return how many text positions of the KV cache the next step attends to."""
        return self.cache.length_for(max(sequence.length for sequence in self.sequences))

    def audio(self, slots: slice) -> slice | SharedAudio:
        """Return which audio the sequences in `slots` attend to. The slots must be all those of their tasks."""
        if (audio := self._shared_audio()) is None:
            return slots
        first, end = min(self._audio_rows[slots]), max(self._audio_rows[slots]) + 1
        return SharedAudio(slice(first, end), audio.rows[slots] - first, audio.lanes[slots], audio.width)

    def audio_slot(self, task: DecodeTask) -> int:
        """Return the audio slot of a task."""
        return next(slot for slot, other in enumerate(self.tasks) if other is task)

    def _shared_audio(self) -> SharedAudio | None:
        """Return which audio all sequences attend to, or None if that is the audio slot of the same number for each."""
        if len(self.tasks) == len(self.sequences):
            return None
        width = max(task.window.params.num_hypotheses for task in self.tasks)
        return self._step.shared_audio(len(self.sequences), len(self.tasks), width)

    def _locate_audio(self) -> None:
        """Write to the device which audio each sequence attends to. Slots without a sequence have an audio slot alone.

        Where each task has one sequence, the sequences are put into the order of the tasks.
        """
        row_of = {id(task): row for row, task in enumerate(self.tasks)}
        rows = self._audio_rows = [row_of[id(sequence.task)] for sequence in self.sequences]
        if len(self.tasks) == len(rows):
            self._permute(sorted(range(len(rows)), key=rows.__getitem__))
            return
        lanes, seen = [0] * self.cache.slots, [0] * len(self.tasks)
        for slot, row in enumerate(rows):
            lanes[slot] = seen[row]
            seen[row] += 1
        located = torch.tensor([[*rows, *range(len(rows), self.cache.slots)], lanes], device=self._device)
        self._step.audio_rows.copy_(located[0])
        self._step.audio_lanes.copy_(located[1])

    def _permute(self, order: Sequence[int]) -> None:
        """Move the sequence in slot order[i] to slot i, for each i."""
        if list(order) == list(range(len(order))):
            return
        slots, sources = torch.tensor([[*range(len(order))], [*order]], device=self._device)
        self.cache.reorder(slots, sources, max(sequence.length for sequence in self.sequences))
        self._step.state.reorder(slots, sources)
        self._beam_search.scores[slots] = self._beam_search.scores[sources]
        self.sequences = [self.sequences[source] for source in order]

    def resize_audio(self, positions: int) -> None:
        """Resize the cross-attention cache so that windows of `positions` audio positions fit.

        Space for the windows in the batch is kept. The cache shrinks only if at least a third of the length is unused.
        """
        needed = max([positions, *(task.audio_positions for task in self.tasks)])
        if needed > self.cache.audio_length or needed <= self.cache.audio_length * 2 // 3:
            self.cache.resize_audio(needed, len(self.tasks))

    def _extend(self, logits: Tensor) -> None:
        """Choose the next token of each sequence from logits [B, n_vocab], and append it to the sequence.

        All values are copied to the host at once.
        """
        sequences = self.sequences
        slots = slice(0, len(sequences))
        evidence = None
        if any(sequence.is_at_start or sequence.unread for sequence in sequences):
            evidence = self._step.evidence(logits)  # read before the rules suppress the tokens
        choice = self._step.choose(logits, slots, [sequence.task.bias for sequence in sequences])
        sample(logits, choice, sequences, self._ids)
        groups = beam_groups(sequences)
        candidates = [self._beam_search.step(logits, choice, sequences, group).flatten() for group in groups]
        told = self._step.append(choice, slots, evidence)
        values = torch.cat((told.flatten(), *candidates)).cpu()
        told_on_host = values[: told.numel()].view(told.shape).numpy()
        candidate_values = iter(values[told.numel() :].tolist())
        self._learn(sequences, told_on_host)
        for group in groups:
            for beam_slots in group:
                self._beam_search.extend([sequences[slot] for slot in beam_slots], candidate_values)
        for sequence, token, logprob in zip(sequences, *told_on_host[CHOSEN].tolist(), strict=True):
            if not sequence.task.beam_size:
                self._append(sequence, token, logprob)

    def _learn(self, sequences: Sequence[ActiveSequence], told: NDArray[np.float32]) -> None:
        """Take from what a step has told what is known after the start of the transcript: speech or none, language."""
        languages = self._ids.languages
        for column, sequence in enumerate(sequences):
            if not sequence.is_at_start:
                continue
            sequence.is_at_start = False
            evidence = told[CHOSEN.stop :, column]
            task = sequence.task
            task.no_speech_prob = float(evidence[-1])
            if task.language is None:
                probabilities = evidence[: len(languages)]
                best = int(probabilities.argmax())  # as on the device
                probabilities = probabilities / max(float(probabilities.sum()), 1e-30)
                task.language_probabilities = dict(zip(languages, probabilities.tolist(), strict=True))
                task.language = languages[best]
                detected = self._ids.language_id(task.language)
                task.prompt = tuple(detected if token == DETECTED else token for token in task.prompt)

    @staticmethod
    def _append(sequence: ActiveSequence, token: float, logprob: float) -> None:
        """Append a token to a sequence, unless the step has read a token of the prompt."""
        if sequence.unread:
            sequence.unread -= 1
        else:
            sequence.hypothesis.append(int(token), logprob)

    def collect_finished(self) -> list[tuple[int, DecodeTask]]:
        """Return (slot, task) for each finished task. The slot still holds the keys and values of the task's audio.

        Sequences that have ended in any other slot are removed from the batch. The caller must pass the returned slots
        to `remove` once the results have been built.
        """
        tasks: list[DecodeTask] = []
        released: list[int] = []
        for slots in slots_by_task(self.sequences):
            task = self.sequences[slots[0]].task
            ended = self._ended(task, slots)
            # A beam search that stops early, at a full context or in loops, counts its unfinished hypotheses.
            if not task.beam_size or len(task.finished) < task.max_candidates:
                task.finished += [self.sequences[slot].hypothesis for slot in ended]
            if len(ended) == len(slots):
                tasks.append(task)
                released += slots[1:]
            else:
                released += ended
        self.remove(released)
        task_slots = {id(sequence.task): slot for slot, sequence in enumerate(self.sequences)}
        return [(task_slots[id(task)], task) for task in tasks]

    def _ended(self, task: DecodeTask, slots: Sequence[int]) -> list[int]:
        """Return which of a task's slots hold sequences that have ended. All beams of a task end at the same time."""
        ended = [slot for slot in slots if self._is_finished(self.sequences[slot])]
        if not task.beam_size:
            return ended
        return list(slots) if len(task.finished) >= task.max_candidates or len(ended) == len(slots) else []

    def _is_finished(self, sequence: ActiveSequence) -> bool:
        """Return whether a sequence has ended.

        A sequence ends at the end-of-text token, when the decoder's context is full, or when its tokens end in a loop.
        A sequence that serves only for language detection ends when the language is known.
        """
        window, hypothesis = sequence.task.window, sequence.hypothesis
        if window.params.detect_only:
            return sequence.task.language is not None
        if sequence.length >= self.cache.context:
            return True
        if not hypothesis.tokens:
            return False
        if hypothesis.tokens[-1] == self._ids.eot:
            return True
        is_checked = len(hypothesis.tokens) % self._loop_interval(window) == 0
        return is_checked and loop_start(hypothesis.text_tokens(self._ids)) is not None

    def _loop_interval(self, window: Window) -> int:
        """Return the number of tokens after which a sequence of a window is checked for a loop."""
        return min(self._loop_check_interval, MIN_LOOP_TOKENS + math.ceil(MAX_TOKENS_PER_S * window.seconds))

    def remove(self, slots: Sequence[int]) -> None:
        """Remove the sequences in `slots`, and the tasks that have none left."""
        for slot in sorted(slots, reverse=True):
            sequence = self.sequences.pop()
            source = len(self.sequences)
            if slot < source:
                self.sequences[slot] = sequence
                self.cache.copy_text(source, slot, sequence.length)
                self._step.state.move(source, slot)
                self._beam_search.scores[slot] = self._beam_search.scores[source]
        if slots:
            self._remove_tasks()
            self._locate_audio()
        if not self.sequences:
            self._pending = None  # nobody will wait for it, and it holds the windows of its sequences

    def _remove_tasks(self) -> None:
        """Remove the tasks that have no sequence left."""
        active = {id(sequence.task) for sequence in self.sequences}
        for slot in reversed(range(len(self.tasks))):
            if id(self.tasks[slot]) not in active:
                task = self.tasks.pop()
                if slot < len(self.tasks):
                    self.tasks[slot] = task
                    self.cache.copy_audio(len(self.tasks), slot)


def _beginning(task: DecodeTask) -> Beginning:
    """Return how the sequences of a task begin."""
    return Beginning(task.prompt, task.text_required_until, task.is_prompt_read_by_steps)
